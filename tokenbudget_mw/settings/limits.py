"""
Limit strings: ``[amount] [what]/[window] [per scope]``, as in ``"2M tokens/minute per model"``.

The grammar of the `limits` package (``"10 per minute"``, ``"5/10 minutes"``, several separated by ``;``) is part of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, cast, get_args

from tokenbudget_mw.errors import ConfigurationError
from tokenbudget_mw.rules.calendar_periods import PERIODS
from tokenbudget_mw.rules.windows import ALGORITHMS
from tokenbudget_mw.settings import reading
from tokenbudget_mw.settings.limit_times import read_anchor, read_until
from tokenbudget_mw.settings.limit_units import read_unit
from tokenbudget_mw.settings.reading import Invalid, did_you_mean
from tokenbudget_mw.units import (
    COUNTER_MAX,
    NANO_PER_USD,
    NUMBER,
    TIME_UNITS,
    exact_int,
    format_duration,
    parse_quantity,
    time_unit,
)
from tokenbudget_mw.values import Limit, Mode, OnBackendError, Scope, Unit, Window

__all__ = ["Context", "parse_limit", "read_limit", "read_limits", "split_limits", "to_usd"]

SCOPES: tuple[Scope, ...] = get_args(Scope)
SUBJECT_SCOPES: frozenset[str] = frozenset({"key", "user", "team", "project", "tenant"})

_ALIASES = {"months": "month", "quarters": "quarter", "years": "year"}
_CALENDAR_ONLY = ("month", "quarter", "year")
_LONGEST = 366 * 86_400
_MAX_SLOTS = 1000

_AMOUNT = re.compile(
    rf"(?P<currency>[$€£¥]|[A-Za-z]{{3}}\b)?\s*(?P<number>{NUMBER}(?:\s*[kKMGB](?![A-Za-z]))?)(?![\d.]|,\d)\s*(?P<rest>.*)",
    re.ASCII | re.DOTALL,
)
_SECTION = re.compile(r"\s*/\s*|(?:^|\s+)per\s+", re.IGNORECASE)
_WINDOW = re.compile(r"(calendar\s+)?(?:(\d{1,9})\s*)?([a-z]+)", re.IGNORECASE | re.ASCII)
_LIMIT_END = re.compile(r"[;|\n]|(?:(?<!\d),|,(?!\d{3}(?!\d)))(?=\s*(?:[$€£¥]|[A-Z]{3}\s)?\s*\d)")
_KEYS = ("limit", "name", "window", "anchor", "per", "algorithm", "slots", "mode", "on_backend_error", "until")


@dataclass(frozen=True, slots=True)
class Context:
    """
    What a limit's meaning depends on, beside its text.

    Attributes:
        place: Where it stands: in a plan, beside the plans, or in a route.

        holder: The scope it counts for where it names none.

        rates: Dollars for a unit of other currencies.

        mode: ``shadow`` makes it a shadow limit, whatever it says.

        on_backend_error: What holds where it says nothing.

        timezone: IANA name of the zone of ends that name none.
    """

    place: Literal["plan", "top", "route"] = "top"
    holder: Scope = "key"
    rates: Mapping[str, Decimal] | None = None
    mode: Mode = "enforce"
    on_backend_error: OnBackendError = "local"
    timezone: str = "UTC"


_NOWHERE = Context()


def parse_limit(
    value: str | Mapping[str, Any],
    *,
    path: str = "limit",
    holder: Scope = "key",
    place: Literal["plan", "top", "route"] = "top",
    rates: Mapping[str, Decimal] | None = None,
    mode: Mode = "enforce",
    on_backend_error: OnBackendError = "local",
    timezone: str = "UTC",
) -> Limit:
    """
    Read one limit, a text or a dict.

    >>> parse_limit("40k tokens/minute per tenant").name
    'tokens-minute-tenant'

    Args:
        value: The limit.

        path: Where it stands, for messages.

        holder: The scope it counts for where it names none.

        place: Where it stands. In a plan, ``per model`` and ``per route`` are added to the holder; at the top they stand
            alone; in a route the route is always added.

        rates: Dollars for a unit of other currencies.

        mode: ``shadow`` makes it a shadow limit, whatever it says.

        on_backend_error: What holds where it says nothing.

        timezone: IANA name of the zone of ends that name none.

    Raises:
        ConfigurationError: It cannot be read.
    """
    try:
        return read_limit(value, Context(place, holder, rates, mode, on_backend_error, timezone))
    except ValueError as exc:
        raise ConfigurationError(f"at `{path}`: {exc}") from None


def split_limits(value: str) -> list[str]:
    """
    Split a text of several limits at ``;``, ``|``, line ends and the commas between limits.

    >>> split_limits("10/minute, 1,000/hour; $5/month")
    ['10/minute', '1,000/hour', '$5/month']
    """
    return [part.strip() for part in _LIMIT_END.split(value) if part.strip()]


def read_limits(value: Any, context: Context, path: str, problems: reading.Problems) -> tuple[Limit, ...]:
    """
    Read a list of limits (or a text of several), each under its own path.
    """
    if isinstance(value, str):
        value = split_limits(value)
    elif isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list | tuple):
        problems.add(path, f"a list of limits is expected, not {reading.kind_of(value)}")
        return ()
    limits = []
    for at, item in enumerate(value):
        for part in split_limits(item) if isinstance(item, str) and item.strip() else [item]:
            with problems.at(f"{path}[{at}]"):
                limits.append(read_limit(part, context))
    return tuple(limits)


def read_limit(value: Any, context: Context = _NOWHERE) -> Limit:
    """
    Read one limit, a text or a dict.

    Raises:
        ValueError: It cannot be read.
    """
    if isinstance(value, Limit):
        return value
    if isinstance(value, str):
        return _limit(value, {}, context)
    if not isinstance(value, Mapping):
        raise Invalid(f"a limit is a text or a dict, not {reading.kind_of(value)}")
    for key in value:
        if key not in _KEYS:
            raise Invalid(f"unknown setting '{key}'{did_you_mean(str(key), _KEYS)}")
    if "limit" not in value:
        raise Invalid("a limit's dict needs 'limit', such as {'limit': '60 requests/minute'}")
    return _limit(reading.text(value["limit"]), value, context)


def _limit(source: str, more: Mapping[str, Any], context: Context) -> Limit:
    match = _AMOUNT.fullmatch(source.strip())
    if match is None:
        raise Invalid(f"a limit begins with an amount, such as '60 requests/minute' or '$5/month', not '{source}'")
    what, *sections = _SECTION.split(match["rest"])
    currency, unit = read_unit(match["currency"], what.strip(), context.rates or {})
    amount = _whole_amount(match["number"], currency, context.rates)
    window, named = _sections(unit, sections, source)
    window = _anchored(_other_window(unit, window, more), more)
    if unit != "concurrent" and window is None:
        begin = source.strip()[: -len(match["rest"]) or None] + what.strip()
        raise Invalid(f"'{source}' says no window; write it like '{begin}/minute'")
    if "per" in more:
        if named:
            raise Invalid("the scope is given twice: in 'limit' and in 'per'")
        named = reading.items(_scope)(more["per"])
    algorithm = _algorithm(window, more.get("algorithm"))
    return Limit(
        name=reading.text(more["name"]) if "name" in more else _name(unit, window, named),
        unit=unit,
        amount=amount,
        window=window,
        per=_scopes(named, context),
        algorithm=algorithm,
        slots=_slots(algorithm, more),
        mode=_mode(more, context),
        on_backend_error=_on_backend_error(more, context),
        text=source.strip(),
        until=read_until(more["until"], context.timezone) if more.get("until") is not None else None,
    )


def _whole_amount(number: str, currency: str | None, rates: Mapping[str, Decimal] | None) -> int:
    amount = parse_quantity(number)
    try:
        whole = exact_int(
            amount if currency is None else to_usd(amount, currency, rates), NANO_PER_USD if currency else 1
        )
    except ValueError as exc:
        if currency is None:
            raise Invalid(f"an amount must be whole, not {number}") from None
        raise Invalid(f"{exc} (limits count nano-dollars)" if "exactly" in str(exc) else str(exc)) from None
    if whole > COUNTER_MAX:
        most = f"${COUNTER_MAX // NANO_PER_USD:,}" if currency else f"{COUNTER_MAX:,}"
        raise Invalid(f"the amount {number} is too large: counters are exact up to {most} (2^53 - 1)")
    return whole


def to_usd(amount: Decimal, currency: str, rates: Mapping[str, Decimal] | None) -> Decimal:
    """
    Return *amount* of *currency* in dollars.

    Raises:
        ValueError: The currency has no rate.
    """
    if currency == "USD":
        return amount
    rate = (rates or {}).get(currency)
    if rate is None:
        raise Invalid(f"no rate is known for {currency}; add it, for example: rates = {{'{currency}': '1.08'}}")
    return amount * rate


def _sections(unit: Unit, sections: list[str], source: str) -> tuple[Window | None, tuple[Scope, ...]]:
    """
    Read what follows ``/`` and ``per``: a window first, except of concurrency, then scopes.
    """
    window = None
    rest = list(sections)
    if rest and unit != "concurrent" and rest[0].strip().lower() not in SCOPES:
        window = _window(rest.pop(0))
    elif rest and unit == "concurrent" and _is_window(rest[0]):
        raise Invalid(f"'{source}': what runs at the same time has no window; write '4 concurrent'")
    named = tuple[Scope, ...](
        _scope(word) for section in rest for word in re.split(r"\s+and\s+|\s*[,+]\s*", section.strip())
    )
    return window, named


def _is_window(section: str) -> bool:
    try:
        _window(section)
    except ValueError:
        return False
    return True


def _window(section: str) -> Window:
    words = section.strip()
    match = _WINDOW.fullmatch(words)
    name = match[3].lower() if match else ""
    period = _ALIASES.get(name, name)
    unit = time_unit(name)
    if match is None or (unit is None and period not in _CALENDAR_ONLY):
        known = (*TIME_UNITS, *_CALENDAR_ONLY)
        hint = did_you_mean(name or words, (*known, *SCOPES))
        raise Invalid(f"unknown window '{words}'{hint or '; known: ' + ', '.join(known)}")
    if unit is None or match[1]:
        return _calendar_window(unit or period, match[2], words)
    length = int(match[2] or 1) * TIME_UNITS[unit]
    if not 1 <= length <= _LONGEST:
        raise Invalid(f"a window lasts from 1 second to 366 days, not '{words}'")
    return Window(seconds=float(length))


def _calendar_window(period: str, count: str | None, words: str) -> Window:
    if count is not None:
        raise Invalid(f"calendar periods are not counted: '{words}'; write '/month', or days such as '/30 days'")
    if period not in PERIODS:
        raise Invalid(f"the calendar has no '{words}'; known: {', '.join(PERIODS)}")
    return Window(period=period)


def _other_window(unit: Unit, window: Window | None, more: Mapping[str, Any]) -> Window | None:
    if "window" not in more:
        return window
    if unit == "concurrent" or window is not None:
        raise Invalid("the window is given twice: in 'limit' and in 'window'" if window else "it has no 'window'")
    return _window(reading.text(more["window"]))


def _anchored(window: Window | None, more: Mapping[str, Any]) -> Window | None:
    if more.get("anchor") is None:
        return window
    period = None if window is None else window.period
    return Window(period=period, anchor=read_anchor(period, more["anchor"]))


def _scope(word: str) -> Scope:
    name = reading.text(word).strip().lower()
    if _is_window(name):
        raise Invalid(f"the window '{word}' stands before the scopes, as in '60 requests/minute per user'")
    if name not in SCOPES:
        raise Invalid(f"unknown scope '{word}'{did_you_mean(name, SCOPES)}")
    return name


def _scopes(named: Iterable[Scope], context: Context) -> tuple[Scope, ...]:
    found: set[Scope] = set(named)
    if not found or (context.place != "top" and not found & (SUBJECT_SCOPES | {"global"})):
        found.add(context.holder)
    if context.place == "route":
        found.add("route")
    if len(found) > 1:
        found.discard("global")
    return tuple(scope for scope in SCOPES if scope in found)


def _algorithm(window: Window | None, wanted: object) -> str:
    special = {"calendar", "concurrent"}
    if window is None:
        fitting = ["concurrent"]
    elif window.period is not None:
        fitting = ["calendar"]
    else:
        fitting = [name for name in ALGORITHMS if name not in special]
    if wanted is None:
        return fitting[0]
    if wanted not in fitting:
        raise Invalid(f"algorithm '{wanted}' does not count this kind of window; known: {', '.join(fitting)}")
    return str(wanted)


def _slots(algorithm: str, more: Mapping[str, Any]) -> int:
    if "slots" not in more:
        return 60
    if algorithm != "strict_log":
        raise Invalid(f"'slots' belongs to strict_log, not to {algorithm}")
    return reading.whole(1, _MAX_SLOTS)(more["slots"])


def _mode(more: Mapping[str, Any], context: Context) -> Mode:
    wanted = reading.choice(*get_args(Mode))(more["mode"]) if "mode" in more else context.mode
    return "shadow" if "shadow" in {wanted, context.mode} else "enforce"


def _on_backend_error(more: Mapping[str, Any], context: Context) -> OnBackendError:
    if "on_backend_error" not in more:
        return context.on_backend_error
    return cast("OnBackendError", reading.choice(*get_args(OnBackendError))(more["on_backend_error"]))


def _name(unit: Unit, window: Window | None, named: Iterable[Scope]) -> str:
    parts = [unit.replace("_", "-")]
    if window is not None and window.period is not None:
        parts.append(window.period if window.period in _CALENDAR_ONLY else f"calendar-{window.period}")
    elif window is not None and window.seconds is not None:
        parts.append(format_duration(window.seconds).removeprefix("1 ").replace(" ", "-"))
    return "-".join([*parts, *named])
