"""
How long requests took, as counts: each falls under a bound, and the bounds are a fifth apart.

Counts can be added up, percentiles cannot; so the counts are kept, by hour and by day, and a percentile of any time is read off
their sum. Between two bounds it is taken for evenly spread: it is off by less than a tenth.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.rollups import floor_day, floor_hour
from tokenbudget_mw.database.rows import COLUMNS
from tokenbudget_mw.database.turns import SUMMED, in_turns
from tokenbudget_mw.database.upserts import Addition

if TYPE_CHECKING:
    from sqlalchemy import Table

    from tokenbudget_mw.database.rows import Row

__all__ = ["BOUNDS", "bound_of", "count_latencies", "percentile"]

BOUNDS = tuple(round(1000 * 2 ** (step / 4)) for step in range(88))
"""Microseconds, four to each doubling, from a millisecond to an hour; the last one is for all that takes longer, too."""

_CREATED, _ROUTE, _DURATION = (COLUMNS.index(name) for name in ("created_at", "route", "duration_us"))


def bound_of(duration_us: int) -> int:
    """
    Return the bound under which a request of *duration_us* microseconds is counted.

    >>> bound_of(0), bound_of(1000), bound_of(1001), bound_of(10**12) == BOUNDS[-1]
    (1000, 1000, 1189, True)
    """
    return BOUNDS[min(bisect_left(BOUNDS, duration_us), len(BOUNDS) - 1)]


def count_latencies(rows: Iterable[Row]) -> list[Addition]:
    """
    Count *rows* by hour and by day: what is to be added, in the order in which every writer does.
    """
    by_hour: Counter[tuple[datetime, str, int]] = Counter()
    for some in in_turns(rows, SUMMED):
        by_hour.update((floor_hour(row[_CREATED]), row[_ROUTE] or "", bound_of(row[_DURATION])) for row in some)
    by_day: Counter[tuple[datetime, str, int]] = Counter()
    for (hour, route, bound), requests in by_hour.items():
        by_day[floor_day(hour), route, bound] += requests
    return [
        _addition(tables.latency_hours, "hour", by_hour),
        _addition(tables.latency_days, "day", by_day),
    ]


def _addition(table: Table, start: str, counts: Mapping[tuple[datetime, str, int], int]) -> Addition:
    keys, figures = (start, "route", "up_to_us"), ("requests",)
    values = [dict(zip(keys + figures, (*key, counts[key]), strict=True)) for key in sorted(counts)]
    return Addition(table, keys, figures, values)


def percentile(counts: Mapping[int, int], share: float) -> int | None:
    """
    Return the microseconds that *share* of the requests took at most; None where none are counted.

    Args:
        counts: Bound -> requests.

        share: From 0 to 1.

    >>> percentile({1000: 50, 2000: 50}, 0.5), percentile({}, 0.5)
    (1000, None)
    """
    wanted = share * sum(counts.values())
    below = 0
    for bound in sorted(counts):
        if below + counts[bound] >= wanted > 0:
            floor = BOUNDS[bisect_left(BOUNDS, bound) - 1] if bound > BOUNDS[0] else 0
            return round(floor + (bound - floor) * (wanted - below) / counts[bound])
        below += counts[bound]
    return None
