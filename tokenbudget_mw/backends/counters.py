"""
What the memory backend keeps of one counter: there may be a hundred thousand of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING

from tokenbudget_mw.errors import BackendUnavailableError
from tokenbudget_mw.rules.counter_names import holder_of_models
from tokenbudget_mw.rules.windows import State

if TYPE_CHECKING:
    from tokenbudget_mw.values import Check

__all__ = ["EMPTY", "NOBODY", "Counter", "Counters", "Held", "Layout", "has", "release"]

EMPTY: State = [0]
"""What a window is that was never charged. Never changed."""

Layout = Mapping[str, int]
"""Names of windows, and where each stands in a counter. Never changed, because counters share it."""

NO_WINDOWS: Layout = MappingProxyType({})

MOST_LAYOUTS = 1_024
"""How many different sets of windows are kept once for all counters that have them."""

MOST_SLOTS = 1_024
"""How many slots are known by one number for all counters."""

EXAMINED = 16
"""How many counters a new one looks at for an idle one."""

SHARE, LEAST_SHARE = 100, 64
"""One holder may have counters of models for one part in so many of those that are kept, and this many in any case."""

Name = tuple[str, str]
"""Tag and name of a counter."""


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


NOBODY = Counter()
"""A counter without windows. Never changed."""

Held = Sequence[Counter]
"""Counters that a lease holds, each once."""


def has(held: Held, counter: Counter) -> bool:
    """
    Tell whether *counter* is among *held*; two counters may be equal and not the same.
    """
    return any(counter is other for other in held)


def release(held: Held) -> None:
    """
    Take a lease off the counters that it held.
    """
    for counter in held:
        counter.open -= 1


class _Ring:
    """
    Names of counters of one kind, and which of them goes next.

    A clock hand goes round: each new counter looks at a few old ones, and takes the place of an idle one.
    """

    def __init__(self, kind: str, most: int) -> None:
        self._kind = kind
        self._most = most
        self._names: list[Name] = []
        self._hand = 0

    def enter(self, name: Name, counters: dict[Name, Counter], moment: int) -> None:
        names = self._names
        if len(names) >= self._most:
            for _ in range(EXAMINED):
                self._hand = (self._hand + 1) % len(names)
                if counters[names[self._hand]].is_idle(moment):
                    self.replace(self._hand, name, counters)
                    return
        if len(names) >= 2 * self._most:
            raise BackendUnavailableError(
                f"The memory backend holds {len(names)} {self._kind}, all in use. Raise max_counters, or use redis://."
            )
        names.append(name)

    def replace(self, at: int, name: Name, counters: dict[Name, Counter]) -> None:
        del counters[self._names[at]]
        self._names[at] = name


class _SharedRing(_Ring):
    """
    The same, of which no holder may have more counters of models at once than its share: clients choose what models are called.
    """

    def __init__(self, kind: str, most: int) -> None:
        super().__init__(kind, most)
        self._share = max(most // SHARE, LEAST_SHARE)
        self._held: dict[Name, dict[Name, int]] = {}

    def enter(self, name: Name, counters: dict[Name, Counter], moment: int) -> None:
        held = self._held.get(_holder_of(name), {})
        if len(held) < self._share:
            super().enter(name, counters, moment)
            self._note(name, len(self._names) - 1 if self._names[-1] is name else self._hand)
            return
        for other in list(islice(held, EXAMINED)):
            at = held.pop(other)
            held[other] = at  # behind all others, so that the next counter looks at these
            if counters[other].is_idle(moment):
                self.replace(at, name, counters)
                self._note(name, at)
                return
        raise BackendUnavailableError(
            f"The memory backend holds counters of {len(held)} models for one holder, all in use. Raise max_counters, or use redis://."
        )

    def replace(self, at: int, name: Name, counters: dict[Name, Counter]) -> None:
        old = self._names[at]
        super().replace(at, name, counters)
        holder = _holder_of(old)
        if holder in self._held:
            del self._held[holder][old]
            if not self._held[holder]:
                del self._held[holder]

    def _note(self, name: Name, at: int) -> None:
        holder = _holder_of(name)
        if holder[1]:  # a limit per model alone is everybody's
            self._held.setdefault(holder, {})[name] = at


def _holder_of(name: Name) -> Name:
    return name[0], holder_of_models(name[1]) or ""


class Counters(dict[Name, Counter]):
    """
    The counters that are kept, and what they share.

    Args:
        most: How many counters to keep, and how many of each of two further kinds: anonymous ones, and those of models, of
            which one holder has a share at most. Beyond it idle ones are forgotten (nothing counted, nothing reserved),
            never one that is in use; at twice as many, all in use, a new one is `BackendUnavailableError`.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._known = _Ring("counters", most)
        self._anonymous = _SharedRing("anonymous counters", most)
        self._of_models = _SharedRing("counters of models", most)
        self._layouts: dict[tuple[str, ...], Layout] = {}
        self._slots: dict[int, int] = {}

    def made(self, name: Name, moment: int, *, is_anonymous: bool = False) -> Counter:
        """
        Return the counter *name*, made where there is none.
        """
        counter = self.get(name)
        if counter is None:
            self._ring_of(name, is_anonymous=is_anonymous).enter(name, self, moment)
            counter = self[name] = Counter()
        return counter

    def _ring_of(self, name: Name, *, is_anonymous: bool) -> _Ring:
        if is_anonymous:
            return self._anonymous
        return self._known if holder_of_models(name[1]) is None else self._of_models

    def know(self, tag: str, check: Check) -> bool:
        """
        Tell whether the window of *check* was ever charged.
        """
        counter = self.get((tag, check.counter))
        return counter is not None and check.window in counter.layout

    def slot(self, slot: int) -> int:
        """
        Return the number *slot*: one object for all counters that are charged there.
        """
        if len(self._slots) > MOST_SLOTS:
            self._slots.clear()
        return self._slots.setdefault(slot, slot)

    def layout(self, layout: Layout, window: str) -> Layout:
        """
        Return *layout* with *window* behind all others.
        """
        names = (*layout, window)
        found = self._layouts.get(names)
        if found is None:
            found = {name: at for at, name in enumerate(names)}
            if len(self._layouts) < MOST_LAYOUTS:
                self._layouts[names] = found
        return found
