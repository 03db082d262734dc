"""
Numbers as people write them, and back: money, quantities, durations.

Money is exact everywhere: whole pico-dollars (1e-12 USD) on records, whole nano-dollars (1e-9 USD) in limit counters.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation, localcontext

__all__ = [
    "COUNTER_MAX",
    "NANO_PER_USD",
    "NUMBER",
    "PICO_PER_NANO",
    "PICO_PER_USD",
    "TIME_UNITS",
    "exact_int",
    "format_duration",
    "format_moment",
    "format_quantity",
    "format_usd",
    "nano_from_pico_ceil",
    "parse_decimal",
    "parse_dollars",
    "parse_duration",
    "parse_quantity",
    "pico_from_usd",
    "time_unit",
    "usd_from_pico",
]

PICO_PER_USD = 10**12
NANO_PER_USD = 10**9
PICO_PER_NANO = 1000

COUNTER_MAX = 2**53 - 1
"""The largest amount that a counter can hold exactly: Lua counts in doubles."""

TIME_UNITS: dict[str, int] = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "week": 604_800}
"""Seconds in each unit of time that has a fixed length."""

_SHORT_TIMES = {
    "s": "second",
    "sec": "second",
    "m": "minute",
    "min": "minute",
    "h": "hour",
    "hr": "hour",
    "d": "day",
    "w": "week",
}
_MULTIPLES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9}

_GROUPED = r"[1-9]\d{0,2}(?:,\d{3})+"
NUMBER = rf"(?:{_GROUPED}|\d+(?:_\d+)*)(?:\.\d+)?"
"""A number as a regular expression: digits, grouped by ``_`` or by commas in threes, then perhaps a fraction."""

_QUANTITY = re.compile(rf"({NUMBER})\s*([kKMGB]?)", re.ASCII)
# of 0,075 and 1234,567 the comma is a decimal one, which would make them a thousand times as much
_MISPLACED = re.compile(rf"(?![+-]?{_GROUPED}(?:[.eE][^,]*)?$).*,", re.ASCII | re.DOTALL)
_DOLLAR = re.compile(r"\s*([+-]?)\s*\$\s*", re.ASCII)
_DURATION_PART = re.compile(r"(\d+)\s*([a-z]+)\s*", re.ASCII)
_MAX_NUMBER_LENGTH = 40


def nano_from_pico_ceil(pico: int) -> int:
    """
    Return *pico* pico-dollars in whole nano-dollars, rounded up.

    >>> nano_from_pico_ceil(2500), nano_from_pico_ceil(3000)
    (3, 3)
    """
    return -(-pico // PICO_PER_NANO)


def parse_decimal(text: str) -> Decimal:
    """
    Read a finite decimal number, such as ``"0.075"``, ``"1_000"`` or ``"10,000"``. Commas stand between thousands only.

    Raises:
        ValueError: *text* is no such number, or longer than 40 characters.
    """
    cleaned = text.strip()
    if len(cleaned) > _MAX_NUMBER_LENGTH:
        raise ValueError(f"a number of {len(cleaned)} characters is too long; at most {_MAX_NUMBER_LENGTH} are read")
    if _MISPLACED.match(cleaned):
        raise ValueError(f"{text!r} is not a number: a comma stands between thousands, a point before decimals")
    try:
        number = Decimal(cleaned.replace(",", ""))
    except InvalidOperation:
        raise ValueError(f"{text!r} is not a number") from None
    if not number.is_finite() or abs(number.adjusted()) > _MAX_NUMBER_LENGTH:
        raise ValueError(f"{text!r} is not a number that can be counted with")
    return number


def parse_dollars(text: str) -> Decimal:
    """
    Read an amount of dollars as people write it, with the sign before its digits or without.

    >>> parse_dollars("-$1,000.50"), parse_dollars("25")
    (Decimal('-1000.50'), Decimal('25'))

    Raises:
        ValueError: *text* is no such number.
    """
    sign = _DOLLAR.match(text)
    return parse_decimal(text if sign is None else f"{sign[1]}{text[sign.end() :]}")


def exact_int(number: Decimal, factor: int = 1) -> int:
    """
    Return *number* times *factor* as an int.

    Raises:
        ValueError: The product is not whole.
    """
    with localcontext() as context:
        context.prec = 200
        product = number * factor
    if product != product.to_integral_value():
        raise ValueError(f"{number} has more decimal places than can be held exactly")
    return int(product)


def pico_from_usd(amount: str | int | Decimal) -> int:
    """
    Return *amount* dollars in whole pico-dollars, exactly.

    >>> pico_from_usd("0.0000025")
    2500000

    Raises:
        ValueError: *amount* is no number, or not a whole number of pico-dollars.
    """
    number = parse_decimal(amount) if isinstance(amount, str) else Decimal(amount)
    return exact_int(number, PICO_PER_USD)


def usd_from_pico(pico: int) -> str:
    """
    Return *pico* pico-dollars as an exact decimal number of dollars, without trailing zeros.

    >>> usd_from_pico(2_500_000)
    '0.0000025'
    """
    whole, part = divmod(abs(pico), PICO_PER_USD)
    digits = f"{part:012d}".rstrip("0")
    sign = "-" if pico < 0 else ""
    return f"{sign}{whole}.{digits}" if digits else f"{sign}{whole}"


def format_usd(pico: int) -> str:
    """
    Return *pico* pico-dollars for people: exact, with at least the cents.

    >>> format_usd(5 * 10**12), format_usd(-1_234_567_890_000)
    ('$5.00', '-$1.23456789')
    """
    whole, _, digits = usd_from_pico(abs(pico)).partition(".")
    return f"{'-' if pico < 0 else ''}${int(whole):,}.{digits:0<2}"


def parse_quantity(text: str) -> Decimal:
    """
    Read a number that may end in ``k``, ``M``, ``G`` or ``B`` (thousand, million, billion, billion).

    >>> parse_quantity("40k"), parse_quantity("2.5M")
    (Decimal('40000'), Decimal('2500000.0'))

    Raises:
        ValueError: *text* is no such number.
    """
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not an amount; write it like 60, 10_000, 40k or 2.5M")
    return parse_decimal(match[1]) * _MULTIPLES[match[2]]


def format_quantity(amount: int) -> str:
    """
    Return *amount* the short way, where that loses nothing.

    >>> format_quantity(40_000), format_quantity(2_500_000), format_quantity(1234)
    ('40k', '2500k', '1234')
    """
    for suffix in ("G", "M", "k"):
        if amount and amount % _MULTIPLES[suffix] == 0:
            return f"{amount // _MULTIPLES[suffix]}{suffix}"
    return str(amount)


def time_unit(word: str) -> str | None:
    """
    Return the unit of time that *word* names (``"m"``, ``"minutes"`` -> ``"minute"``), or None.
    """
    lower = word.lower()
    unit = _SHORT_TIMES.get(lower, lower.removesuffix("s"))
    return unit if unit in TIME_UNITS else None


def parse_duration(text: str) -> int:
    """
    Return the whole seconds of a duration such as ``"15m"``, ``"1h 30m"`` or ``"10 minutes"``.

    >>> parse_duration("15m"), parse_duration("1h30m")
    (900, 5400)

    Raises:
        ValueError: *text* is no duration.
    """
    seconds, at, cleaned = 0, 0, text.strip().lower()
    while match := _DURATION_PART.match(cleaned, at):
        unit = time_unit(match[2])
        if unit is None or len(match[1]) > _MAX_NUMBER_LENGTH:
            break
        seconds += int(match[1]) * TIME_UNITS[unit]
        at = match.end()
    if at == 0 or at < len(cleaned):
        raise ValueError(f"{text!r} is not a duration; write it like 30s, 15m, 1h 30m or 7 days")
    return seconds


def format_duration(seconds: float) -> str:
    """
    Return *seconds* in the largest unit of time that divides them.

    >>> format_duration(60), format_duration(600), format_duration(0.25)
    ('1 minute', '10 minutes', '0.25 seconds')
    """
    for unit, length in reversed(TIME_UNITS.items()):
        if seconds >= length and seconds % length == 0:
            count = int(seconds // length)
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return f"{seconds:g} seconds"


def format_moment(moment: float) -> str:
    """
    Return *moment*, in epoch seconds, for people.

    >>> format_moment(1_798_070_400.0)
    '2026-12-24 00:00 UTC'
    """
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")
