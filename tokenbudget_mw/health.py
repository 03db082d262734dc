"""
How a process does: what a health check, a metric or an operator wants to know, read without asking anything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenbudget_mw.accounting.flusher import FlusherStats

__all__ = ["Health"]


@dataclass(frozen=True, slots=True)
class Health:
    """
    A snapshot of one process; see `Core.health`.

    Attributes:
        backend_away_since: Since when the backend is known not to answer, in epoch seconds; None while it answers.

        books_away: Whether the books did not answer when a lost counter was last to be started from them.

        open_reservations: Calls and reservations that run.

        flusher: What waits to be written, and what became of the rest.
    """

    backend_away_since: float | None
    books_away: bool
    open_reservations: int
    flusher: FlusherStats

    @property
    def is_well(self) -> bool:
        """
        Whether limits are shared, counters can be started and usage is written, and none was lost.
        """
        stats = self.flusher
        return (
            self.backend_away_since is None
            and not self.books_away
            and not (stats.is_failing or stats.dropped or stats.dead_letters)
        )
