"""
What a replay counts by itself, to hold against the database.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from tokenbudget_mw.cli.replaying.drive import Flight

__all__ = ["Hour", "Tallies", "percentiles"]


@dataclass(slots=True)
class Hour:
    """
    One hour of the trace.

    Attributes:
        admitted: Requests that ran.

        refused: Limit -> requests that it refused.
    """

    admitted: int = 0
    refused: Counter[str] = field(default_factory=Counter)


class Tallies:
    """
    Sums over the flights that have ended.

    Args:
        price: Cost of a flight by the price book, in pico-dollars.

    Attributes:
        admitted: Requests that ran.

        refused: Limit -> requests that it refused; a request may be refused by several.

        refusals: Refused requests.

        degraded: Requests that were let through without the backend.

        would_refuse: Shadow limit -> requests that it would have refused.

        input_tokens: Input tokens of the admitted requests.

        output_tokens: Output tokens of the admitted requests.

        cost_pico: Their cost, in pico-dollars.

        hours: Start of the hour, in UTC -> what happened in it.

        busy_ns: Real time of each request inside the stack, in nanoseconds.
    """

    def __init__(self, price: Callable[[Flight], int]) -> None:
        self._price = price
        self.admitted = 0
        self.refusals = 0
        self.degraded = 0
        self.refused: Counter[str] = Counter()
        self.would_refuse: Counter[str] = Counter()
        self.input_tokens = 0
        self.output_tokens = 0
        self.cost_pico = 0
        self.hours: dict[str, Hour] = {}
        self.busy_ns: list[int] = []

    def add(self, flight: Flight) -> None:
        """
        Count a flight that has ended.
        """
        hour = self.hours.setdefault(_hour_of(flight.traced.at), Hour())
        self.busy_ns.append(flight.busy_ns)
        self.would_refuse.update(flight.would_refuse)
        if flight.status == HTTPStatus.OK:
            hour.admitted += 1
            self._admit(flight)
        else:
            names = refused_by(flight.response)
            self.refusals += 1
            self.refused.update(names)
            hour.refused.update(names)

    def _admit(self, flight: Flight) -> None:
        self.admitted += 1
        self.degraded += flight.is_degraded
        self.input_tokens += flight.traced.input_tokens
        self.output_tokens += flight.traced.output_tokens
        self.cost_pico += self._price(flight)


def refused_by(body: bytes) -> list[str]:
    """
    Return the names of the limits that a refusal's body gives, or its error code.
    """
    fields: dict[str, Any] = msgspec.json.decode(body)
    return fields.get("violated-policies") or [str(fields["error"]["code"])]


def _hour_of(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:00Z")


def percentiles(metered_ns: Sequence[int], bare_ns: Sequence[int]) -> dict[str, float]:
    """
    Return what the middleware adds to a request, in microseconds: percentiles of its times, less the bare app's median.

    The noise of the machine stays in the higher one: it is rather too high than too low.

    >>> percentiles([3000, 4000, 9000], [1000, 1000, 2000])
    {'p50': 3.0, 'p99': 8.0}
    """
    usual = _percentile(bare_ns, 50)
    return {f"p{percent}": round((_percentile(metered_ns, percent) - usual) / 1000, 1) for percent in (50, 99)}


def _percentile(values: Sequence[int], percent: int) -> int:
    ordered = sorted(values)
    return ordered[len(ordered) * percent // 100] if ordered else 0
