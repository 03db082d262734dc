"""
What the log says of something that comes and goes: each change, and of what never settles one a minute.
"""

from __future__ import annotations

__all__ = ["EVERY", "FEW", "Transitions"]

FEW = 5
"""How often in a row it is said that something has gone wrong, however soon."""

EVERY = 60.0
"""Seconds after which it may be said once more."""


class Transitions:
    """
    Whether a change is said. What is not said when it happens is said later, if it lasts; that it is over is said of what was.

    >>> seen = Transitions()
    >>> [(seen.begins(now=0.0), seen.ends()) for _ in range(FEW + 1)][-2:]
    [(True, True), (False, False)]
    >>> seen.begins(now=1.0), seen.begins(now=EVERY), seen.begins(now=EVERY), seen.ends(), seen.ends()
    (False, True, False, True, False)
    """

    __slots__ = ("_at", "_left", "is_told")

    def __init__(self) -> None:
        self.is_told = False
        self._left = float(FEW)
        self._at = float("-inf")

    def begins(self, now: float) -> bool:
        """
        Tell whether to say that it is wrong at *now*, in seconds of whatever clock. To be asked as long as that is so.
        """
        if self.is_told:
            return False
        self._left = min(FEW, self._left + max(0.0, now - self._at) / EVERY)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        self.is_told = True
        return True

    def ends(self) -> bool:
        """
        Tell whether to say that it is well again.
        """
        was_told, self.is_told = self.is_told, False
        return was_told
