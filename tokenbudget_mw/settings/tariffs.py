"""
The user's own prices: from what a provider's price page says to whole pico-dollars per token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from tokenbudget_mw.rules.pricing import LAST_MOMENT
from tokenbudget_mw.settings import reading
from tokenbudget_mw.settings.limits import to_usd
from tokenbudget_mw.settings.reading import Invalid, Problems, did_you_mean, kind_of, text
from tokenbudget_mw.units import PICO_PER_USD, exact_int, parse_decimal, parse_quantity
from tokenbudget_mw.values import PURPOSES, Price

__all__ = ["MoneyContext", "read_ceiling", "read_rates", "read_tariff", "read_tariffs"]

_CLASSES = (
    "input",
    "output",
    "cache_read",
    "cache_write",
    "cache_write_1h",
    "reasoning",
    "audio_input",
    "audio_output",
)
_CONDITIONS = ("purpose", "completion_window", "service_tier")
_KEYS = ("model", *_CLASSES, "per", "currency", "valid_from", "valid_until", "above_input", *_CONDITIONS)
_MOST_PICO = 2**63 - 1
_FIRST_MOMENT = datetime.min.replace(tzinfo=UTC).timestamp()


@dataclass(frozen=True, slots=True)
class MoneyContext:
    """
    What a price's meaning depends on, beside its text.

    Attributes:
        rates: Dollars for a unit of other currencies.

        timezone: IANA name of the zone in which dates begin.
    """

    rates: Mapping[str, Decimal]
    timezone: str = "UTC"


def read_rates(value: Any) -> Mapping[str, Decimal]:
    """
    Read the rates of other currencies: dollars for one unit.
    """
    return {code.upper(): _positive(rate) for code, rate in reading.pairs(lambda rate: rate)(value).items()}


def _positive(value: Any) -> Decimal:
    number = _decimal(value)
    if number <= 0:
        raise Invalid(f"a rate is above 0, not {value}")
    return number


def _decimal(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise Invalid(f'a number is expected, such as "2.50", not {kind_of(value)}')
    # the shortest text of a float is what its author wrote
    return parse_decimal(value.strip().removeprefix("$") if isinstance(value, str) else str(value))


def read_tariffs(value: Any, context: MoneyContext, path: str, problems: Problems) -> tuple[Price, ...]:
    """
    Read a list of prices, each under its own path.
    """
    if not isinstance(value, list | tuple):
        problems.add(path, f"a list of prices is expected, not {kind_of(value)}")
        return ()
    found: dict[str, Price] = {}
    for at, item in enumerate(value):
        with problems.at(f"{path}[{at}]"):
            price = item if isinstance(item, Price) else read_tariff(item, context)
            if price.id in found:
                raise Invalid(f"model '{price.model}' has this price twice ('{price.id}'); give them different dates")
            found[price.id] = price
    return tuple(found.values())


def read_ceiling(value: Any, context: MoneyContext) -> Price:
    """
    Read the price that unknown models are charged.
    """
    if isinstance(value, Price):
        return value
    if not isinstance(value, Mapping):
        raise Invalid(f"a price is a dict such as {{'input': '150', 'output': '600'}}, not {kind_of(value)}")
    _known_keys(value, (*_CLASSES, "per", "currency"))
    return Price(id="ceiling", model="*", **_per_token(value, context))


def read_tariff(value: Any, context: MoneyContext) -> Price:
    """
    Read one price.

    Raises:
        Invalid: It makes no sense.
    """
    if not isinstance(value, Mapping):
        raise Invalid(
            f"a price is a dict such as {{'model': 'my-gpt', 'input': '2.50', 'output': '10'}}, not {kind_of(value)}"
        )
    _known_keys(value, _KEYS)
    if "model" not in value:
        raise Invalid("a price needs its 'model'")
    model = text(value["model"])
    conditions = {name: text(value[name]) for name in _CONDITIONS if value.get(name) is not None}
    purpose = conditions.get("purpose", PURPOSES[0])
    if purpose not in PURPOSES:
        raise Invalid(f"unknown purpose '{purpose}'{did_you_mean(purpose, PURPOSES)}")
    above = 0 if value.get("above_input") is None else _tokens(value["above_input"], "above_input")
    begins, ends = (_moment(value.get(name), name, context) for name in ("valid_from", "valid_until"))
    if begins is not None and ends is not None and ends <= begins:
        raise Invalid("'valid_until' does not lie after 'valid_from'")
    return Price(
        id=_id(model, conditions, above, begins),
        model=model,
        valid_from=begins,
        valid_until=ends,
        above_input=above,
        purpose=conditions.get("purpose"),
        completion_window=conditions.get("completion_window"),
        service_tier=conditions.get("service_tier"),
        **_per_token(value, context),
    )


def _known_keys(value: Mapping[Any, Any], known: tuple[str, ...]) -> None:
    for key in value:
        if key not in known:
            raise Invalid(f"unknown setting '{key}'{did_you_mean(str(key), known)}")


def _id(model: str, conditions: Mapping[str, str], above: int, begins: float | None) -> str:
    parts = [*conditions.values(), *([f">{above}"] if above else [])]
    since = ""
    if begins is not None:
        since = "@" + datetime.fromtimestamp(begins, UTC).isoformat().removesuffix("+00:00").removesuffix("T00:00:00")
    return f"tariff/{model}{''.join(f'+{part}' for part in parts)}{since}"


def _per_token(value: Mapping[str, Any], context: MoneyContext) -> dict[str, Any]:
    for name in ("input", "output"):
        if value.get(name) is None:
            raise Invalid(f"a price needs '{name}' (0 where it is free)")
    tokens = _tokens(value.get("per", "1M tokens"), "per")
    currency = text(value.get("currency", "USD")).upper()
    return {
        name: _pico(name, value[name], tokens, currency, context) for name in _CLASSES if value.get(name) is not None
    }


def _tokens(value: Any, name: str) -> int:
    words = (
        str(value).strip().lower().removesuffix("s").removesuffix("token").strip() if isinstance(value, str) else value
    )
    if words == "":
        return 1
    number = exact_int(parse_quantity(str(words).upper().replace("K", "k"))) if isinstance(words, str) else words
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise Invalid(f"'{name}' is a number of tokens such as '1M tokens', not {value!r}")
    return number


def _pico(name: str, value: Any, tokens: int, currency: str, context: MoneyContext) -> int:
    dollars = to_usd(_decimal(value), currency, context.rates)
    if dollars < 0:
        raise Invalid(f"'{name}' is below 0: {value}")
    pico, rest = divmod(exact_int(dollars, PICO_PER_USD * 10**18), tokens * 10**18)
    if rest:
        raise Invalid(f"'{name}' {value} per {tokens} tokens is no whole number of pico-dollars (1e-12 USD) per token")
    if pico > _MOST_PICO:
        raise Invalid(f"'{name}' is too large: {value}")
    return pico


def _moment(value: Any, name: str, context: MoneyContext) -> float | None:
    """
    Return epoch seconds of a date, a date with time (in the settings' time zone unless it says another) or a number.
    """
    if value is None:
        return None
    given = value
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise Invalid(f"'{name}' is a date such as '2026-01-31', not '{value}'") from None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    if isinstance(value, datetime):
        value = (value if value.tzinfo else value.replace(tzinfo=ZoneInfo(context.timezone))).timestamp()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Invalid(f"'{name}' is a date such as '2026-01-31', not {kind_of(value)}")
    if not _FIRST_MOMENT <= value < LAST_MOMENT:  # NaN, too
        raise Invalid(f"'{name}' {given} lies outside the calendar; a number is seconds since 1970")
    return float(value)
