"""
Periods of the calendar in an IANA zone: which hour, day, week, month, quarter or year a moment belongs to.

A period begins where its first local midnight (or hour) falls, so a day on which clocks change has 23 or 25 hours.
An hour is an hour of elapsed time: the one that clocks repeat in autumn counts as two. Weeks, months, quarters and years
begin on the day of their anchor; a month that is too short for it, on its last day.
"""

from __future__ import annotations

from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from zoneinfo import ZoneInfo

__all__ = ["PERIODS", "Period", "period_at"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_HOUR_US = 3_600_000_000
_MINUTE_US = 60_000_000


@dataclass(frozen=True, slots=True)
class Period:
    """
    A period of the calendar, in microseconds since the epoch.

    Attributes:
        start_us: Its first moment.

        end_us: The first moment of the next period.

        next_end_us: The first moment of the one after that.
    """

    start_us: int
    end_us: int
    next_end_us: int


Bounds = tuple[date, date, date]
"""The first days of a period and of the two after it."""


def _day(day: date, _anchor: int) -> Bounds:
    return day, day + timedelta(days=1), day + timedelta(days=2)


def _week(day: date, anchor: int) -> Bounds:
    first = day - timedelta(days=(day.isoweekday() - anchor) % 7)
    return first, first + timedelta(weeks=1), first + timedelta(weeks=2)


def _months(length: int) -> Callable[[date, int], Bounds]:
    def bounds(day: date, anchor: int) -> Bounds:
        month, first_day = divmod(anchor, 100)
        shift = max(month - 1, 0)
        index = (day.year * 12 + day.month - 1 - shift) // length * length + shift
        if day < _day_of(index, first_day):
            index -= length
        first, second, third = (_day_of(index + step * length, first_day) for step in range(3))
        return first, second, third

    return bounds


def _day_of(index: int, day: int) -> date:
    """
    Return *day* of the month *index* (months since the year 0), or its last one where it is shorter.
    """
    year, month = divmod(index, 12)
    return date(year, month + 1, min(day, monthrange(year, month + 1)[1]))


_DATES: dict[str, Callable[[date, int], Bounds]] = {
    "day": _day,
    "week": _week,
    "month": _months(1),
    "quarter": _months(3),
    "year": _months(12),
}

PERIODS: tuple[str, ...] = ("hour", *_DATES)
"""Names of all periods, the shortest first."""


def period_at(name: str, now: float, zone: ZoneInfo, anchor: int = 1) -> Period:
    """
    Return the period that *now* belongs to.

    Args:
        name: One of `PERIODS`.

        now: Epoch seconds.

        zone: Whose calendar counts.

        anchor: On which day it begins; see `Window.anchor`. Hours and days have none.

    Raises:
        KeyError: There is no such period.
    """
    if name == "hour":
        return _hour_at(now, zone)
    moment = _EPOCH + timedelta(seconds=now)
    bounds = _DATES[name]
    days = bounds(moment.astimezone(zone).date(), anchor)
    start, end, next_end = (_first_moment_us(day, zone) for day in days)
    if (moment - _EPOCH) // _MICROSECOND >= end:
        # clocks went back over midnight: the date is yesterday's again, and the period that has begun goes on
        start, end, next_end = (_first_moment_us(day, zone) for day in bounds(days[1], anchor))
    return Period(start, end, next_end)


def _hour_at(now: float, zone: ZoneInfo) -> Period:
    moment = _EPOCH + timedelta(seconds=now)
    now_us = (moment - _EPOCH) // _MICROSECOND
    # Zones with an offset of half an hour begin their hours there; the offset of *now* holds for the whole hour in
    # every zone whose changes fall on the hour.
    offset_us = (moment.astimezone(zone).utcoffset() or timedelta()) // _MICROSECOND
    start = (now_us + offset_us) // _HOUR_US * _HOUR_US - offset_us
    return Period(start, start + _HOUR_US, start + 2 * _HOUR_US)


def _first_moment_us(day: date, zone: ZoneInfo) -> int:
    """
    Return the first moment of *day*: of a midnight that occurs twice the first one, of a midnight that clocks skip the
    moment after the gap.
    """
    midnight = datetime.combine(day, time(), tzinfo=zone)
    moment = (midnight.astimezone(UTC) - _EPOCH) // _MICROSECOND
    if _local(moment, zone).date() == day and _local(moment, zone).time() == time():
        return moment
    # A gap over midnight: fold=0 lands after the gap by the gap's length, fold=1 before it by as much. The change
    # itself lies between them, on a whole minute.
    low = (midnight.replace(fold=1).astimezone(UTC) - _EPOCH) // _MICROSECOND
    return _first_minute_of(day, zone, min(low, moment), max(low, moment))


def _first_minute_of(day: date, zone: ZoneInfo, low: int, high: int) -> int:
    # *low* lies before the day, *high* within it
    while high - low > _MINUTE_US:
        middle = low + (high - low) // _MINUTE_US // 2 * _MINUTE_US
        if _local(middle, zone).date() >= day:
            high = middle
        else:
            low = middle
    return high


def _local(moment_us: int, zone: ZoneInfo) -> datetime:
    return (_EPOCH + timedelta(microseconds=moment_us)).astimezone(zone)
