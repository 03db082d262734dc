"""
Counters in this process's memory.

One lock, no thread, no timer: whatever has to be tidied is tidied a little in each call. The same state serves threads
(`MemoryBackend`) and event loops (`AsyncMemoryBackend`), because no call ever waits for anything but the lock.
"""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

from tokenbudget_mw.backends.leases import Lease, Leases
from tokenbudget_mw.errors import BackendUnavailableError
from tokenbudget_mw.rules.windows import ALGORITHMS, MAX_AMOUNT, State
from tokenbudget_mw.values import CheckState, Reply

if TYPE_CHECKING:
    from tokenbudget_mw.values import Ask, Check, Hold, Settlement

__all__ = ["AsyncMemoryBackend", "MemoryBackend"]

KEPT = "requests:"
"""Windows that keep what an expired lease held."""

EXAMINED = 16
"""How many counters a new one looks at for an idle one."""

# Looked up thrice a request.
PEEK = {name: algorithm.peek for name, algorithm in ALGORITHMS.items()}
CHARGE = {name: algorithm.charge for name, algorithm in ALGORITHMS.items()}

EMPTY: State = [0]
"""What a window is that was never charged. Never changed."""


class _Counter:
    """
    All windows of one counter.

    Attributes:
        windows: Window -> state.

        open: Windows that open leases hold something of.

        busy_until: When everything counted here has left, in microseconds.
    """

    __slots__ = ("busy_until", "open", "windows")

    def __init__(self) -> None:
        self.windows: dict[str, State] = {}
        self.open = 0
        self.busy_until = 0

    def is_idle(self, moment: int) -> bool:
        """
        Tell whether nothing is counted or held here.
        """
        return not self.open and self.busy_until <= moment


class MemoryBackend:
    """
    A `Backend` for one process.

    Args:
        max_counters: How many counters to keep. Beyond it idle ones are forgotten (nothing counted, nothing reserved),
            never one that is in use; at twice as many, all in use, a new one is answered by `BackendUnavailableError`.
    """

    def __init__(self, *, max_counters: int = 100_000) -> None:
        self._lock = Lock()
        self._counters: dict[tuple[str, str], _Counter] = {}
        self._ring: list[tuple[str, str]] = []
        self._hand = 0
        self._max_counters = max_counters
        self._leases: Leases[_Counter] = Leases()
        self._newest = 0

    def reserve(self, ask: Ask, now: float) -> Reply:
        """
        Take all costs of *ask*, or none.
        """
        real = round(now * 1_000_000)
        with self._lock:
            moment = real if self._newest <= real < self._leases.next_due else self._clamp(real)
            if ask.id in self._leases.open:
                return self._leases.open[ask.id].reply
            looks, admitted, shadowed = self._look(ask, moment)
            if not admitted:
                return Reply(False, tuple([_state(look, moment, real) for look in looks]))
            counters = [look[1] or self._counter(ask.tag, look[0], moment) for look in looks]
            states = []
            for look, counter in zip(looks, counters):  # noqa: B905 - one a look, as made above
                check, _, state, slot, _, used = look
                if not (shadowed or check.enforced):
                    states.append(_state(look, moment, real))
                    continue
                if state is EMPTY:
                    state = counter.windows.setdefault(check.window, [0])
                empty_at = CHARGE[check.algorithm](state, check.params, slot, check.cost, moment)
                counter.busy_until = max(counter.busy_until, empty_at)
                counter.open += 1
                left = check.cap - used - check.cost
                states.append(CheckState(True, max(0, left), (empty_at - real) / 1_000_000, 0.0, slot))
            reply = Reply(True, tuple(states))
            self._newest = moment
            self._leases.add(Lease(moment + int(ask.lease * 1_000_000), ask, reply, counters))
            return reply

    def peek(self, ask: Ask, now: float) -> Reply:
        """
        Answer as `reserve` would, and charge nothing.
        """
        real = round(now * 1_000_000)
        with self._lock:
            moment = self._clamp(real)
            looks, admitted, _ = self._look(ask, moment)
            return Reply(admitted, tuple([_state(look, moment, real) for look in looks]))

    def settle(self, settlement: Settlement, now: float) -> bool:
        """
        Move every held window to its actual amount; False where that was done before.
        """
        reservation = settlement.reservation
        with self._lock:
            moment = self._clamp(round(now * 1_000_000))
            lease = self._leases.close(reservation.id)
            ended_unsettled = self._leases.claim(reservation.id)
            if lease is None and not ended_unsettled:
                return False
            self._newest = moment
            for hold, actual in zip(reservation.holds, settlement.actual, strict=True):
                self._move(reservation.tag, hold, actual, moment, is_held=lease is not None)
            if lease is not None:
                _release(lease)
            return True

    def close(self) -> None:
        """
        Nothing to give back.
        """

    def knows(self, id: str) -> bool:  # noqa: A002 - the name it has everywhere
        """
        Tell whether the reservation *id* was made here and is not settled.
        """
        return id in self._leases

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
                _give_back(lease)
        return moment

    def _look(self, ask: Ask, moment: int) -> tuple[list[_Look], bool, bool]:
        # Returns the looks, whether all enforced checks fit, and whether all the others do.
        looks: list[_Look] = []
        admitted = shadowed = True
        tag = ask.tag
        counters = self._counters
        name = counter = None
        for check in ask.checks:
            cost = check.cost
            if not 0 <= cost <= MAX_AMOUNT:
                raise ValueError(
                    f"A cost is a whole number from 0 to 2**53 - 1; {check.window} was asked for {cost!r}."
                )
            if check.counter is not name:  # most checks of a request are about the same counter
                name = check.counter
                counter = counters.get((tag, name))
            state = counter.windows.get(check.window, EMPTY) if counter is not None else EMPTY
            slot, used = PEEK[check.algorithm](state, check.params, moment)
            need = cost if cost > check.room else check.room  # noqa: FURB136 - max() costs more than all of this
            fitted = used + need <= check.cap or not need
            if fitted:
                pass
            elif check.enforced:
                admitted = False
            else:
                shadowed = False
            looks.append((check, counter, state, slot, fitted, used))
        return looks, admitted, shadowed

    def _move(self, tag: str, hold: Hold, actual: int, moment: int, *, is_held: bool) -> None:
        check = hold.check
        algorithm = ALGORITHMS[check.algorithm]
        counter = self._counter(tag, check, moment)
        state = counter.windows.setdefault(check.window, [0])
        held = check.cost if is_held or check.window.startswith(KEPT) else 0
        more = -held if algorithm.RELEASES else actual - held
        if more > 0:
            counter.busy_until = max(counter.busy_until, algorithm.charge(state, check.params, hold.slot, more, moment))
        elif more < 0:
            algorithm.give_back(state, hold.slot, -more)

    # -- which counters are kept --------------------------------------------------------------------------------------

    def _counter(self, tag: str, check: Check, moment: int) -> _Counter:
        key = (tag, check.counter)
        counter = self._counters.get(key)
        if counter is None:
            self._make_room(key, moment)
            counter = self._counters[key] = _Counter()
        return counter

    def _make_room(self, key: tuple[str, str], moment: int) -> None:
        # A clock hand goes round: each new counter looks at a few old ones, and takes the place of an idle one.
        ring = self._ring
        if len(ring) >= self._max_counters:
            for _ in range(EXAMINED):
                self._hand = (self._hand + 1) % len(ring)
                if self._counters[ring[self._hand]].is_idle(moment):
                    del self._counters[ring[self._hand]]
                    ring[self._hand] = key
                    return
        if len(ring) >= 2 * self._max_counters:
            raise BackendUnavailableError(
                f"The memory backend holds {len(ring)} counters, all in use. Raise max_counters, or use redis://."
            )
        ring.append(key)


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

    async def aclose(self) -> None:
        """
        Nothing to give back.
        """


_Look = tuple["Check", "_Counter | None", State, int, bool, int]
"""A check, its counter, its state, the slot of now, whether it fits, what counts now."""


def _state(look: _Look, moment: int, real: int) -> CheckState:
    """
    Answer a check that is not charged.
    """
    check, _, state, _, fitted, used = look
    algorithm = ALGORITHMS[check.algorithm]
    reset = (algorithm.empty_at(state, check.params, moment) - real) / 1_000_000
    if fitted:
        wait: float | None = 0.0
    elif (need := max(check.cost, check.room)) > check.cap:
        wait = None
    else:
        excess = used + need - check.cap
        wait = (algorithm.frees_at(state, check.params, excess, moment) - real) / 1_000_000
    return CheckState(fitted, max(check.cap - used, 0), reset, wait, -1)


def _release(lease: Lease[_Counter]) -> None:
    """
    Take a lease off the counters that it holds.
    """
    for counter, state in zip(lease.counters, lease.reply.states, strict=True):
        if state.slot >= 0:
            counter.open -= 1


def _give_back(lease: Lease[_Counter]) -> None:
    """
    Undo what a lease holds that ended unsettled, but not the requests: they were made.
    """
    for check, counter, state in zip(lease.ask.checks, lease.counters, lease.reply.states, strict=True):
        if state.slot >= 0 and not check.window.startswith(KEPT):
            ALGORITHMS[check.algorithm].give_back(counter.windows[check.window], state.slot, check.cost)
    _release(lease)
