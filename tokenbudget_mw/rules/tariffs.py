"""
Which price applies to a call, and what the call costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Literal

from tokenbudget_mw.errors import UnpricedModelError
from tokenbudget_mw.values import Price, Quote, Usage

__all__ = ["MAX_MODEL_NAME", "Tariffs", "choose", "cost_pico", "is_cut", "tier_of", "upper_pico"]

MAX_MODEL_NAME = 256
"""Longest model name that is looked up, in characters; a longer one has no price."""

_CACHED_MODELS = 1024  # clients choose names: never more than these

REALTIME = "realtime"

_NEVER = 5
_SHORTEST = (0,)
_ALWAYS = float("inf")


def choose(
    prices: Sequence[Price],
    *,
    at: float,
    purpose: str,
    completion_window: str | None,
    input_tokens: int = 0,
    service_tier: str | None = None,
) -> Price | None:
    """
    Choose the price that applies among *prices* of one model.

    Only prices valid at *at* count (from ``valid_from`` on, until just before ``valid_until``), and of those for a tier or
    for long prompts only the ones that this call has reached. The first of these that exists applies:

    1. for this purpose and this completion window
    2. for this purpose, any window
    3. for any purpose, this window
    4. for any purpose, any window
    5. for ``realtime``, any window

    Of several, the one for this service tier comes before those for any; then the one for the longest prompts; then the one
    that became valid last.

    Args:
        prices: Prices of the model.

        at: When the call is priced, in epoch seconds: its batch's creation if it has one, else its own time.

        purpose: The key's purpose.

        completion_window: Completion window of the call's batch; None without one.

        input_tokens: Input tokens of the call.

        service_tier: Tier that served it.
    """
    return _choose(prices, at, purpose, completion_window, input_tokens, service_tier)


def _choose(  # noqa: PLR0917 - called several times a request: names would cost more than they tell
    prices: Sequence[Price], at: float, purpose: str, window: str | None, input_tokens: int, tier: str | None
) -> Price | None:
    best: Price | None = None
    best_place: tuple[int, bool, int, float] | None = None
    for price in prices:
        if price.above_input and input_tokens <= price.above_input:
            continue
        if price.service_tier is not None and price.service_tier != tier:
            continue
        begins, ends = price.valid_from, price.valid_until
        if (begins is not None and begins > at) or (ends is not None and at >= ends):
            continue
        rank = _rank(price, purpose, window)
        if rank == _NEVER:
            continue
        place = (rank, price.service_tier is None, -price.above_input, _ALWAYS if begins is None else -begins)
        if best_place is None or place < best_place:
            best, best_place = price, place
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


def cost_pico(price: Price, usage: Usage) -> int:
    """
    Return the exact cost of *usage*, in pico-dollars.

    Every token is charged once: input at the price of its class (cache read, cache write, write for an hour, audio, else
    input), output at that of reasoning, audio or output. Parts that exceed their whole are cut; nothing is ever negative.

    >>> cost_pico(Price("p", "m", 10, 40, cache_read=1), Usage(100, 5, cache_read_tokens=90))
    390
    """
    total, output = usage.input_tokens, usage.output_tokens
    if total < 0 or output < 0:
        total, output = max(total, 0), max(output, 0)
    if not (
        usage.cache_read_tokens
        or usage.cache_write_tokens
        or usage.reasoning_tokens
        or usage.audio_input_tokens
        or usage.audio_output_tokens
    ):
        return total * price.input + output * price.output
    read = _part(usage.cache_read_tokens, total)
    written = _part(usage.cache_write_tokens, total - read)
    hour = _part(usage.cache_write_1h_tokens, written)
    heard = _part(usage.audio_input_tokens, total - read - written)
    reasoning = _part(usage.reasoning_tokens, output)
    spoken = _part(usage.audio_output_tokens, output - reasoning)
    read_price, write_price, hour_price, heard_price, reasoning_price, spoken_price = _classes(price)
    return (
        (total - read - written - heard) * price.input
        + read * read_price
        + (written - hour) * write_price
        + hour * hour_price
        + heard * heard_price
        + (output - reasoning - spoken) * price.output
        + reasoning * reasoning_price
        + spoken * spoken_price
    )


def is_cut(usage: Usage) -> bool:
    """
    Tell whether `cost_pico` cuts a part of *usage*: then it does not cost, together with another, what both cost.

    >>> is_cut(Usage(100, cache_read_tokens=90)), is_cut(Usage(100, cache_read_tokens=90, audio_input_tokens=50))
    (False, True)
    """
    read, written, heard = usage.cache_read_tokens, usage.cache_write_tokens, usage.audio_input_tokens
    return (
        read + written + heard > usage.input_tokens
        or usage.cache_write_1h_tokens > written
        or usage.reasoning_tokens + usage.audio_output_tokens > usage.output_tokens
    )


def upper_pico(
    price: Price, input_upper: int, output_upper: int, *, is_spoken: bool = True, long_cache: bool = True
) -> int:
    """
    Return the most that a call can cost, in pico-dollars: each token at the dearest price of its side.

    A prompt may be written to a cache, which costs more than plain input; whether it is, only the response says, but how long
    it is to last, the request does.

    >>> price = Price("p", "m", 10, 40, audio_input=90)
    >>> upper_pico(price, 100, 5), upper_pico(price, 100, 5, is_spoken=False)
    (9200, 1200)

    Args:
        price: The price.

        input_upper: Most input tokens.

        output_upper: Most output tokens.

        is_spoken: Whether any of them may be audio.

        long_cache: Whether any of them may be written to a cache for the longer lifetime.
    """
    longer, heard = price.cache_write_1h if long_cache else None, price.audio_input if is_spoken else None
    dearest_input, dearest_output = price.input, price.output
    for other in (price.cache_read, price.cache_write, longer, heard):
        if other is not None and other > dearest_input:  # max() takes longer than all of this
            dearest_input = other
    for other in (price.reasoning, price.audio_output if is_spoken else None):
        if other is not None and other > dearest_output:
            dearest_output = other
    return max(input_upper, 0) * dearest_input + max(output_upper, 0) * dearest_output


def _classes(price: Price) -> tuple[int, int, int, int, int, int]:
    """
    Return the prices of cache read, cache write, cache write for an hour, audio in, reasoning, audio out; each may be 0.
    """
    write = price.input if price.cache_write is None else price.cache_write
    return (
        price.input if price.cache_read is None else price.cache_read,
        write,
        write if price.cache_write_1h is None else price.cache_write_1h,
        price.input if price.audio_input is None else price.audio_input,
        price.output if price.reasoning is None else price.reasoning,
        price.output if price.audio_output is None else price.audio_output,
    )


def tier_of(speed: object, geo: object) -> str | None:
    """
    Name the tier that Anthropic's *speed* and ``inference_geo`` make together; None where they cost nothing more.

    >>> tier_of("fast", "us"), tier_of("standard", "us"), tier_of(None, "global")
    ('fast-us', 'us', None)
    """
    return "-".join(name for name, value in (("fast", speed), ("us", geo)) if value == name) or None


def _part(value: int, whole: int) -> int:
    return min(value, whole) if value > 0 else 0


class Tariffs:
    """
    The prices of all models: the user's tariffs (of the settings and of the database) first, then the price book.

    A model is looked up in this order, and the first place with a price that applies decides: tariff of its exact name, of
    the model that it stands for, of that one's normalised name, of its own; then the book under the same names. Case
    decides only between tariffs that differ by nothing else. A price of 0 is a price. A model without one is treated as
    *unknown* says, never as free.

    Args:
        user_tariffs: Prices from the settings, any number a model.

        book_lookup: All prices of a name in the price book; empty where it has none.

        unknown: What a model without a price gets: ``deny`` an error, ``ceiling`` the ceiling, ``flag`` no price.

        ceiling: Price for unknown models under ``ceiling``.

        normalise: Turns a model name of a request into the name under which its maker prices it.

        original: Turns a deployment's name into that of the model that it stands for, and leaves others as they are.
    """

    def __init__(
        self,
        user_tariffs: Iterable[Price],
        book_lookup: Callable[[str], tuple[Price, ...]],
        unknown: Literal["deny", "ceiling", "flag"],
        ceiling: Price,
        normalise: Callable[[str], str],
        *,
        original: Callable[[str], str] = str,
    ) -> None:
        self.unknown = unknown
        self.ceiling = ceiling
        self._user = tuple(user_tariffs)
        self._book = book_lookup
        self._normalise = normalise
        self._original = original
        self.stored: tuple[Price, ...] = ()
        self.take_stored(())

    def take_stored(self, prices: Iterable[Price]) -> None:
        """
        Put *prices*, those of the database, beside the settings'. They take the place of what was put there before.
        """
        self.stored = tuple(prices)
        # of two that are equally fit the first one holds, so those of the database come first
        tariffs = _by_model((*self.stored, *self._user))
        # one assignment: a thread that quotes meanwhile sees the old prices or the new ones
        places = lru_cache(maxsize=_CACHED_MODELS)(partial(self._find_places, tariffs))
        self._places = places
        self._starts = lru_cache(maxsize=_CACHED_MODELS)(lambda model: _starts(places(model)))
        self._audio = lru_cache(maxsize=_CACHED_MODELS)(lambda model: _prices_audio(places(model)))
        self._long_cache = lru_cache(maxsize=_CACHED_MODELS)(lambda model: _prices_long_cache(places(model)))

    def quote(
        self,
        model: str | None,
        *,
        at: float,
        purpose: str = REALTIME,
        completion_window: str | None = None,
        input_tokens: int = 0,
        service_tier: str | None = None,
    ) -> Quote:
        """
        Return the price of *model* that applies.

        Args:
            model: Model as the request or the response names it; None where neither does.

            at: When the call is priced, in epoch seconds.

            purpose: The key's purpose.

            completion_window: Completion window of the call's batch.

            input_tokens: Input tokens of the call.

            service_tier: Tier that served it.

        Raises:
            UnpricedModelError: No price is known, and such models are denied.
        """
        if model and len(model) <= MAX_MODEL_NAME:
            for prices in self._places_of(model):
                price = _choose(prices, at, purpose, completion_window, input_tokens, service_tier)
                if price is not None:
                    return Quote(price)
        if self.unknown == "deny":
            raise UnpricedModelError(model and model[:MAX_MODEL_NAME])
        return Quote(self.ceiling, "ceiling") if self.unknown == "ceiling" else Quote(None, "unpriced")

    def lengths(self, model: str | None, most: int) -> Sequence[int]:
        """
        Return prompt lengths of up to *most* input tokens that together meet every price for long prompts of *model*.
        """
        if not model or len(model) > MAX_MODEL_NAME:
            return _SHORTEST
        starts = self._starts(model)
        return [0, *[start + 1 for start in starts if start < most]] if starts else _SHORTEST

    def prices_audio(self, model: str | None) -> bool:
        """
        Tell whether audio that *model* hears or says has a price of its own.
        """
        return model is not None and len(model) <= MAX_MODEL_NAME and self._audio(model)

    def prices_long_cache(self, model: str | None) -> bool:
        """
        Tell whether a cache of the longer lifetime has a price of its own for *model*, or for models that have no price.
        """
        if self.ceiling.cache_write_1h is not None:
            return True
        return model is not None and len(model) <= MAX_MODEL_NAME and self._long_cache(model)

    def warm(self) -> None:
        """
        Do nothing: all prices are here.
        """

    def close(self) -> None:
        """
        Do nothing: there is nothing to give back here.
        """

    def _places_of(self, model: str) -> tuple[tuple[Price, ...], ...]:
        return self._places(model)

    def _find_places(self, tariffs: Mapping[str, tuple[Price, ...]], model: str) -> tuple[tuple[Price, ...], ...]:
        """
        Return the prices of *model* from each place that has any, in the order in which they are asked.
        """
        meant = self._original(model)
        names = dict.fromkeys((model, meant, self._normalise(meant), self._normalise(model)))
        places = [tariffs.get(name) or tariffs.get(name.lower(), ()) for name in names]
        places += [self._book(name) for name in names]
        return tuple(place for place in places if place)


def _starts(places: Iterable[Iterable[Price]]) -> tuple[int, ...]:
    """
    Return the prompt lengths above which other prices hold, the shortest first.
    """
    return tuple(sorted({price.above_input for prices in places for price in prices if price.above_input}))


def _prices_audio(places: Iterable[Iterable[Price]]) -> bool:
    return any(price.audio_input is not None or price.audio_output is not None for prices in places for price in prices)


def _prices_long_cache(places: Iterable[Iterable[Price]]) -> bool:
    return any(price.cache_write_1h is not None for prices in places for price in prices)


def _by_model(prices: Iterable[Price]) -> dict[str, tuple[Price, ...]]:
    found: dict[str, tuple[Price, ...]] = {}
    for price in prices:
        found[price.model] = (*found.get(price.model, ()), price)
    for name in list(found):
        found.setdefault(name.lower(), found[name])
    return found
