"""
Days and months as partitions: which there are, and how their tables are called.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Literal

from tokenbudget_mw.database.rollups import floor_day

__all__ = ["AHEAD", "Every", "Span", "span_named", "span_of", "spans_from"]

Every = Literal["day", "month"]

AHEAD: dict[Every, int] = {"day": 14, "month": 3}
"""How many partitions stand ready for the time to come."""

_NAME = re.compile(r"tokenbudget_usage_p(\d{4})_(\d\d)(?:_(\d\d))?")


@dataclass(frozen=True, slots=True)
class Span:
    """
    The time of one partition, in UTC.

    Attributes:
        start: Its first moment.

        end: The first moment after it.

        every: How long it is.
    """

    start: datetime
    end: datetime
    every: Every

    @property
    def name(self) -> str:
        """
        The name of its table.

        >>> span_of(datetime(2026, 1, 15, tzinfo=UTC), "day").name
        'tokenbudget_usage_p2026_01_15'
        """
        return f"tokenbudget_usage_p{self.start:%Y_%m_%d}"[: None if self.every == "day" else -3]


def span_of(moment: datetime, every: Every) -> Span:
    """
    Return the day or month in which *moment* lies.

    >>> span_of(datetime(2025, 12, 31, 23, tzinfo=UTC), "month").end
    datetime.datetime(2026, 1, 1, 0, 0, tzinfo=datetime.timezone.utc)
    """
    start = floor_day(moment.astimezone(UTC))
    if every == "day":
        return Span(start, start + timedelta(days=1), every)
    first = start.replace(day=1)
    return Span(first, (first + timedelta(days=31)).replace(day=1), every)


def spans_from(start: datetime, every: Every, count: int) -> list[Span]:
    """
    Return *count* spans one after another, the first of which holds *start*.
    """
    return list(islice(_endless(start, every), count))


def _endless(start: datetime, every: Every) -> Iterator[Span]:
    while True:
        span = span_of(start, every)
        yield span
        start = span.end


def span_named(name: str) -> Span | None:
    """
    Return the span of the table *name*; None where it is not called like a partition.

    >>> span_named("tokenbudget_usage_p2026_02").end
    datetime.datetime(2026, 3, 1, 0, 0, tzinfo=datetime.timezone.utc)
    """
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    year, month, day = found.groups()
    try:
        return span_of(datetime(int(year), int(month), int(day or 1), tzinfo=UTC), "day" if day else "month")
    except ValueError:
        return None
