"""
Counters in this process's memory.

One lock, no thread, no timer: whatever has to be tidied is tidied a little in each call. The same state serves threads
(`MemoryBackend`) and event loops (`AsyncMemoryBackend`), because no call ever waits for anything but the lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenbudget_mw import threads
from tokenbudget_mw.backends.base import MAX_OPEN
from tokenbudget_mw.backends.calm import Calms
from tokenbudget_mw.backends.counters import EMPTY, NOBODY, Counter, Counters, Held, has, release
from tokenbudget_mw.backends.leases import Lease, Leases
from tokenbudget_mw.backends.looks import Look
from tokenbudget_mw.rules.windows import ALGORITHMS, MAX_AMOUNT, fits
from tokenbudget_mw.values import CROWDED, CheckState, Reply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenbudget_mw.values import Ask, Check, Reservation, Seed, Settlement

__all__ = ["AsyncMemoryBackend", "MemoryBackend"]

KEPT = "requests:"
"""Windows that keep what an expired lease held."""

# Looked up thrice a request.
TAKE = {name: algorithm.take for name, algorithm in ALGORITHMS.items()}
RELEASES = frozenset(name for name, algorithm in ALGORITHMS.items() if algorithm.RELEASES)


class MemoryBackend:
    """
    A `Backend` for one process.

    Args:
        max_counters: How many counters to keep; see `Counters`.
    """

    def __init__(self, *, max_counters: int = 100_000) -> None:
        self._lock = threads.lock()
        self._counters = Counters(max_counters)
        self._leases: Leases[Counter] = Leases()
        self._bars: dict[tuple[str, str], tuple[str, int]] = {}
        self._calms = Calms()
        self._newest = 0

    def reserve(self, ask: Ask, now: float) -> Reply:
        """
        Take all costs of *ask*, or none.
        """
        real = round(now * 1_000_000)
        try:
            self._lock.acquire()  # `with` costs twice as much; in here, as a signal's handler may raise right behind it
            moment = real if self._newest <= real < self._leases.next_due else self._clamp(real)
            leases, length = self._leases, ask.lease
            if ask.id in leases.usual or leases.are_many:
                known = leases.get(ask.id)
                if known is not None:
                    return known.reply
            if self._bars and (barred := self._barred(ask, moment)):
                return Reply(False, (), barred=barred)
            calm = self._calms.known.get(id(ask.checks))
            if calm is not None and moment < calm.until and calm.tag == ask.tag and (states := calm.take(real)):
                held: Held = calm.counters
            else:
                states, held = self._take(ask, moment, real)
            if states:
                reply = Reply(True, states)
            else:
                reply, held = self._take_slowly(ask, moment, real)
                if not reply.admitted:
                    return reply
            self._newest = moment
            if length:
                for counter in held:
                    counter.open += 1
                leases.add(Lease(moment + int(length * 1_000_000), ask, reply, held), length)
            return reply  # noqa: TRY300 - as above
        except BaseException:
            threads.own(self._lock)  # it may not be taken yet
            raise
        finally:
            self._lock.release()

    def peek(self, ask: Ask, now: float) -> Reply:
        """
        Answer as `reserve` would, and charge nothing.
        """
        real = round(now * 1_000_000)
        with self._lock:
            moment = self._clamp(real)
            if barred := self._barred(ask, moment):
                return Reply(False, (), barred=barred)
            if unseeded := self._unseeded(ask):
                return Reply(False, (), unseeded=unseeded)
            looks, admitted, _ = self._look(ask, moment)
            return Reply(admitted, tuple([look.answer(moment, real) for look in looks]))

    def settle(self, settlement: Settlement, now: float) -> bool:
        """
        Move every held window to its actual amount; False where that was done before.
        """
        reservation = settlement.reservation
        try:
            self._lock.acquire()  # as above
            moment = self._clamp(round(now * 1_000_000))
            lease = self._leases.close(reservation.id)
            if lease is None and not self._leases.claim(reservation.id):
                return False
            self._newest = moment
            forgotten = lease is not None and lease.forgotten
            for at, hold in enumerate(reservation.holds):  # zip() costs more than all of this
                check, actual = hold.check, settlement.actual[at]
                held = check.cost if lease is not None or check.window.startswith(KEPT) else 0
                more = -held if check.algorithm in RELEASES else actual - held
                if more > 0 or (more and not (forgotten and (check.counter, check.window) in forgotten)):
                    self._move(reservation.tag, check, hold.slot, more, moment)
            if lease is not None:
                release(lease.counters)
            return True  # noqa: TRY300 - as above
        except BaseException:
            threads.own(self._lock)
            raise
        finally:
            self._lock.release()

    def credit(self, ask: Ask, now: float) -> None:
        """
        Take each check's cost off its window, the newest charges first, at most all that counts.
        """
        with self._lock:
            moment = self._clamp(round(now * 1_000_000))
            for check in ask.checks:
                counter = self._counters.get((ask.tag, check.counter))
                if counter is not None and check.window in counter.layout:
                    state, algorithm = counter.state(check.window), ALGORITHMS[check.algorithm]
                    algorithm.credit(state, check.cost)
                    if not algorithm.peek(state, check.params, moment)[1]:  # what has left may still stand in it
                        self._leases.forget(ask.tag, check)

    def renew(self, reservation: Reservation, lease: float, now: float) -> bool:
        """
        Let an open reservation end *lease* seconds from now, and not earlier; False where it is not open any more.
        """
        with self._lock:
            moment = self._clamp(round(now * 1_000_000))
            is_open = self._leases.renew(reservation.id, moment + int(lease * 1_000_000), lease)
            if is_open:
                self._newest = moment  # leases are queued in the order of their moments
            return is_open

    def seed(self, tag: str, seeds: Sequence[Seed], now: float) -> None:
        """
        Start windows at what the books say; one that is known already stays as it is.
        """
        with self._lock:
            moment = self._clamp(round(now * 1_000_000))
            for seed in seeds:
                counter = self._counters.made((tag, seed.counter), moment, is_anonymous=seed.is_anonymous)
                if seed.window not in counter.layout:
                    self._newest = moment
                    for slot, amount in seed.charges or ((moment, 0),):
                        self._charge(counter, seed, slot, amount, moment)

    def bar(self, tag: str, counter: str, status: str, seconds: float, now: float) -> None:
        """
        Refuse asks whose holder is *counter*, as *status*, for *seconds*; none where *status* is empty.
        """
        with self._lock:
            moment = self._clamp(round(now * 1_000_000))
            self._bars = {at: bar for at, bar in self._bars.items() if bar[1] > moment and at != (tag, counter)}
            if status:
                self._bars[tag, counter] = (status, moment + round(seconds * 1_000_000))

    def close(self) -> None:
        """
        Nothing to give back.
        """

    def knows(self, id: str) -> bool:  # noqa: A002 - the name it has everywhere
        """
        Tell whether the reservation *id* was made here and is not settled.
        """
        return id in self._leases

    def ahead_of(self, now: float) -> float:
        """
        Return by how many seconds the newest call was later than *now*: counters stand still for so long.
        """
        return max(0.0, self._newest / 1_000_000 - now)

    def __len__(self) -> int:
        """
        Return how many counters are kept.
        """
        return len(self._counters)

    def as_async(self) -> AsyncMemoryBackend:
        """
        Return the same counters for an event loop.
        """
        return AsyncMemoryBackend(self)

    # -- the steps; all under the lock --------------------------------------------------------------------------------

    def _clamp(self, moment: int) -> int:
        # A clock that steps back neither frees nor loses what is counted.
        moment = max(moment, self._newest)
        if moment >= self._leases.next_due:
            for lease in self._leases.expire(moment):
                self._newest = moment
                self._give_back(lease)
        return moment

    def _take(self, ask: Ask, moment: int, real: int) -> tuple[tuple[CheckState, ...], Held]:
        # The way of nearly every request: one pass over known windows, in which everything fits. Where it does not
        # end well, all is put back exactly and `_take_slowly` starts anew.
        states: list[CheckState] = []
        held: list[Counter] = []
        name: str | None = None
        counter = NOBODY
        layout = counter.layout
        for check in ask.checks:
            if check.counter is not name:  # most checks of a request are about the same counter
                name = check.counter
                found = self._counters.get((ask.tag, name))
                if found is None or found.open >= MAX_OPEN:
                    break
                counter, layout = found, found.layout
                if not held or not has(held, counter):
                    held.append(counter)
            at, cost = layout.get(check.window), check.cost
            if at is None or cost < 0 or not check.enforced:
                break
            room, cap = check.room, check.cap
            need = cost if cost > room else room  # noqa: FURB136 - max() costs more than all of this
            most = cap - need if need else MAX_AMOUNT
            taken = TAKE[check.algorithm](counter[at], check.params, cost, most, moment)
            if taken is None:
                break
            slot, used, empty_at = taken
            if empty_at > counter.busy_until:  # noqa: PLR1730 - as above
                counter.busy_until = empty_at
            left = cap - used - cost
            states.append(CheckState(True, left if left > 0 else 0, (empty_at - real) / 1_000_000, 0.0, slot))  # noqa: FURB136
        else:
            if states:
                self._calms.see(ask, self._counters, moment)
            return tuple(states), held
        self._undo(ask, states)
        return (), held

    def _undo(self, ask: Ask, states: list[CheckState]) -> None:
        for check, state in zip(ask.checks, states, strict=False):
            counter = self._counters[ask.tag, check.counter]
            ALGORITHMS[check.algorithm].give_back(counter.state(check.window), state.slot, check.cost)

    def _take_slowly(self, ask: Ask, moment: int, real: int) -> tuple[Reply, Held]:
        # Looks at everything, then charges what is to be charged.
        held: list[Counter] = []
        if unseeded := self._unseeded(ask):
            return Reply(False, (), unseeded=unseeded), held
        looks, admitted, shadowed = self._look(ask, moment)
        if not admitted:
            return Reply(False, tuple([look.answer(moment, real) for look in looks])), held
        if ask.lease and any(self._is_crowded(ask.tag, check.counter) for check in ask.checks):
            return Reply(False, (), barred=CROWDED), held
        states = []
        for look in looks:
            check = look.check
            counter = self._counters.made((ask.tag, check.counter), moment, is_anonymous=ask.is_anonymous)
            if not has(held, counter):
                held.append(counter)
            if not (shadowed or check.enforced):
                states.append(look.answer(moment, real))
                continue
            slot = self._counters.slot(look.slot)
            empty_at = self._charge(counter, check, slot, check.cost, moment)
            left = check.cap - look.used - check.cost
            states.append(CheckState(True, max(0, left), (empty_at - real) / 1_000_000, 0.0, slot))
        return Reply(True, tuple(states)), held

    def _barred(self, ask: Ask, moment: int) -> str:
        status, until = self._bars.get((ask.tag, ask.holder), ("", 0))
        return status if until > moment else ""

    def _unseeded(self, ask: Ask) -> tuple[int, ...]:
        known, checks = self._counters.know, enumerate(ask.checks)
        return tuple([at for at, check in checks if check.is_booked and not known(ask.tag, check)])

    def _is_crowded(self, tag: str, name: str) -> bool:
        counter = self._counters.get((tag, name))
        return counter is not None and counter.open >= MAX_OPEN

    def _look(self, ask: Ask, moment: int) -> tuple[list[Look], bool, bool]:
        # Returns the looks, whether all enforced checks fit, and whether all the others do.
        looks: list[Look] = []
        admitted = shadowed = True
        for check in ask.checks:
            if not 0 <= check.cost <= MAX_AMOUNT:
                raise ValueError(
                    f"A cost is a whole number from 0 to 2**53 - 1; {check.window} was asked for {check.cost!r}."
                )
            counter = self._counters.get((ask.tag, check.counter))
            state = EMPTY if counter is None else counter.state(check.window)
            slot, used = ALGORITHMS[check.algorithm].peek(state, check.params, moment)
            fitted = fits(used, max(check.cost, check.room), check.cap)
            admitted = admitted and (fitted or not check.enforced)
            shadowed = shadowed and (fitted or check.enforced)
            looks.append(Look(check, state, slot, used, fitted))
        return looks, admitted, shadowed

    def _charge(self, counter: Counter, check: Check | Seed, slot: int, amount: int, moment: int) -> int:
        algorithm = ALGORITHMS[check.algorithm]
        if check.window in counter.layout:
            empty_at = algorithm.charge(counter.state(check.window), check.params, slot, amount, moment)
        else:
            state = [0]
            empty_at = algorithm.charge(state, check.params, slot, amount, moment)
            counter.append(state.copy())  # the copy is no longer than it must be
            counter.layout = self._counters.layout(counter.layout, check.window)
        counter.busy_until = max(counter.busy_until, empty_at)
        return empty_at

    def _move(self, tag: str, check: Check, slot: int, more: int, moment: int) -> None:
        counter = self._counters.made((tag, check.counter), moment)
        if more > 0:
            self._charge(counter, check, slot, more, moment)
        elif check.window in counter.layout:
            ALGORITHMS[check.algorithm].give_back(counter.state(check.window), slot, -more)

    def _give_back(self, lease: Lease[Counter]) -> None:
        # Undoes what a lease holds that ended unsettled, but not the requests: they were made.
        ask = lease.ask
        for check, state in zip(ask.checks, lease.reply.states, strict=True):
            if state.slot >= 0 and not (check.window.startswith(KEPT) or lease.has_forgotten(check)):
                counter = self._counters[ask.tag, check.counter]
                ALGORITHMS[check.algorithm].give_back(counter.state(check.window), state.slot, check.cost)
        release(lease.counters)


class AsyncMemoryBackend:
    """
    The counters of a `MemoryBackend`, for an event loop.
    """

    def __init__(self, backend: MemoryBackend | None = None) -> None:
        self._backend = backend if backend is not None else MemoryBackend()

    async def reserve(self, ask: Ask, now: float) -> Reply:
        """
        Take all costs of *ask*, or none.
        """
        return self._backend.reserve(ask, now)

    async def peek(self, ask: Ask, now: float) -> Reply:
        """
        Answer as `reserve` would, and charge nothing.
        """
        return self._backend.peek(ask, now)

    async def settle(self, settlement: Settlement, now: float) -> bool:
        """
        Move every held window to its actual amount; False where that was done before.
        """
        return self._backend.settle(settlement, now)

    async def credit(self, ask: Ask, now: float) -> None:
        """
        Take each check's cost off its window, the newest charges first, at most all that counts.
        """
        self._backend.credit(ask, now)

    async def renew(self, reservation: Reservation, lease: float, now: float) -> bool:
        """
        Let an open reservation end *lease* seconds from now, and not earlier; False where it is not open any more.
        """
        return self._backend.renew(reservation, lease, now)

    async def seed(self, tag: str, seeds: Sequence[Seed], now: float) -> None:
        """
        Start windows at what the books say; one that is known already stays as it is.
        """
        self._backend.seed(tag, seeds, now)

    async def bar(self, tag: str, counter: str, status: str, seconds: float, now: float) -> None:
        """
        Refuse asks whose holder is *counter*, as *status*, for *seconds*; none where *status* is empty.
        """
        self._backend.bar(tag, counter, status, seconds, now)

    async def aclose(self) -> None:
        """
        Nothing to give back.
        """
