"""
What a shared backend has yet to hear of calls that were decided without it.
"""

from __future__ import annotations

import dataclasses
import uuid
from heapq import nsmallest
from itertools import dropwhile, islice
from threading import RLock
from typing import TYPE_CHECKING

from msgspec.structs import replace

from tokenbudget_mw.errors import BackendUnavailableError
from tokenbudget_mw.processes import call_in_children
from tokenbudget_mw.rules.windows import ALGORITHMS, MAX_AMOUNT
from tokenbudget_mw.values import Ask, Cost, Hold, Reservation, Settlement

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from collections.abc import Set as AbstractSet

    from tokenbudget_mw.values import Check, Reply, Unit

__all__ = ["Debt", "Debts", "owed", "reservation_of"]

DEBT_LEASE = 60.0

MOST = 10_000
"""How many amounts are kept for a backend that is away, each of a slot of a window; beyond it those are forgotten whose windows end first."""

MOST_AWAY = 8
"""How many subjects' servers may be found away before a round of telling ends."""

TOLD_AT_ONCE = 32
"""How many of them one call tells."""


@dataclasses.dataclass(frozen=True, slots=True)
class Debt:
    """
    What calls used beyond all that was reserved for them.

    Attributes:
        id: Reservation id under which it is told.

        tag: Hash tag of the counters.

        owed: What is owed in each window, in the limit's unit, and where the calls were charged.

        moment: When the last of the calls went to the books, in epoch seconds.

        is_open: Whether the backend knows it, so that it is only to be settled.
    """

    id: str
    tag: str
    owed: tuple[tuple[Hold, int], ...]
    moment: float = 0.0
    is_open: bool = False

    @property
    def ask(self) -> Ask:
        """
        The question that opens it: it costs nothing, so it is always admitted.
        """
        return Ask(self.id, self.tag, tuple([hold.check for hold, _ in self.owed]), DEBT_LEASE)

    @property
    def settlement(self) -> Settlement:
        """
        What is charged then.
        """
        reservation = reservation_of(self.ask, tuple([hold for hold, _ in self.owed]))
        return Settlement(reservation, tuple([min(amount, MAX_AMOUNT) for _, amount in self.owed]), self.moment)

    def heard(self, reply: Reply) -> Debt:
        """
        Return what is to be done after the backend's *reply* to the question: settle what is open now, or ask again.

        Of windows that the backend has lost the books know, and they start there. Nothing is charged later than now by the
        backend's clock: one of ours that is ahead would fill a window for as long as that.

        Raises:
            BackendUnavailableError: It cannot be told now.
        """
        if reply.unseeded:
            kept = [one for at, one in enumerate(self.owed) if at not in reply.unseeded]
            return dataclasses.replace(self, owed=tuple(kept))
        if reply.degraded or not reply.admitted:
            raise BackendUnavailableError(
                f"What is owed cannot be told now: the counter is {reply.barred or 'not ready'}."
            )
        pairs = zip(self.owed, reply.states, strict=True)
        owed = [(Hold(hold.check, min(hold.slot, state.slot)), amount) for (hold, amount), state in pairs]
        return dataclasses.replace(self, owed=tuple(owed), is_open=True)


def owed(tag: str, checks: Sequence[Check], slots: Sequence[int], amounts: Sequence[int], moment: float) -> Debt | None:
    """
    Return the debt of *amounts* in the windows of *checks*, at *slots*, as of *moment*; None where none is above 0.
    """
    above = [
        (Hold(replace(check, cost=0, room=0), slot), amount)
        for check, slot, amount in zip(checks, slots, amounts, strict=True)
        if amount > 0
    ]
    return Debt(uuid.uuid4().hex, tag, tuple(above), moment) if above else None


class Debts:
    """
    What was decided in one process while the backend was away, added up by slots. Safe for threads and loops together.
    """

    def __init__(self) -> None:
        self.forget()
        call_in_children(self.forget)  # it is the parent's to tell

    def forget(self) -> None:
        """
        Owe nothing.
        """
        self._lock = RLock()
        self._amounts: dict[tuple[str, Hold], tuple[int, float]] = {}
        self._open: list[Debt] = []

    def __bool__(self) -> bool:
        """
        Tell whether anything is owed.
        """
        return bool(self._amounts or self._open)

    def add(self, tag: str, owed: Iterable[tuple[Hold, int]], moment: float) -> None:
        """
        Owe amounts under *tag*, where holds say that they were charged, as of *moment*; calls in flight are no debt.
        """
        with self._lock:
            for hold, amount in owed:
                if amount > 0 and not ALGORITHMS[hold.check.algorithm].RELEASES:
                    key = (tag, Hold(replace(hold.check, cost=0, room=0), hold.slot))
                    before, since = self._amounts.get(key, (0, 0.0))
                    self._amounts[key] = before + amount, max(since, moment)
            if len(self._amounts) > MOST:
                # a tenth at once: looking at all of them is dear
                for key in nsmallest(len(self._amounts) - MOST + MOST // 10, self._amounts, key=_leaves_at):
                    del self._amounts[key]

    def next(self, now: float, away: AbstractSet[str] = frozenset()) -> Debt | None:
        """
        Take some of what is owed under one tag that is not *away*, the oldest first; None where nothing is that still counts
        at *now*, or as many as `MOST_AWAY` are.
        """
        with self._lock:
            if len(away) >= MOST_AWAY:
                return None
            for at, debt in enumerate(self._open):
                if debt.tag not in away:
                    return self._open.pop(at)
            while (first := next((key for key in self._amounts if key[0] not in away), None)) is not None:
                if _counts(first[1], now):
                    rest = dropwhile(first.__ne__, self._amounts)
                    keys = [key for key in islice(rest, TOLD_AT_ONCE) if key[0] == first[0]]
                    found = [(key[1], *self._amounts.pop(key)) for key in keys]
                    owed = tuple([(hold, amount) for hold, amount, _ in found])
                    return Debt(uuid.uuid4().hex, first[0], owed, max(moment for _, _, moment in found))
                del self._amounts[first]
            return None

    def keep(self, debt: Debt) -> None:
        """
        Tell *debt* later: the backend did not hear it, or not all of it.
        """
        with self._lock:
            if debt.is_open:
                self._open.append(debt)
            else:
                self.add(debt.tag, debt.owed, debt.moment)


def _leaves_at(key: tuple[str, Hold]) -> int:
    slot = key[1].slot
    return slot + ALGORITHMS[key[1].check.algorithm].lifetime(key[1].check.params, slot)


def _counts(hold: Hold, now: float) -> bool:
    algorithm, moment, state = ALGORITHMS[hold.check.algorithm], round(now * 1_000_000), [0]
    algorithm.charge(state, hold.check.params, hold.slot, 1, moment)
    return algorithm.peek(state, hold.check.params, moment)[1] > 0


def reservation_of(ask: Ask, holds: tuple[Hold, ...]) -> Reservation:
    """
    Return the reservation that *ask* made. Backends look at the units of none.
    """
    units: tuple[Unit, ...] = tuple("requests" for _ in holds)
    return Reservation(ask.id, ask.tag, holds, units, Cost(), 0.0)
