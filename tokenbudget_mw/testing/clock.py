"""
A clock that moves when it is told to.
"""

from __future__ import annotations

__all__ = ["FakeClock"]


class FakeClock:
    """
    Gives the same moment until it is moved. Call it where a ``clock`` is wanted.

    >>> clock = FakeClock(100.0)
    >>> clock.advance(2.5)
    102.5
    >>> clock()
    102.5

    Args:
        now: Where it starts, in epoch seconds.
    """

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """
        Return the moment, in epoch seconds.
        """
        return self.now

    def advance(self, seconds: float) -> float:
        """
        Move it by *seconds*, backwards where negative; return the new moment.
        """
        self.now += seconds
        return self.now
