"""
Windows that nothing but charges will change for a while, so that a charge is an addition.

A busy counter is charged many times before the next slot begins or an entry leaves. For that time a question that comes
again and again, the very same object, is worked out once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from tokenbudget_mw.backends.base import MAX_OPEN
from tokenbudget_mw.rules.windows import ALGORITHMS, State
from tokenbudget_mw.values import Check, CheckState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokenbudget_mw.backends.counters import Counter
    from tokenbudget_mw.values import Ask

__all__ = ["Calm", "Calms"]

KEPT = 256
"""How many questions are kept worked out, and of how many it is known that they came before."""

_Row = tuple[State, int, int, int, int, int, int, int]


class Calm(msgspec.Struct, frozen=True):
    """
    A question, worked out.

    Attributes:
        checks: What was asked; kept, so that its id is not used again.

        tag: Under which tag.

        until: From when on it must be worked out anew, in microseconds.

        counters: The counters that it charges, each once.

        rows: Of each check the state of its window, where in it the slot stands and where its amount (from the front: it
            is quicker found there), the slot, when all has left it, the cost, the most that may count before, the cap.
    """

    checks: tuple[Check, ...]
    tag: str
    until: int
    counters: tuple[Counter, ...]
    rows: tuple[_Row, ...]

    def take(self, real: int) -> tuple[CheckState, ...]:
        """
        Charge all costs; charge nothing and return () where one does not fit, or a window has changed in another way.

        Args:
            real: What the caller's clock says, in microseconds.
        """
        for counter in self.counters:
            if counter.open >= MAX_OPEN:
                return ()
        states: list[CheckState] = []
        try:
            for state, at, last, slot, empty_at, cost, most, cap in self.rows:
                used = state[0]
                if used > most or state[at] is not slot:
                    break
                state[0] = used + cost
                state[last] += cost
                states.append(CheckState(True, cap - used - cost, (empty_at - real) / 1_000_000, 0.0, slot))
            else:
                return tuple(states)
        except IndexError:  # a window that was emptied has no slot
            pass
        for (state, _, last, _, _, cost, _, _), _ in zip(self.rows, states, strict=False):
            state[0] -= cost
            state[last] -= cost
        return ()


class Calms:
    """
    Questions that are worked out.
    """

    def __init__(self) -> None:
        self.known: dict[int, Calm] = {}
        self._seen: dict[int, tuple[Check, ...]] = {}

    def see(self, ask: Ask, counters: Mapping[tuple[str, str], Counter], moment: int) -> None:
        """
        Take notice of *ask*, which has been charged to *counters* at *moment*: work it out where it came before.
        """
        checks, tag = ask.checks, ask.tag
        at = id(checks)
        if self._seen.get(at) is not checks:
            if len(self._seen) >= KEPT:
                self._seen.clear()
            self._seen[at] = checks  # kept, so that its id is not used again
            return
        rows, untils = [], []
        for check in checks:
            state = counters[tag, check.counter].state(check.window)
            calm = ALGORITHMS[check.algorithm].calm(state, check.params, moment)
            need = max(check.cost, check.room)
            if calm is None or not need or not check.enforced:
                return
            slot, empty_at, until = calm
            last = len(state) - 1
            rows.append((state, last - 1, last, slot, empty_at, check.cost, check.cap - need, check.cap))
            untils.append(until)
        if len(self.known) >= KEPT:
            self.known.clear()
        names = dict.fromkeys([check.counter for check in checks])
        held = tuple([counters[tag, name] for name in names])
        self.known[at] = Calm(checks, tag, min(untils), held, tuple(rows))
