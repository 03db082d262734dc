"""
What waits. How long it has is known from a few notes of how many records there were at which moment: none says when it came.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenbudget_mw.accounting.base import Spool

__all__ = ["Backlog", "tell_left"]

_FINE = 64
"""Notes lie this part of the longest wait apart: so exact is what is told, and so few are the notes of a day."""


class Backlog:
    """
    What one process has seen waiting.

    Attributes:
        since: When the oldest record that waits was first seen, in the caller's seconds; None where none waits.
    """

    def __init__(self) -> None:
        self.since: float | None = None
        self._notes: deque[tuple[int, float]] = deque()  # number of the last record that was there, and when

    def look(self, done: int, waiting: int, now: float) -> None:
        """
        Note that *waiting* records wait at *now*, behind *done* that wait no more.
        """
        notes, last = self._notes, done + waiting
        while notes and (not waiting or notes[0][0] <= done):
            notes.popleft()
        if waiting and (not notes or now - notes[-1][1] > (now - notes[0][1]) / _FINE):
            notes.append((last, now))
        elif waiting:
            notes[-1] = (last, notes[-1][1])
        self.since = notes[0][1] if notes else None


def tell_left(spool: Spool) -> str:
    """
    Say how many records *spool* holds at the end of its process, and what becomes of them.
    """
    fate = "they are lost" if spool.folder is None else f"the next process that records writes those in {spool.folder}"
    return f"{len(spool)} usage records were not written at the end: {fate}."
