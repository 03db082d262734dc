"""
Which price applies to a call, and what the call costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Literal

from tokenbudget_mw.errors import UnpricedModelError
from tokenbudget_mw.values import Price, Quote, Usage

__all__ = ["MAX_MODEL_NAME", "Tariffs", "choose", "cost_pico", "upper_pico"]

MAX_MODEL_NAME = 256
"""Longest model name that is looked up, in characters; a longer one has no price."""

_CACHED_MODELS = 1024  # clients choose names: never more than these

REALTIME = "realtime"

_NEVER = 5


def choose(prices: Sequence[Price], *, at: float, purpose: str, completion_window: str | None) -> Price | None:
    """
    Choose the price that applies among *prices* of one model.

    Only prices valid at *at* count (from ``valid_from`` on, until just before ``valid_until``). The first of these that
    exists applies; of several, the one that became valid last:

    1. for this purpose and this completion window
    2. for this purpose, any window
    3. for any purpose, this window
    4. for any purpose, any window
    5. for ``realtime``, any window

    Args:
        prices: Prices of the model.

        at: When the call is priced, in epoch seconds: its batch's creation if it has one, else its own time.

        purpose: The key's purpose.

        completion_window: Completion window of the call's batch; None without one.
    """
    best: Price | None = None
    best_rank, best_since = _NEVER, 0.0
    for price in prices:
        rank = _rank(price, purpose, completion_window)
        if rank > best_rank or rank == _NEVER or not _is_valid(price, at):
            continue
        since = float("-inf") if price.valid_from is None else price.valid_from
        if rank < best_rank or since > best_since:
            best, best_rank, best_since = price, rank, since
    return best


def _rank(price: Price, purpose: str, completion_window: str | None) -> int:
    """
    Return how well *price* fits, 0 best; `_NEVER` where it is for another purpose or window.
    """
    if price.completion_window is None:
        window_rank = 0 if completion_window is None else 1
    elif price.completion_window == completion_window:
        window_rank = 0
    else:
        return _NEVER
    if price.purpose == purpose:
        return window_rank
    if price.purpose is None:
        return 2 + window_rank
    return 4 if price.purpose == REALTIME and price.completion_window is None else _NEVER


def _is_valid(price: Price, at: float) -> bool:
    begun = price.valid_from is None or price.valid_from <= at
    return begun and (price.valid_until is None or at < price.valid_until)


def cost_pico(price: Price, usage: Usage) -> int:
    """
    Return the exact cost of *usage*, in pico-dollars.

    Every token is charged once: input at the price of its class (cache read, cache write, write for an hour, else
    input), output at that of reasoning or of output. Parts that exceed their whole are cut; nothing is ever negative.

    >>> cost_pico(Price("p", "m", 10, 40, cache_read=1), Usage(100, 5, cache_read_tokens=90))
    390
    """
    total = max(usage.input_tokens, 0)
    read = _part(usage.cache_read_tokens, total)
    written = _part(usage.cache_write_tokens, total - read)
    hour = _part(usage.cache_write_1h_tokens, written)
    output = max(usage.output_tokens, 0)
    reasoning = _part(usage.reasoning_tokens, output)
    read_price, write_price, hour_price, reasoning_price = _classes(price)
    return (
        (total - read - written) * price.input
        + read * read_price
        + (written - hour) * write_price
        + hour * hour_price
        + (output - reasoning) * price.output
        + reasoning * reasoning_price
    )


def upper_pico(price: Price, input_upper: int, output_upper: int) -> int:
    """
    Return the most that a call can cost, in pico-dollars: each token at the dearest price of its side.

    A prompt may be written to a cache, which costs more than plain input; whether it is, only the response says.

    Args:
        price: The price.

        input_upper: Most input tokens.

        output_upper: Most output tokens.
    """
    read_price, write_price, hour_price, reasoning_price = _classes(price)
    dearest_input = max(price.input, read_price, write_price, hour_price)
    return max(input_upper, 0) * dearest_input + max(output_upper, 0) * max(price.output, reasoning_price)


def _classes(price: Price) -> tuple[int, int, int, int]:
    """
    Return the prices of cache read, cache write, cache write for an hour, and reasoning; each may be 0.
    """
    write = price.input if price.cache_write is None else price.cache_write
    return (
        price.input if price.cache_read is None else price.cache_read,
        write,
        write if price.cache_write_1h is None else price.cache_write_1h,
        price.output if price.reasoning is None else price.reasoning,
    )


def _part(value: int, whole: int) -> int:
    return min(value, whole) if value > 0 else 0


class Tariffs:
    """
    The prices of all models: the user's tariffs first, then the price book.

    A model is looked up in this order, and the first place with a price that applies decides: tariff of its exact name,
    tariff of its normalised name, book under its exact name, book under its normalised name. A price of 0 is a price. A
    model without one is treated as *unknown* says, never as free.

    Args:
        user_tariffs: Prices from the settings, any number a model.

        book_lookup: All prices of a name in the price book; empty where it has none.

        unknown: What a model without a price gets: ``deny`` an error, ``ceiling`` the ceiling, ``flag`` no price.

        ceiling: Price for unknown models under ``ceiling``.

        normalise: Turns a model name of a request into the name under which its maker knows it.
    """

    def __init__(
        self,
        user_tariffs: Iterable[Price],
        book_lookup: Callable[[str], tuple[Price, ...]],
        unknown: Literal["deny", "ceiling", "flag"],
        ceiling: Price,
        normalise: Callable[[str], str],
    ) -> None:
        self.unknown = unknown
        self.ceiling = ceiling
        self._tariffs = _by_model(user_tariffs)
        self._book = book_lookup
        self._normalise = normalise
        self._places = lru_cache(maxsize=_CACHED_MODELS)(self._find_places)

    def quote(
        self, model: str | None, *, at: float, purpose: str = REALTIME, completion_window: str | None = None
    ) -> Quote:
        """
        Return the price of *model* that applies.

        Args:
            model: Model as the request or the response names it; None where neither does.

            at: When the call is priced, in epoch seconds.

            purpose: The key's purpose.

            completion_window: Completion window of the call's batch.

        Raises:
            UnpricedModelError: No price is known, and such models are denied.
        """
        if model and len(model) <= MAX_MODEL_NAME:
            for prices in self._places(model):
                price = choose(prices, at=at, purpose=purpose, completion_window=completion_window)
                if price is not None:
                    return Quote(price)
        if self.unknown == "deny":
            raise UnpricedModelError(model and model[:MAX_MODEL_NAME])
        return Quote(self.ceiling, "ceiling") if self.unknown == "ceiling" else Quote(None, "unpriced")

    def _find_places(self, model: str) -> tuple[tuple[Price, ...], ...]:
        """
        Return the prices of *model* from each place that has any, in the order in which they are asked.
        """
        names = dict.fromkeys((model, self._normalise(model)))
        places = [self._tariffs.get(name, ()) for name in names] + [self._book(name) for name in names]
        return tuple(place for place in places if place)


def _by_model(prices: Iterable[Price]) -> dict[str, tuple[Price, ...]]:
    found: dict[str, tuple[Price, ...]] = {}
    for price in prices:
        found[price.model] = (*found.get(price.model, ()), price)
    return found
