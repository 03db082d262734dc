"""
How a process does: what a health check, a metric or an operator wants to know, read without asking anything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tokenbudget_mw.accounting.worker import FlusherStats

__all__ = ["BEHIND", "LATE", "Health"]

LATE = 60.0
"""Seconds that usage may wait for the database. A database that hangs fails no write: only the wait tells of it."""

BEHIND = 60.0
"""Seconds by which the clock may have been set back behind counters in memory: as long as what is spent stays so."""


@dataclass(frozen=True, slots=True)
class Health:
    """
    A snapshot of one process; see `Core.health`.

    Attributes:
        backend_away_since: Since when the backend is known not to answer, in epoch seconds; None while it answers.

        books_away: Whether the books did not answer when a lost counter was last to be started from them, within the last
            half minute.

        open_reservations: Calls and reservations that run.

        flusher: What waits to be written, and what became of the rest.

        outcomes: How a call ended -> how many did, since the process started. All names are there, at 0 too.

        refusals: What a call was refused for -> how many were.

        spool_exposed: Whether usage that waits is in memory only, because the spool cannot make a file: a process that is
            killed loses it.

        clock_behind: Seconds for which counters in memory stand still, because the clock was set back that far behind them: what is
            spent stays spent. A restart begins them anew.
    """

    backend_away_since: float | None
    books_away: bool
    open_reservations: int
    flusher: FlusherStats
    outcomes: Mapping[str, int]
    refusals: Mapping[str, int]
    spool_exposed: bool = False
    clock_behind: float = 0.0

    @property
    def is_well(self) -> bool:
        """
        Whether limits are shared and go on, counters can be started and usage is written within `LATE` seconds, and none was
        lost or would be.
        """
        stats = self.flusher
        return (
            self.backend_away_since is None
            and not (self.books_away or self.spool_exposed or self.clock_behind > BEHIND)
            and not (stats.is_failing or stats.lag > LATE or stats.dropped or stats.dead_letters)
        )

    def prometheus(self) -> str:
        """
        Return the snapshot in Prometheus' text format (version 0.0.4). No label comes from a client.
        """
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        yield from _counter("calls", "Metered calls by how they ended.", {"outcome": self.outcomes})
        yield from _counter("refusals", "Refused calls by what they were refused for.", {"reason": self.refusals})
        stats = self.flusher
        yield from _counter("records_written", "Usage records in the database.", stats.flushed)
        yield from _counter("records_dropped", "Usage records that found the spool full.", stats.dropped)
        yield from _counter("dead_letters", "Usage records that the database will not take.", stats.dead_letters)
        yield from _counter("flush_retries", "Batches that failed for now.", stats.retries)
        yield from _gauge("records_waiting", "Usage records that wait for the database.", stats.depth)
        yield from _gauge("flush_lag_seconds", "How long the oldest of them has waited.", stats.lag)
        yield from _gauge("open_reservations", "Calls and reservations that run.", self.open_reservations)
        yield from _gauge("spool_exposed", "Whether what waits is in memory only.", int(self.spool_exposed))
        yield from _gauge("clock_behind_seconds", "How long counters in memory stand still.", self.clock_behind)
        yield from _gauge("backend_up", "Whether the backend answers.", int(self.backend_away_since is None))
        yield from _gauge("books_up", "Whether the books answer.", int(not self.books_away))


def _counter(name: str, text: str, value: float | Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    return _family(f"tokenbudget_{name}_total", "counter", text, value)


def _gauge(name: str, text: str, value: float) -> Iterator[str]:
    return _family(f"tokenbudget_{name}", "gauge", text, value)


def _family(name: str, kind: str, text: str, value: float | Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    if isinstance(value, int | float):
        yield f"{name} {value}"
        return
    for label, counts in value.items():
        for each, count in counts.items():
            yield f'{name}{{{label}="{each}"}} {count}'
