"""
How long records wait: known from a few notes of how many there were at which moment, for no record says when it came.
"""

from __future__ import annotations

from collections import deque

__all__ = ["Backlog"]

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
