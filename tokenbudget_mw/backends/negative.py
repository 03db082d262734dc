"""
Refusals that are remembered: what a shared backend has refused is refused here until its time comes, at no round trip.

Nothing is ever admitted from memory, and nothing charged. An ask is answered only where all of the answer is known: the
wait of whatever refuses it, exactly, and what is left of the rest as the backend said it last. What other processes give
back, or an operator resets, is seen when the memory ends: after a second, by default.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from tokenbudget_mw import threads
from tokenbudget_mw.backends.base import away_since
from tokenbudget_mw.rules.windows import MAX_AMOUNT
from tokenbudget_mw.values import CheckState, Reply

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tokenbudget_mw.backends.base import AsyncBackend, Backend
    from tokenbudget_mw.values import Ask, Check, Reservation, Seed, Settlement

__all__ = ["AsyncNegativeCache", "NegativeCache", "Refusals"]

REMEMBERED = 10_000
"""How many different questions are remembered at most; the oldest are forgotten first."""

NOBODY_KNOWS = "concurrent"
"""Nobody knows when a call in flight ends."""

Key = tuple[Any, ...]


class _Seen(msgspec.Struct, frozen=True, gc=False):
    """
    What the backend said of one check.

    Attributes:
        low: The least that it refused; 1 where it refused nothing.

        high: The most that is known to wait as long as *low* does; 0 where it refused nothing.

        frees: When that fits, in microseconds of the memory's clock; None where it never does.

        remaining: What is left.

        empties: When the window is empty, in microseconds of the memory's clock.
    """

    low: int
    high: int
    frees: int | None
    remaining: int
    empties: int

    def state(self, need: int, moment: int) -> CheckState | None:
        """
        Return the state of a check that needs *need*; None where it is not known.
        """
        reset = (self.empties - moment) / 1_000_000 if self.empties > moment else 0.0
        if self.low <= need <= self.high:
            if self.frees is None:
                return CheckState(False, self.remaining, reset, None)
            wait = (self.frees - moment) / 1_000_000
            return CheckState(False, self.remaining, reset, wait) if wait > 0 else None
        return CheckState(True, self.remaining, reset) if need <= self.remaining else None

    def joined(self, older: _Seen) -> _Seen:
        """
        Return what both say together: needs between two that fit at one moment fit then, too.
        """
        if not self.high or not older.high or self.frees is None or older.frees is None:
            return self
        # By how much sooner it fits than all is gone: that tells moments apart, whatever a round trip took.
        if self.empties - self.frees != older.empties - older.frees:
            return self
        return msgspec.structs.replace(self, low=min(self.low, older.low), high=max(self.high, older.high))


class _Refusal(msgspec.Struct, frozen=True, gc=False):
    """
    A refused question, as it will be answered again.

    Attributes:
        until: When it is forgotten, in microseconds of the memory's clock.

        seen: What is known of each check.

        names: Tag and counter of each check, and of the holder.
    """

    until: int
    seen: tuple[_Seen, ...]
    names: frozenset[tuple[str, str]]


class Refusals:
    """
    What a backend has refused. Safe for threads and loops together.

    Args:
        seconds: How long it is remembered at most.

        is_virtual: Whether the moments of the calls count, as in tests and replays.
    """

    def __init__(self, seconds: float, *, is_virtual: bool = False) -> None:
        self._us = round(seconds * 1_000_000)
        self._clock = None if is_virtual else time.monotonic
        self._known: dict[Key, _Refusal] = {}
        self._by_counter: dict[tuple[str, str], set[Key]] = {}
        self._lock = threads.lock()

    def __len__(self) -> int:
        """
        Return how many questions are remembered.
        """
        return len(self._known)

    def answer(self, ask: Ask, now: float) -> Reply | None:
        """
        Refuse *ask* if that is what the backend would do; None where it must be asked.
        """
        known = self._known.get(_key(ask)) if self._known else None
        if known is None:
            return None
        moment = self._moment(now)
        if moment >= known.until:
            return None
        states, is_refused = [], False
        for check, seen in zip(ask.checks, known.seen, strict=True):
            cost, room = check.cost, check.room
            if type(cost) is not int or not 0 <= cost <= MAX_AMOUNT:
                return None
            state = seen.state(max(room, cost), moment)
            if state is None:
                return None
            is_refused = is_refused or (check.enforced and not state.fits)
            states.append(state)
        return Reply(False, tuple(states)) if is_refused else None

    def note(self, ask: Ask, reply: Reply, now: float) -> None:
        """
        Learn from the backend's *reply*: remember a refusal, and forget what an admission has changed.
        """
        if reply.admitted:
            self.forget(ask.tag, [check.counter for check in ask.checks])
            return
        if reply.degraded or not reply.states or not _can_remember(ask, reply):
            return
        moment = self._moment(now)
        seen = [_seen(check, state, moment) for check, state in zip(ask.checks, reply.states, strict=True)]
        frees = [each.frees for each, check in zip(seen, ask.checks, strict=True) if each.high and check.enforced]
        key = _key(ask)
        with self._lock:
            older = self._known.get(key)
            if older is not None:
                self._drop(key)
                if moment < older.until:
                    seen = [new.joined(old) for new, old in zip(seen, older.seen, strict=True)]
            until = min([moment + self._us, *[each for each in frees if each is not None]])
            names = frozenset([(ask.tag, ask.holder), *[(ask.tag, check.counter) for check in ask.checks]])
            self._remember(key, _Refusal(until, tuple(seen), names))

    def settled(self, settlement: Settlement) -> None:
        """
        Forget what *settlement* has changed.
        """
        if self._known:
            pairs = zip(settlement.reservation.holds, settlement.actual, strict=True)
            changed = [hold.check.counter for hold, actual in pairs if actual != hold.check.cost]
            self.forget(settlement.reservation.tag, changed)

    def forget(self, tag: str, counters: Iterable[str]) -> None:
        """
        Forget what was refused because of, or to, *counters* under *tag*.
        """
        if not self._known:
            return
        with self._lock:
            for counter in set(counters):
                for key in list(self._by_counter.get((tag, counter), ())):
                    self._drop(key)

    def _moment(self, now: float) -> int:
        return round((now if self._clock is None else self._clock()) * 1_000_000)

    def _remember(self, key: Key, refusal: _Refusal) -> None:
        while len(self._known) >= REMEMBERED:
            self._drop(next(iter(self._known)))
        self._known[key] = refusal
        for name in refusal.names:
            self._by_counter.setdefault(name, set()).add(key)

    def _drop(self, key: Key) -> None:
        for name in self._known.pop(key).names:
            keys = self._by_counter.get(name, set())
            keys.discard(key)
            if not keys:
                self._by_counter.pop(name, None)


def _key(ask: Ask) -> Key:
    key: Key = (ask.tag, ask.holder)
    for check in ask.checks:
        key = (key, check.counter, check.window, check.cap, check.enforced)
    return key


def _can_remember(ask: Ask, reply: Reply) -> bool:
    for check, state in zip(ask.checks, reply.states, strict=True):
        if not state.fits:
            if check.algorithm == NOBODY_KNOWS:
                return False
            if check.enforced and not state.retry_after:
                return False
    return True


def _seen(check: Check, state: CheckState, moment: int) -> _Seen:
    empties = moment + round(state.reset * 1_000_000) if state.reset else 0
    if state.fits:
        return _Seen(1, 0, None, state.remaining, empties)
    need = max(check.cost, check.room)
    if state.retry_after is None:
        return _Seen(need, need, None, state.remaining, empties)
    frees = moment + round(state.retry_after * 1_000_000)
    # where not even *need* fits before all is gone, more does not
    return _Seen(need, max(check.cap, need) if frees == empties else need, frees, state.remaining, empties)


class NegativeCache:
    """
    A `Backend` that is not asked again what it has just refused.

    Args:
        backend: What is asked otherwise.

        refusals: What it has refused, to be shared by both colours.
    """

    def __init__(self, backend: Backend, refusals: Refusals) -> None:
        self._backend = backend
        self._refusals = refusals

    @property
    def away_since(self) -> float | None:
        """
        Since when the backend is away, in epoch seconds; None while it is not.
        """
        return away_since(self._backend)

    def reserve(self, ask: Ask, now: float) -> Reply:
        """
        Take all costs of *ask*, or none.
        """
        known = self._refusals.answer(ask, now)
        if known is not None:
            return known
        reply = self._backend.reserve(ask, now)
        self._refusals.note(ask, reply, now)
        return reply

    def peek(self, ask: Ask, now: float) -> Reply:
        """
        Answer as the backend would reserve.
        """
        return self._backend.peek(ask, now)

    def settle(self, settlement: Settlement, now: float) -> bool:
        """
        Move every held window to its actual amount; False where that was done before.
        """
        is_moved = self._backend.settle(settlement, now)
        self._refusals.settled(settlement)
        return is_moved

    def credit(self, ask: Ask, now: float) -> None:
        """
        Take each check's cost off its window.
        """
        self._backend.credit(ask, now)
        self._refusals.forget(ask.tag, [check.counter for check in ask.checks])

    def renew(self, reservation: Reservation, lease: float, now: float) -> bool:
        """
        Let an open reservation end *lease* seconds from now, and not earlier; False where it is not open any more.
        """
        return self._backend.renew(reservation, lease, now)

    def seed(self, tag: str, seeds: Sequence[Seed], now: float) -> None:
        """
        Start windows at what the books say; one that is known already stays as it is.
        """
        self._backend.seed(tag, seeds, now)
        self._refusals.forget(tag, [seed.counter for seed in seeds])

    def bar(self, tag: str, counter: str, status: str, seconds: float, now: float) -> None:
        """
        Refuse asks whose holder is *counter*, as *status*, for *seconds*; none where *status* is empty.
        """
        self._backend.bar(tag, counter, status, seconds, now)
        self._refusals.forget(tag, [counter])

    def close(self) -> None:
        """
        Close the backend.
        """
        self._backend.close()


class AsyncNegativeCache:
    """
    An `AsyncBackend` that is not asked again what it has just refused. Arguments as of `NegativeCache`.
    """

    def __init__(self, backend: AsyncBackend, refusals: Refusals) -> None:
        self._backend = backend
        self._refusals = refusals

    async def reserve(self, ask: Ask, now: float) -> Reply:
        """
        Take all costs of *ask*, or none.
        """
        known = self._refusals.answer(ask, now)
        if known is not None:
            return known
        reply = await self._backend.reserve(ask, now)
        self._refusals.note(ask, reply, now)
        return reply

    async def peek(self, ask: Ask, now: float) -> Reply:
        """
        Answer as the backend would reserve.
        """
        return await self._backend.peek(ask, now)

    async def settle(self, settlement: Settlement, now: float) -> bool:
        """
        Move every held window to its actual amount; False where that was done before.
        """
        is_moved = await self._backend.settle(settlement, now)
        self._refusals.settled(settlement)
        return is_moved

    async def credit(self, ask: Ask, now: float) -> None:
        """
        Take each check's cost off its window.
        """
        await self._backend.credit(ask, now)
        self._refusals.forget(ask.tag, [check.counter for check in ask.checks])

    async def renew(self, reservation: Reservation, lease: float, now: float) -> bool:
        """
        Let an open reservation end *lease* seconds from now, and not earlier; False where it is not open any more.
        """
        return await self._backend.renew(reservation, lease, now)

    async def seed(self, tag: str, seeds: Sequence[Seed], now: float) -> None:
        """
        Start windows at what the books say; one that is known already stays as it is.
        """
        await self._backend.seed(tag, seeds, now)
        self._refusals.forget(tag, [seed.counter for seed in seeds])

    async def bar(self, tag: str, counter: str, status: str, seconds: float, now: float) -> None:
        """
        Refuse asks whose holder is *counter*, as *status*, for *seconds*; none where *status* is empty.
        """
        await self._backend.bar(tag, counter, status, seconds, now)
        self._refusals.forget(tag, [counter])

    async def aclose(self) -> None:
        """
        Close the backend.
        """
        await self._backend.aclose()
