"""
What the memory backend keeps of one counter: there may be a hundred thousand of them.
"""

from __future__ import annotations

from tokenbudget_mw.rules.windows import State

__all__ = ["EMPTY", "NOBODY", "Counter"]

EMPTY: State = [0]
"""What a window is that was never charged. Never changed."""


class Counter(list[State]):
    """
    All windows of one counter: their states, in the order of *windows*.

    Attributes:
        windows: Their names, a tuple that counters of the same windows share: there may be a hundred thousand of them.

        open: How often open leases hold it.

        busy_until: When everything counted here has left, in microseconds.
    """

    __slots__ = ("busy_until", "open", "windows")

    def __init__(self) -> None:
        self.windows: tuple[str, ...] = ()
        self.open = 0
        self.busy_until = 0

    def is_idle(self, moment: int) -> bool:
        """
        Tell whether nothing is counted or held here.
        """
        return not self.open and self.busy_until <= moment

    def state(self, window: str) -> State:
        """
        Return the state of *window*; `EMPTY` where it was never charged.
        """
        return self[self.windows.index(window)] if window in self.windows else EMPTY


NOBODY = Counter()
"""A counter without windows. Never changed."""
