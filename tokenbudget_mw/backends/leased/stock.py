"""
Quota that this process has reserved ahead, and what it admitted from it. Nothing here waits or asks anybody.

Asks for the same windows with the same caps have a `Shape`. A `Portion` is one reservation in the backend for as much as
several asks of a shape cost; they are then admitted by taking from it, all or nothing. A portion is used only while its
charges stand in the slots that a charge made now would go to; so what was admitted is counted exactly where and as long as
it would be had the backend been asked each time. It is settled, once, at what was used of it when nothing of it is open.
"""

from __future__ import annotations

import os
import uuid
from collections import deque
from threading import RLock
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from tokenbudget_mw.backends.base import MAX_OPEN
from tokenbudget_mw.backends.debts import Debt, owed
from tokenbudget_mw.backends.leased.portions import Portion, Portions, filled, moved, remember
from tokenbudget_mw.backends.leased.shapes import Plan, Refill, Shapes, Terms, is_leasable, key_of
from tokenbudget_mw.backends.memory import KEPT
from tokenbudget_mw.processes import call_in_children
from tokenbudget_mw.values import CheckState, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tokenbudget_mw.values import Ask, Check, Reservation, Settlement

__all__ = ["Stock"]

UNRESERVED = 60.0
"""How long a portion outlives its holder, in seconds, where its asks reserve nothing."""

LOOKED_AT = 16
"""How many old portions one sweep looks at."""


class Stock:
    """
    What one process has reserved ahead. Safe for threads and loops together.

    Args:
        terms: How much may be reserved ahead, and for how long.

        clock: Gives a moment in seconds that no administrator sets back; None where the moments of the calls count.

    Attributes:
        latest: The moment of a late call, in epoch seconds.
    """

    def __init__(self, terms: Terms, clock: Callable[[], float] | None) -> None:
        self.terms = terms
        self._clock = clock
        self.forget()
        call_in_children(self.forget)

    def forget(self) -> None:
        """
        Hold nothing: what there was belongs to another process.
        """
        self._lock = RLock()
        self._pid = os.getpid()
        self._shapes = Shapes()
        self._held = Portions()
        self._calls: dict[str, tuple[Portion, Ask, Reply]] = {}
        self._direct, self._late = dict[str, None](), dict[str, None]()
        self._young: deque[Portion] = deque()
        self._old: deque[Portion] = deque()
        self._news: deque[Portion | Debt] = deque()
        self.latest = 0.0

    @property
    def is_virtual(self) -> bool:
        """
        Whether the moments of the calls count.
        """
        return self._clock is None

    @property
    def has_news(self) -> bool:
        """
        Whether the backend is to be told something.
        """
        return bool(self._news)

    @property
    def is_empty(self) -> bool:
        """
        Whether nothing is held and there is nothing to tell.
        """
        return not (self._young or self._old or self._news)

    # -- asks ---------------------------------------------------------------------------------------------------------

    def take(self, ask: Ask, now: float) -> Reply | None:
        """
        Admit *ask* from what is held; None where that is not enough.
        """
        checks = ask.checks
        key: Any = (ask.tag, ask.holder)
        for check in checks:
            key = (key, check.counter, check.window, check.cap)  # as `key_of`, without the call
        with self._lock:
            shape = self._shapes.get(key)
            if shape is None:
                return None
            id_, lease = ask.id, ask.lease
            if lease:
                if id_ in self._calls:
                    return self._calls[id_][2]
                if id_ in self._direct or shape.open >= MAX_OPEN:
                    return None
            for portion in shape.portions:
                if (
                    now >= portion.wall
                    or lease > portion.lease
                    or (self._clock is not None and self._clock() >= portion.ends)
                ):
                    continue
                left = portion.left
                for check, spare in zip(checks, left):  # noqa: B905 - a keyword costs as much as the loop
                    cost = check.cost
                    # so a NaN does not pass either
                    if type(cost) is not int or not 0 <= cost <= spare or check.room > spare:
                        break
                else:
                    slots, rest, empties = portion.facts
                    states, at = [], 0
                    for check in checks:
                        left[at] = spare = left[at] - check.cost
                        reset = empties[at] - now
                        states.append(CheckState(True, rest[at] + spare, reset if reset > 0 else 0.0, 0.0, slots[at]))
                        at += 1  # noqa: SIM113 - as above
                    reply = Reply(True, tuple(states))
                    portion.served += 1
                    if lease:
                        portion.open += 1
                        shape.open += 1
                        self._calls[id_] = (portion, ask, reply)
                    return reply
            return None

    def serves(self, ask: Ask, now: float) -> bool:
        """
        Tell whether `take` would admit *ask*.
        """
        with self._lock:
            shape = self._shapes.get(key_of(ask))
            portions = shape.portions if shape is not None else []
            return any(
                now < portion.wall
                and self._time(now) < portion.ends
                and all(max(c.cost, c.room) <= spare for c, spare in zip(ask.checks, portion.left, strict=True))
                for portion in portions
            )

    def plan(self, ask: Ask, now: float) -> Plan:
        """
        Say how the backend is asked about *ask*: for it alone, or for a portion first.
        """
        if self._pid != os.getpid():
            # forked by a server that does not tell Python
            self.forget()
        with self._lock:
            time = self._time(now)
            shape = self._shapes.of(ask, self.terms.first, time) if is_leasable(ask) else None
            if shape is None or shape.is_filling or shape.open >= MAX_OPEN:
                return Plan(shape)
            ended = [portion for portion in shape.portions if time >= portion.ends]
            for portion in ended:
                self._retire(portion)
            asks = shape.size(ask, ended, self.terms, time)
            if asks < 2:
                return Plan(shape)
            shape.is_filling = True
            costs = [asks * check.cost + max(0, check.room - check.cost) for check in ask.checks]
            checks = tuple([replace(check, cost=cost) for check, cost in zip(ask.checks, costs, strict=True)])
            lease = ask.lease or UNRESERVED
            ahead = replace(ask, id=uuid.uuid4().hex, checks=checks, lease=self.terms.longer(lease))
            return Plan(shape, Refill(shape, ahead, lease, now, time))

    def fill(self, refill: Refill, reply: Reply | None) -> bool:
        """
        Keep what *reply*, None for none, says was given. False where nothing was, or it cannot be used.

        It is kept beside what is held already, never instead of it: two refills may cross.
        """
        shape = refill.shape
        with self._lock:
            shape.is_filling = False
            if reply is None or not reply.states:
                return False
            shape.remaining = [state.remaining for state in reply.states]
            portion = filled(refill, reply, self.terms, is_virtual=self.is_virtual)
            if portion is None:
                shape.failed(reply, self.terms, self._time(refill.now))
                return False
            shape.portions.insert(0, portion)
            self._held.add(portion)
            self._young.append(portion)
            return True

    def note(self, plan: Plan, ask: Ask, reply: Reply) -> None:
        """
        Learn from the backend's own *reply* to *ask*.
        """
        if plan.shape is None or not reply.states:
            return
        with self._lock:
            plan.shape.heard(reply)
            if reply.admitted and ask.lease:
                remember(self._direct, ask.id)

    # -- settlements --------------------------------------------------------------------------------------------------

    def settle(self, settlement: Settlement) -> bool | None:
        """
        Settle what was admitted here. None where it was not: the backend is asked.
        """
        id_, actual = settlement.reservation.id, settlement.actual
        with self._lock:
            call = self._calls.get(id_)
            if call is None:
                self._direct.pop(id_, None)
                return self._settle_late(settlement) if id_ in self._late else None
            portion, checks = call[0], call[1].checks
            moves: list[int] | None = None
            for check, amount in zip(checks, actual, strict=True):
                if amount != check.cost:
                    moves = [moved(check, amount) for check, amount in zip(checks, actual, strict=True)]
                    break
            del self._calls[id_]
            portion.open -= 1
            portion.shape.open -= 1
            if moves is not None:
                self._move(portion, moves)
            elif not portion.open and not portion.is_live:
                self._retire(portion)
            return True

    def _move(self, portion: Portion, moves: list[int]) -> None:
        if portion.is_told:
            # closed while the call was open: what was reserved stays charged, what is above it is told
            self._owe(owed(portion.ask.tag, portion.ask.checks, portion.slots, [-move for move in moves], self.latest))
            return
        left = portion.left
        for i, move in enumerate(moves):
            left[i] += move
        if not portion.open:
            if not portion.is_live or min(left) < 0:
                self._retire(portion)
        elif min(left) < 0:
            self._owe(owed(portion.ask.tag, portion.ask.checks, portion.slots, [-spare for spare in left], self.latest))
            portion.left = [max(spare, 0) for spare in left]

    def _settle_late(self, settlement: Settlement) -> bool:
        # Its portion was settled without it. What a lease keeps (requests) is counted; all else is charged now, in full.
        reservation = settlement.reservation
        del self._late[reservation.id]
        checks = tuple([hold.check for hold in reservation.holds])
        kept = [check.cost if check.window.startswith(KEPT) else 0 for check in checks]
        more = [actual - held for actual, held in zip(settlement.actual, kept, strict=True)]
        self._owe(owed(reservation.tag, checks, [hold.slot for hold in reservation.holds], more, self.latest))
        return True

    def _owe(self, debt: Debt | None) -> None:
        if debt is not None:
            self._news.append(debt)

    def portion_of(self, reservation: Reservation) -> Portion | None:
        """
        Return the portion from which *reservation* was taken and that is still open; None where there is none.
        """
        with self._lock:
            call = self._calls.get(reservation.id)
            return None if call is None or call[0].is_told else call[0]

    def outlives(self, portion: Portion, lease: float, now: float) -> bool:
        """
        Tell whether *portion* ends no sooner than *lease* seconds from *now*.
        """
        return portion.expires >= self._time(now) + lease

    def prolong(self, portion: Portion, lease: float, now: float) -> None:
        """
        Keep *portion* open for *lease* seconds from *now*.
        """
        with self._lock:
            portion.expires = max(portion.expires, self._time(now) + lease)

    # -- what goes back -----------------------------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        """
        Take portions out of use whose time is over, and end the calls of those that the backend would take back.
        """
        with self._lock:
            time = self._time(now)
            # A portion is used for one term at most, so none waits longer than that behind another.
            while self._young and (self._young[0].ends <= time or not self._young[0].is_live):
                portion = self._young.popleft()
                self._retire(portion)
                if portion.open and not portion.is_told:
                    self._old.append(portion)
            for _ in range(min(LOOKED_AT, len(self._old))):
                portion = self._old.popleft()
                if portion.open and not portion.is_told:
                    if portion.expires <= time:
                        self._expire(portion)
                    else:
                        self._old.append(portion)

    def next_news(self) -> Portion | Debt | None:
        """
        Take what the backend is to be told next; None where that is nothing.
        """
        with self._lock:
            return self._news.popleft() if self._news else None

    def keep_news(self, news: Portion | Debt) -> None:
        """
        Tell *news* later: the backend did not hear it.
        """
        with self._lock:
            self._news.append(news)

    def recall(self, tag: str, checks: Iterable[Check]) -> bool:
        """
        Let portions with something left in the windows of *checks* go back, those of which nothing is open.

        Returns:
            Whether there were any.
        """
        is_any = False
        with self._lock:
            for check in checks:
                for portion in self._held.of(tag, check.counter):
                    if not portion.open and portion.spare(check) > 0:
                        self._retire(portion)
                        is_any = True
        return is_any

    def withdraw(self, tag: str | None = None, counters: frozenset[str] | set[str] = frozenset()) -> None:
        """
        Take portions of *counters* under *tag*, or for their holders, out of use, or all: something else holds from now on.
        """
        with self._lock:
            for portion in self._held.all():
                ask = portion.ask
                is_meant = ask.holder in counters or any(check.counter in counters for check in ask.checks)
                if tag is None or (ask.tag == tag and is_meant):
                    self._retire(portion)

    def spare(self, tag: str, check: Check) -> int:
        """
        Return how much of *check*'s window is held here and not used.
        """
        with self._lock:
            return sum([portion.spare(check) for portion in self._held.of(tag, check.counter)])

    def give_up(self) -> None:
        """
        Let everything go back that is not used. What is open counts as reserved.
        """
        with self._lock:
            for portion in self._held.all():
                portion.is_told = True
                self._retire(portion)
            self._young.clear()
            self._old.clear()

    # -- under the lock -----------------------------------------------------------------------------------------------

    def _time(self, now: float) -> float:
        self.latest = now
        return now if self._clock is None else self._clock()

    def _retire(self, portion: Portion) -> None:
        if portion.is_live:
            portion.is_live = False
            portion.shape.portions.remove(portion)
        if (portion.is_told or not portion.open) and not portion.is_closed:
            portion.is_closed = True
            self._held.discard(portion)
            self._news.append(portion)

    def _expire(self, portion: Portion) -> None:
        # What its calls hold goes back, but not their requests: they were made.
        for id_, call in [(id_, call) for id_, call in self._calls.items() if call[0] is portion]:
            del self._calls[id_]
            remember(self._late, id_)
            for i, check in enumerate(call[1].checks):
                if not check.window.startswith(KEPT):
                    portion.left[i] += check.cost
        portion.shape.open, portion.open = portion.shape.open - portion.open, 0
        self._retire(portion)
