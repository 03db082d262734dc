"""
What `analytics` answers with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

__all__ = ["Cursor", "Endpoint", "Figures", "Line", "Month", "Page"]


@dataclass(frozen=True, slots=True)
class Figures:
    """
    Usage added up.

    Attributes:
        requests: All of them.

        refused: Those that a limit refused.

        errors: Those answered with a status of 500 and above.

        input_tokens: Input tokens, cached ones included.

        output_tokens: Output tokens, reasoning included.

        cache_read_tokens: Part of *input_tokens*.

        cache_write_tokens: Part of *input_tokens*.

        cache_write_1h_tokens: Part of *cache_write_tokens*.

        reasoning_tokens: Part of *output_tokens*.

        duration_us: Time that the requests took together, in microseconds.

        cost_pico: Cost in pico-dollars.
    """

    requests: int = 0
    refused: int = 0
    errors: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    duration_us: int = 0
    cost_pico: int = 0

    def __add__(self, other: Figures) -> Figures:
        return Figures(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    @property
    def tokens(self) -> int:
        """
        Input and output tokens together.
        """
        return self.input_tokens + self.output_tokens

    @property
    def error_rate(self) -> float:
        """
        Share of the requests that ended in an error, from 0 to 1.
        """
        return self.errors / self.requests if self.requests else 0.0

    @property
    def mean_duration_us(self) -> int:
        """
        Microseconds that a request took in the mean.
        """
        return self.duration_us // self.requests if self.requests else 0


@dataclass(frozen=True, slots=True)
class Line:
    """
    One line of an answer.

    Attributes:
        group: What it is about, in the order that was asked for; a day is a moment, what rows do not have is empty.

        figures: What was used.
    """

    group: tuple[Any, ...]
    figures: Figures


@dataclass(frozen=True, slots=True)
class Endpoint(Line):
    """
    A route: its line, and how long its requests took, refused ones included.

    Attributes:
        p50_us: Microseconds that half of them took at most; None where nobody has counted.

        p95_us: The same of 95 %.

        p99_us: The same of 99 %.
    """

    p50_us: int | None
    p95_us: int | None
    p99_us: int | None


@dataclass(frozen=True, slots=True)
class Cursor:
    """
    Where a page of the log ended: at this row.

    Attributes:
        created_at: Its moment.

        id: Its id.
    """

    created_at: datetime
    id: str


@dataclass(frozen=True, slots=True)
class Page:
    """
    A page of the log, the newest row first.

    Attributes:
        rows: Column -> value of each.

        next: Where the next page begins; None on the last one.
    """

    rows: tuple[Mapping[str, Any], ...]
    next: Cursor | None


@dataclass(frozen=True, slots=True)
class Month:
    """
    A subject's month so far.

    Attributes:
        since: Its first moment.

        until: The first moment after it.

        figures: What was used.

        forecast_pico: What the whole month costs, if it goes on as it did, in pico-dollars.
    """

    since: datetime
    until: datetime
    figures: Figures
    forecast_pico: int
