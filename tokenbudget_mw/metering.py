"""
The meter: tokens of requests and responses, by the rooms that know how.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING

from msgspec.structs import replace

from tokenbudget_mw import tapping
from tokenbudget_mw.chance import chance
from tokenbudget_mw.counting import payloads
from tokenbudget_mw.counting.aside import Aside
from tokenbudget_mw.counting.learning import RatioEstimator
from tokenbudget_mw.counting.payloads.lifetimes import asks_long_cache
from tokenbudget_mw.counting.payloads.spoken import is_spoken
from tokenbudget_mw.rules.doubt import as_estimated

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenbudget_mw.counting.payloads import Parsed
    from tokenbudget_mw.counting.tokenizers import Tokenizers
    from tokenbudget_mw.tapping.base import CountText, Tap
    from tokenbudget_mw.values import Prompt, Route, TokenCount, Usage

__all__ = ["TokenMeter"]

MOST_DECIDING = 8
"""Most requests that wait for an exact count; a prompt of a megabyte takes a tenth of a second or two."""


class TokenMeter:
    """
    Counts prompts and reads responses. See `core.Meter`.

    Args:
        tokenizers: What counts.

        draw: Gives a number from 0 to 1, for routes that count a sample.

        prices_audio: Whether a model's audio has a price of its own; see `Prompt.is_spoken`.

        prices_long_cache: Whether a model's longer cache has one; see `Prompt.long_cache`.
    """

    def __init__(
        self,
        tokenizers: Tokenizers,
        draw: Callable[[], float] = chance.random,
        prices_audio: Callable[[str | None], bool] = lambda _: False,
        prices_long_cache: Callable[[str | None], bool] = lambda _: True,
    ) -> None:
        self._tokenizers = tokenizers
        self._prices_audio = prices_audio
        self._prices_long_cache = prices_long_cache
        self._draw = draw
        self._ratios: dict[str, RatioEstimator] = {}
        self._aside = Aside()
        self._deciding = Aside(MOST_DECIDING, "tokenbudget-deciding")

    def parse(self, route: Route, body: bytes, path: str = "") -> Parsed:
        """
        Do the first half of `read_prompt`.
        """
        return payloads.parse(route.format or "", body, path)

    def read_prompt(self, route: Route, body: bytes, path: str = "", parsed: Parsed | None = None) -> Prompt:
        """
        Read a whole request body. That of an ``async`` route is admitted on the estimate, and bounded by nothing else.
        """
        ratio = self._ratio(route) if route.count in ("sample", "async") else None
        prompt = payloads.read(
            route.format or "",
            body,
            path=path,
            parsed=parsed,
            tokenizers=self._tokenizers,
            count=route.count,
            sample=route.sample,
            draw=self._draw() if route.count == "sample" else 0.0,
            ratio=ratio,
        )
        if self._prices_audio(prompt.model) and is_spoken(body):
            prompt = replace(prompt, is_spoken=True)
        if self._prices_long_cache(prompt.model) and not asks_long_cache(body):
            prompt = replace(prompt, long_cache=False)
        return as_estimated(prompt) if route.count == "async" else prompt

    def recount(
        self, route: Route, body: bytes, path: str = "", *, is_cancelled: Callable[[], bool] = lambda: False
    ) -> TokenCount:
        """
        Count a whole request body exactly, however long that takes: for a thread, not for an event loop.

        Raises:
            CountCancelledError: *is_cancelled* said so.
        """
        prompt = payloads.read(
            route.format or "",
            body,
            path=path,
            tokenizers=self._tokenizers.exactly(is_cancelled),
            count="sample",
            ratio=self._ratio(route),
        )
        return prompt.input

    def recount_aside(
        self, route: Route, body: bytes, path: str = "", *, is_cancelled: Callable[[], bool] = lambda: False
    ) -> Future[TokenCount] | None:
        """
        The same in a thread. Return None where too many wait: this prompt's estimate stands.

        Nobody waits for the counts of ``async`` routes, so they have a thread of their own, behind which no other waits.
        """
        found: Future[TokenCount] = Future()

        def work() -> None:
            if found.set_running_or_notify_cancel():
                try:
                    found.set_result(self.recount(route, body, path, is_cancelled=is_cancelled))
                except Exception as exc:  # noqa: BLE001 - whoever asked is told
                    found.set_exception(exc)

        aside = self._aside if route.count == "async" else self._deciding
        return found if aside.submit(work) else None

    def close(self) -> None:
        """
        Let go of the threads that count aside.
        """
        self._aside.close()
        self._deciding.close()

    def bound_prompt(self, route: Route, content_length: int | None, head: bytes, path: str = "") -> Prompt:
        """
        Bound a request body that is too long to read, by its length.
        """
        prompt = payloads.bound(content_length, head, format=route.format or "", path=path)
        return replace(prompt, is_spoken=True) if self._prices_audio(prompt.model) else prompt

    def count(self, text: str, model: str | None) -> TokenCount:
        """
        Count a text's tokens for *model*.
        """
        return self._tokenizers.count(text, model)

    def learn(self, model: str | None, estimate: TokenCount, actual: int) -> None:
        """
        Learn that a prompt for *model*, counted as *estimate*, had *actual* input tokens by the provider's usage.
        """
        self._tokenizers.learn(model, estimate, actual)

    def open_tap(
        self,
        format: str,  # noqa: A002 - the word that routes use
        content_type: str,
        content_encoding: str,
        model: str | None,
        *,
        is_counted: bool = True,
    ) -> Tap | None:
        """
        Return a reader of a response; None where it cannot be read. Without *is_counted* it tokenises nothing.
        """
        return tapping.open_tap(
            format,
            content_type=content_type,
            content_encoding=content_encoding,
            count_text=self._counter_of(model) if is_counted else None,
        )

    def read_response(self, response: object) -> Usage:
        """
        Read the usage out of any provider's response object or dict.
        """
        return tapping.read_response(response)

    def _ratio(self, route: Route) -> RatioEstimator:
        # one a route of the settings, so their number is bounded
        return self._ratios.setdefault(route.path, RatioEstimator())

    def _counter_of(self, model: str | None) -> CountText:
        return lambda text: self._tokenizers.count(text, model).estimate
