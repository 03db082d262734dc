"""
When limits begin and end: the anchor of their periods, and the date until which they hold.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time
from typing import Any
from zoneinfo import ZoneInfo

from tokenbudget_mw.settings.reading import Invalid, did_you_mean, kind_of

__all__ = ["WEEKDAYS", "describe_anchor", "read_anchor", "read_until"]

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)

_LONGEST_DAYS = 31
_DAY_OF_YEAR = re.compile(r"(\d\d?)-(\d\d?)", re.ASCII)


def read_anchor(period: str | None, value: Any) -> int:
    """
    Read on which day the periods of a limit begin; see `Window.anchor`.

    >>> read_anchor("month", 15), read_anchor("week", "Friday"), read_anchor("year", "04-06")
    (15, 5, 406)

    Args:
        period: The period of the calendar; None where the window is none.

        value: What stands in the settings.

    Raises:
        Invalid: It cannot be read, or there is nothing to anchor.
    """
    if period == "week":
        return _weekday(value)
    if period not in ("month", "quarter", "year"):
        raise Invalid("'anchor' belongs to a week, month, quarter or year of the calendar, such as '$5/month'")
    if isinstance(value, str) and period != "month":
        return _day_of_year(period, value)
    if isinstance(value, bool) or not isinstance(value, int):
        hint = "15" if period == "month" else "15 or '04-06' (April 6th)"
        raise Invalid(f"the anchor of a {period} is a day of the month such as {hint}, not {kind_of(value)}")
    return _day(value)


def _weekday(value: Any) -> int:
    name = value.strip().lower() if isinstance(value, str) else ""
    short = [day for day in WEEKDAYS if len(name) >= 3 and day.startswith(name)]
    if not short:
        what = f"'{value}'{did_you_mean(name, WEEKDAYS)}" if isinstance(value, str) else kind_of(value)
        raise Invalid(f"the anchor of a week is a weekday such as 'monday', not {what}")
    return WEEKDAYS.index(short[0]) + 1


def _day_of_year(period: str, value: str) -> int:
    match = _DAY_OF_YEAR.fullmatch(value.strip())
    if match is None or not 1 <= int(match[1]) <= len(MONTHS):
        raise Invalid(f"the anchor '{value}' is no day of the year; write it like '04-06' (April 6th)")
    # one way to write each: quarters that begin in April begin in January, too, and January is not written
    month = (int(match[1]) - 1) % (3 if period == "quarter" else 12) + 1
    return _day(int(match[2])) + (month * 100 if month > 1 else 0)


def _day(value: int) -> int:
    if not 1 <= value <= _LONGEST_DAYS:
        raise Invalid(
            f"the anchor is a day from 1 to {_LONGEST_DAYS}, not {value} (short months end on their last day)"
        )
    return value


def describe_anchor(period: str, anchor: int) -> str:
    """
    Say on which day a period begins.

    >>> describe_anchor("month", 31), describe_anchor("week", 5), describe_anchor("year", 406)
    ('on day 31', 'on Friday', 'on April 6')
    """
    if period == "week":
        return f"on {WEEKDAYS[anchor - 1].capitalize()}"
    month, day = divmod(anchor, 100)
    if month:
        return f"on {MONTHS[month - 1]} {day}"
    return f"on {MONTHS[0]} {day}" if period == "year" else f"on day {day}"


def read_until(value: Any, timezone: str) -> float:
    """
    Read a date or a moment, in ISO 8601 or as Python's; return epoch seconds.

    >>> read_until("2026-12-24T00:00:00Z", "Europe/Zurich"), read_until("2026-12-24", "Europe/Zurich")
    (1798070400.0, 1798066800.0)

    Args:
        value: What stands in the settings. A date is the moment at which that day begins.

        timezone: IANA name of the zone that is meant where *value* names none.

    Raises:
        Invalid: It is no moment.
    """
    moment = _moment(value)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=ZoneInfo(timezone))
    try:
        return moment.astimezone(UTC).timestamp()  # in UTC, as it is told, it may lie behind the calendar's end
    except OverflowError:
        raise Invalid(f"'{value}' is too far away") from None


def _moment(value: Any) -> datetime:
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime.combine(value, time())
    if not isinstance(value, str):
        raise Invalid(f"an end is a date such as '2026-12-24' or '2026-12-24T18:00:00Z', not {kind_of(value)}")
    try:
        return datetime.fromisoformat(value.strip())
    except ValueError:
        raise Invalid(f"'{value}' is no date; write it like '2026-12-24' or '2026-12-24T18:00:00Z'") from None
