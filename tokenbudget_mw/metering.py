"""
The meter: tokens of requests and responses, by the rooms that know how.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from tokenbudget_mw import tapping
from tokenbudget_mw.counting import payloads
from tokenbudget_mw.counting.learning import RatioEstimator

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenbudget_mw.counting.tokenizers import Tokenizers
    from tokenbudget_mw.tapping.base import CountText, Tap
    from tokenbudget_mw.values import Prompt, Route, TokenCount, Usage

__all__ = ["TokenMeter"]


class TokenMeter:
    """
    Counts prompts and reads responses. See `core.Meter`.

    Args:
        tokenizers: What counts.

        draw: Gives a number from 0 to 1, for routes that count a sample.
    """

    def __init__(self, tokenizers: Tokenizers, draw: Callable[[], float] = random.random) -> None:
        self._tokenizers = tokenizers
        self._draw = draw
        self._ratios: dict[str, RatioEstimator] = {}

    def read_prompt(self, route: Route, body: bytes, path: str = "") -> Prompt:
        """
        Read a whole request body.
        """
        has_ratio = route.count in ("sample", "async")
        return payloads.read(
            route.format or "",
            body,
            path=path,
            tokenizers=self._tokenizers,
            count=route.count,
            sample=route.sample,
            draw=self._draw() if route.count == "sample" else 0.0,
            # one a route of the settings, so their number is bounded
            ratio=self._ratios.setdefault(route.path, RatioEstimator()) if has_ratio else None,
        )

    def bound_prompt(self, route: Route, content_length: int | None, head: bytes, path: str = "") -> Prompt:
        """
        Bound a request body that is too long to read, by its length.
        """
        return payloads.bound(content_length, head, format=route.format or "", path=path)

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

    def open_tap(self, format: str, content_type: str, content_encoding: str, model: str | None) -> Tap | None:  # noqa: A002
        """
        Return a reader of a response; None where it cannot be read.
        """
        return tapping.open_tap(
            format,
            content_type=content_type,
            content_encoding=content_encoding,
            count_text=self._counter_of(model),
        )

    def read_response(self, response: object) -> Usage:
        """
        Read the usage out of any provider's response object or dict.
        """
        return tapping.read_response(response)

    def _counter_of(self, model: str | None) -> CountText:
        return lambda text: self._tokenizers.count(text, model).estimate
