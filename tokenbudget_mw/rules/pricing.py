"""
What a call may cost, before it runs, and what it did cost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from tokenbudget_mw.errors import UnpricedModelError
from tokenbudget_mw.rules.tariffs import cost_pico, upper_pico
from tokenbudget_mw.units import nano_from_pico_ceil
from tokenbudget_mw.values import ONE_REQUEST, Cost, Quote, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokenbudget_mw.rules.tariffs import Tariffs
    from tokenbudget_mw.values import Price, Prompt, Subject

__all__ = ["Moment", "Priced", "created_of", "estimate", "moment_of", "price_usage"]

_NO_TIER = (None,)

LAST_MOMENT = 253_402_300_800.0
"""The year 10,000, which no database's timestamps reach."""


class Moment(msgspec.Struct, frozen=True, gc=False):
    """
    What a tariff depends on, beside the model.

    Attributes:
        at: When the price is taken, in epoch seconds: a batch's creation, else the request.

        purpose: What the key is for.

        completion_window: Batch completion window.
    """

    at: float
    purpose: str = "realtime"
    completion_window: str | None = None


class Priced(msgspec.Struct, frozen=True, gc=False):
    """
    A cost, and the price it comes from.

    Attributes:
        cost_pico: Cost in pico-dollars.

        price_id: Id of the price; None where there was none.

        kind: As in `Quote`.
    """

    cost_pico: int = 0
    price_id: str | None = None
    kind: str = "known"


def estimate(tariffs: Tariffs, prompt: Prompt | None, moment: Moment, *, output_reserve: int) -> tuple[Cost, Cost]:
    """
    Return the most and the least that a call may cost.

    Args:
        tariffs: Prices.

        prompt: What is asked; None where the handler will report its usage.

        moment: When, and for what.

        output_reserve: Output tokens to hold for each answer where the request names no maximum.

    Raises:
        UnpricedModelError: The model has no price, and the settings deny such calls.
    """
    if prompt is None:
        return ONE_REQUEST, ONE_REQUEST
    most_input = prompt.input.upper
    most_output = output_reserve * prompt.choices if prompt.max_output is None else prompt.max_output
    sure_input = prompt.input.estimate if prompt.input.exact else 0
    most_pico, sure_pico = 0, None
    for price in _possible(tariffs, prompt, moment, most_input):
        upper = upper_pico(price, most_input, most_output, is_spoken=prompt.is_spoken, long_cache=prompt.long_cache)
        most_pico = max(most_pico, upper)
        cheapest = price.input if price.cache_read is None else min(price.input, price.cache_read)
        sure_pico = cheapest * sure_input if sure_pico is None else min(sure_pico, cheapest * sure_input)
    return (
        Cost(1, most_input, most_output, nano_from_pico_ceil(most_pico), 1),
        Cost(1, sure_input, 0, nano_from_pico_ceil(sure_pico or 0), 1),
    )


def _possible(tariffs: Tariffs, prompt: Prompt, moment: Moment, most_input: int) -> list[Price]:
    """
    Return the prices of which one will apply: by how long the prompt turns out, and whether the tier it asks for serves it.
    """
    found = []
    for length in tariffs.lengths(prompt.model, most_input):
        for tier in _NO_TIER if prompt.service_tier is None else (None, prompt.service_tier):
            price = tariffs.quote(
                prompt.model,
                at=moment.at,
                purpose=moment.purpose,
                completion_window=moment.completion_window,
                input_tokens=length,
                service_tier=tier,
            ).price
            if price is not None:
                found.append(price)
    return found


def price_usage(tariffs: Tariffs, usage: Usage, moment: Moment, *, asked: str | None) -> Priced:
    """
    Price what a call used: by the model that answered, else by the one *asked* for. Never fails: the call has happened.

    Under ``unknown_price: deny`` a call that ran on a model without a price is charged at the ceiling.
    """
    if not (usage.input_tokens or usage.output_tokens):
        return Priced()
    quote = _first_quote(tariffs, (usage.model, asked), moment, usage)
    if quote.price is None:
        return Priced(kind=quote.kind)
    return Priced(cost_pico(quote.price, usage), quote.price.id, quote.kind)


def _first_quote(tariffs: Tariffs, models: tuple[str | None, ...], moment: Moment, usage: Usage) -> Quote:
    """
    Return the price of the first of *models* that has one, else what the settings say of those that have none.
    """
    found: Quote | None = None
    for model in models:
        quote = None if model is None else _quote(tariffs, model, moment, usage)
        if quote is not None and quote.kind == "known":
            return quote
        found = found or quote
    return found or _quote(tariffs, None, moment, usage) or Quote(tariffs.ceiling, "ceiling")


def _quote(tariffs: Tariffs, model: str | None, moment: Moment, usage: Usage) -> Quote | None:
    try:
        return tariffs.quote(
            model,
            at=moment.at,
            purpose=moment.purpose,
            completion_window=moment.completion_window,
            input_tokens=usage.input_tokens,
            service_tier=usage.service_tier,
        )
    except UnpricedModelError:
        return None


def moment_of(subject: Subject, prompt: Prompt | None, now: float) -> Moment:
    """
    Say when and for what a call is priced: at its batch's creation, if it belongs to a batch.

    The batch's fields come from the client, so they count for keys of purpose ``batch`` only: nobody else can claim a
    batch's price.
    """
    if prompt is None or subject.purpose != "batch":
        return Moment(now, subject.purpose)
    created = created_of(prompt.batch)
    at = now if created is None else min(created, now)
    return Moment(at, subject.purpose, prompt.batch.get("completion_window"))


def created_of(batch: Mapping[str, str]) -> float | None:
    """
    Return when a batch was created, in epoch seconds; None where its fields do not say, or make no sense.

    >>> created_of({"batch_created_at": "1700000000"}), created_of({"batch_created_at": "nan"})
    (1700000000.0, None)
    """
    try:
        created = float(batch.get("batch_created_at", "nan"))
    except ValueError:
        return None
    return created if 0 <= created < LAST_MOMENT else None
