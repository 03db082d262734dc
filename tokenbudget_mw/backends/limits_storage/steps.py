"""
What a backend asks of a storage that can only add to a counter and read one.

Each method of `Steps` is a generator of single operations, which both colours drive. What has to be given back and could
not be (an error, a cancelled call) is remembered, and told with a later call.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Generator
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

from msgspec.structs import replace

from tokenbudget_mw import threads
from tokenbudget_mw.backends.base import MAX_OPEN
from tokenbudget_mw.backends.leases import Lease, Leases
from tokenbudget_mw.backends.limits_storage.places import Look, bar_key, charged, looked, place_of, regrouped
from tokenbudget_mw.rules.windows import ALGORITHMS, MAX_AMOUNT
from tokenbudget_mw.values import CROWDED, Reply

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tokenbudget_mw.values import Ask, Check, CheckState, Reservation, Seed, Settlement

__all__ = ["Add", "Clear", "Get", "Program", "Step", "Steps"]

TOLD_AT_ONCE = 32
"""How many counters that are owed something one call makes right."""

KEPT = "requests:"
"""Windows that keep what an expired lease held."""

STATUSES = ("barred", "revoked", "suspended", "expired", "deleted")
"""Why a holder may be barred, by the number that stands for it in the storage, which keeps only numbers; any other is 0."""

BAR_BASE = 16
"""What a bar's end, in epoch seconds, is multiplied by, to make room for the number."""

US = 1_000_000


class Get(NamedTuple):
    """
    Read the counter *key*: 0 where there is none.
    """

    key: str


class Add(NamedTuple):
    """
    Add *amount*, which may be below 0, to the counter *key*, kept for *seconds* where it is new. Gives what it then is.
    """

    key: str
    amount: int
    seconds: int


class Clear(NamedTuple):
    """
    Forget the counter *key*.
    """

    key: str


T = TypeVar("T")
_Name = tuple[str, str]
Step: TypeAlias = Get | Add | Clear
Program: TypeAlias = Generator[Step, int, T]


class Steps:
    """
    The operations of one process on a storage; both colours share one.

    Open reservations are known here only: another process cannot settle them.
    """

    def __init__(self) -> None:
        self._lock = threads.lock()
        self._newest = 0
        self._start()

    def reserve(self, ask: Ask, now: float) -> Program[Reply]:
        """
        Look at every check, then charge all of them or none.
        """
        moment = self._moment(now)
        names = [*{(ask.tag, check.counter): None for check in ask.checks}]
        with self._lock:
            known = self._leases.get(ask.id)
            if known is not None:
                return known.reply
            if any(self._open[name] >= MAX_OPEN for name in names):
                return Reply(False, (), barred=CROWDED)
        reply, looks = yield from self._look(ask, moment, now)
        if not reply.admitted:
            return reply
        reply = yield from self._charge(ask, looks, reply, moment, now)
        if not reply.admitted:
            yield from self._tell()
            return reply
        with self._lock:
            self._newest = max(self._newest, moment)
            if ask.lease:
                self._leases.add(Lease(moment + int(ask.lease * US), ask, reply, names), ask.lease)
                self._open.update(names)
        return reply

    def peek(self, ask: Ask, now: float) -> Program[Reply]:
        """
        Look at every check.
        """
        reply, _ = yield from self._look(ask, self._moment(now), now)
        return reply

    def settle(self, settlement: Settlement, now: float) -> Program[bool]:
        """
        Move every hold to its actual amount. What cannot be told now is owed, so that a second call has nothing to do.
        """
        reservation = settlement.reservation
        moment = self._moment(now)
        with self._lock:
            lease = self._leases.close(reservation.id)
            if lease is not None:
                self._release(lease)
            is_open = lease is not None or self._leases.claim(reservation.id)
            if is_open:
                self._newest = max(self._newest, moment)
                self._owe_moves(settlement, lease, moment)
        yield from self._tell()
        return is_open

    def credit(self, ask: Ask, now: float) -> Program[None]:
        """
        Take each check's cost off its window, the newest slot first.
        """
        moment = self._moment(now)
        for check in ask.checks:
            place = place_of(ask.tag, check, moment, ask.lease)
            left, rest = check.cost, 0
            for slot in place.slots:
                counted = max(0, (yield Get(place.key(slot))))
                taken = min(left, counted)
                if taken:
                    yield from _take_off(place.key(slot), taken, place.seconds)
                left, rest = left - taken, rest + counted - taken
            if not rest:
                with self._lock:
                    self._leases.forget(ask.tag, check)

    def renew(self, reservation: Reservation, lease: float, now: float) -> Program[bool]:
        """
        Let a reservation end later. Its calls in flight move into the slot of *now*, because they leave with their slot.
        """
        moment = self._moment(now)
        with self._lock:
            old = self._leases.get(reservation.id)
            expires = moment + int(lease * US)
            if old is not None and expires > old.expires:
                self._leases.close(reservation.id)
                reply = replace(old.reply, states=tuple(self._brought_up(old, moment)))
                self._leases.add(replace(old, expires=expires, reply=reply), lease)
        yield from self._tell()
        return old is not None

    def seed(self, tag: str, seeds: Sequence[Seed], now: float) -> Program[None]:
        """
        Start windows that the storage does not know at what the books say.
        """
        moment = self._moment(now)
        for seed in seeds:
            place = place_of(tag, seed, moment, 0.0)
            counted = 0
            for slot in place.slots:
                counted += yield Get(place.key(slot))
            key, seconds = place.mark
            is_ours = (yield Add(key, 1, seconds)) == 1
            # What counts already was charged, and only its mark forgotten. From the mark on others charge, too.
            if is_ours and not counted:
                for slot, amount in regrouped(seed, place).items():
                    if amount:
                        yield Add(place.key(slot), amount, place.seconds)

    def bar(self, tag: str, counter: str, status: str, seconds: float, now: float) -> Program[None]:
        """
        Keep the number of *status*, and until when it holds.
        """
        key = bar_key(tag, counter)
        yield Clear(key)
        if status:
            number = STATUSES.index(status) if status in STATUSES else 0
            yield Add(key, math.ceil(now + seconds) * BAR_BASE + number, math.ceil(seconds) + 1)

    # -- looking and charging -----------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._pid = os.getpid()
        self._leases: Leases[_Name] = Leases()
        self._open: Counter[_Name] = Counter()
        self._owed: dict[str, tuple[int, int]] = {}

    def _moment(self, now: float) -> int:
        # A clock that steps back neither frees nor loses what is counted. Leases that have ended owe what they held.
        with self._lock:
            if self._pid != os.getpid():
                self._start()  # what was open before a fork is the parent's to give back
            moment = max(round(now * US), self._newest)
            if moment >= self._leases.next_due:
                for lease in self._leases.expire(moment):
                    self._newest = moment
                    self._release(lease)
                    for check, state in zip(lease.ask.checks, lease.reply.states, strict=True):
                        if state.slot >= 0 and not (check.window.startswith(KEPT) or lease.has_forgotten(check)):
                            self._owe(lease.ask, check, state.slot, -check.cost, moment)
        return moment

    def _release(self, lease: Lease[_Name]) -> None:
        for name in lease.counters:
            self._open[name] -= 1
            if not self._open[name]:
                del self._open[name]

    def _look(self, ask: Ask, moment: int, now: float) -> Program[tuple[Reply, list[Look]]]:
        for check in ask.checks:
            if not 0 <= check.cost <= MAX_AMOUNT:
                raise ValueError(
                    f"A cost is a whole number from 0 to 2**53 - 1; {check.window} was asked for {check.cost!r}."
                )
        yield from self._tell()
        if ask.holder:
            ends, number = divmod((yield Get(bar_key(ask.tag, ask.holder))), BAR_BASE)
            if ends * US > moment:
                return Reply(False, (), barred=STATUSES[number if number < len(STATUSES) else 0]), []
        looks: list[Look] = []
        unseeded: list[int] = []
        for position, check in enumerate(ask.checks):
            place = place_of(ask.tag, check, moment, ask.lease)
            if check.is_booked and not (yield Get(place.mark[0])):
                unseeded.append(position)
            amounts: list[int] = []
            for slot in place.slots:
                amount = yield Get(place.key(slot))
                amounts.append(max(0, amount))
            looks.append(Look(check, place, amounts))
        if unseeded:
            return Reply(False, (), unseeded=tuple(unseeded)), []
        admitted = all(look.fitted for look in looks if look.check.enforced)
        return Reply(admitted, tuple([looked(look, moment, now) for look in looks])), looks

    def _charge(self, ask: Ask, looks: list[Look], reply: Reply, moment: int, now: float) -> Program[Reply]:
        are_shadows_charged = all(look.fitted for look in looks if not look.check.enforced)
        states = list(reply.states)
        taken: list[Look] = []
        is_kept = False
        try:
            for position, look in enumerate(looks):
                if not (are_shadows_charged or look.check.enforced):
                    continue
                yield from _add(look, taken)
                if look.check.enforced and not look.would_fit(look.used - look.check.cost):
                    # Somebody took it since the look.
                    look.amounts[0] -= look.check.cost
                    refused = looked(look, moment, now)
                    return Reply(False, (*reply.states[:position], refused, *reply.states[position + 1 :]))
                states[position] = charged(look, moment, now)
            is_kept = True
        finally:
            if not is_kept:
                with self._lock:
                    for look in taken:
                        self._owe(ask, look.check, look.place.slots[0], -look.check.cost, moment)
        return Reply(True, tuple(states))

    # -- what is owed; under the lock, but for `_tell` ----------------------------------------------------------------

    def _owe(self, ask: Ask, check: Check, slot: int, amount: int, moment: int) -> None:
        place = place_of(ask.tag, check, moment, ask.lease)
        if slot >= place.slots[-1]:
            self._owe_key(place.key(slot), amount, place.seconds)

    def _owe_key(self, key: str, amount: int, seconds: int) -> None:
        amount += self._owed.pop(key, (0, 0))[0]
        if amount:
            self._owed[key] = (amount, seconds)

    def _owe_moves(self, settlement: Settlement, lease: Lease[_Name] | None, moment: int) -> None:
        reservation = settlement.reservation
        slots = [hold.slot for hold in reservation.holds]
        if lease is not None:  # a heartbeat may have moved it
            slots = [state.slot for state in lease.reply.states if state.slot >= 0]
        for hold, slot, actual in zip(reservation.holds, slots, settlement.actual, strict=True):
            check = hold.check
            held = check.cost if lease is not None or check.window.startswith(KEPT) else 0
            more = -held if ALGORITHMS[check.algorithm].RELEASES else actual - held
            if more < 0 and lease is not None and lease.has_forgotten(check):
                continue
            place = place_of(reservation.tag, check, moment, 0.0 if lease is None else lease.ask.lease)
            if slot >= place.slots[-1]:
                self._owe_key(place.key(slot), more, place.seconds)

    def _brought_up(self, lease: Lease[_Name], moment: int) -> Iterable[CheckState]:
        for check, state in zip(lease.ask.checks, lease.reply.states, strict=True):
            if state.slot < 0 or lease.has_forgotten(check) or not ALGORITHMS[check.algorithm].RELEASES:
                yield state
                continue
            newest = place_of(lease.ask.tag, check, moment, lease.ask.lease).slots[0]
            if newest != state.slot:
                self._owe(lease.ask, check, newest, check.cost, moment)
                self._owe(lease.ask, check, state.slot, -check.cost, moment)
            yield replace(state, slot=newest)

    def _tell(self) -> Program[None]:
        # Off the list first: an operation whose answer is lost may have been done, and is not done twice.
        for _ in range(TOLD_AT_ONCE):
            with self._lock:
                if not self._owed:
                    return
                key = next(iter(self._owed))
                amount, seconds = self._owed.pop(key)
            if amount > 0:
                yield Add(key, amount, seconds)
            else:
                yield from _take_off(key, -amount, seconds)


def _add(look: Look, taken: list[Look]) -> Program[None]:
    """
    Charge *look*, and bring it up to date.
    """
    check, place = look.check, look.place
    look.amounts[0] = max(check.cost, (yield Add(place.key(place.slots[0]), check.cost, place.seconds)))
    taken.append(look)
    if check.cost and check.enforced and place.neighbours:
        # Others look and charge at the same time, on both sides of the border of a slot. Of two of them, the one that
        # charges second sees the other's charge here.
        before, after = place.neighbours
        look.amounts[1] = max(0, (yield Get(place.key(before))))
        look.ahead = max(0, (yield Get(place.key(after))))


def _take_off(key: str, amount: int, seconds: int) -> Program[None]:
    """
    Take *amount* off a counter, and never below nothing: it may have been credited or lost meanwhile.
    """
    left = yield Add(key, -amount, seconds)
    if left < 0:
        yield Add(key, -left, seconds)
