"""
What the memory backend keeps of one counter: there may be a hundred thousand of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from tokenbudget_mw.rules.windows import State

__all__ = ["EMPTY", "Counter", "Layout", "Layouts"]

EMPTY: State = [0]
"""What a window is that was never charged. Never changed."""

Layout = Mapping[str, int]
"""Names of windows, and where each stands in a counter. Never changed, because counters share it."""

NO_WINDOWS: Layout = MappingProxyType({})

MOST_LAYOUTS = 1_024
"""How many different sets of windows are kept once for all counters that have them."""


class Counter(list[State]):
    """
    All windows of one counter: their states, where *layout* says.

    Attributes:
        layout: Which windows these are.

        open: How many open leases hold it.

        busy_until: When everything counted here has left, in microseconds.
    """

    __slots__ = ("busy_until", "layout", "open")

    def __init__(self) -> None:
        self.layout = NO_WINDOWS
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
        at = self.layout.get(window)
        return EMPTY if at is None else self[at]


class Layouts:
    """
    The layouts that counters share.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], Layout] = {}

    def after(self, layout: Layout, window: str) -> Layout:
        """
        Return *layout* with *window* behind all others.
        """
        names = (*layout, window)
        found = self._known.get(names)
        if found is None:
            found = {name: at for at, name in enumerate(names)}
            if len(self._known) < MOST_LAYOUTS:
                self._known[names] = found
        return found
