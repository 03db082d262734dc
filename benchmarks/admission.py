"""
Admission in memory: one question with 1 or 3 limits, against the peers that keep counters in memory.

Timed is the whole step behind a reservation: a fresh question, the lock, every limit, the lease and the reply with what
is left of each. Settling comes later in a request's life and is timed by itself. Limits are so large that all is admitted.
"""

from __future__ import annotations

import time
from itertools import count

from limits import parse_many
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from pyrate_limiter import InMemoryBucket, Limiter, Rate

from benchmarks.harness import Contender, Result, Scale, compare
from tokenbudget_mw.backends.memory import MemoryBackend
from tokenbudget_mw.values import Ask, Check, Cost, Hold, Reply, Reservation, Settlement

__all__ = ["HUGE", "LIMITS", "admit_memory_1", "admit_memory_3", "checks", "new_ids", "settlement_of"]

HUGE = 10**12
LIMITS = ((60, 1), (3_600, 1), (86_400, 500))
"""Window in seconds and cost, as a request has them: two of requests, one of tokens."""

_IDS = count(1)


def admit_memory_1(scale: Scale) -> Result:
    """
    One limit.
    """
    return _admit(scale, 1, goal="<= 0.8 us")


def admit_memory_3(scale: Scale) -> Result:
    """
    Three limits, all or nothing.
    """
    return _admit(scale, 3, goal="<= 1.5 us and >= 4x faster than the best peer")


def checks(limits: int, counter: str = "key=k1") -> tuple[Check, ...]:
    """
    Return *limits* checks of one counter, with windows as `LIMITS` has them.
    """
    return tuple(
        Check(counter, f"{'tokens' if cost > 1 else 'requests'}:{seconds}", "strict_log",
              (seconds * 1_000_000 // 60, 60), cost, HUGE)
        for seconds, cost in LIMITS[:limits]
    )  # fmt: skip


class _Reserving:
    """
    Reserves; settles what was reserved, and makes new ids, while nobody looks at the clock.
    """

    def __init__(self, limits: int, calls: int) -> None:
        self.ids = new_ids(calls)
        self.backend = MemoryBackend()
        self.checks = checks(limits)
        self.open: list[tuple[Ask, Reply]] = []

    def reserve(self, calls: int) -> None:
        backend, asked, keep, clock = self.backend, self.checks, self.open.append, time.time
        for identity in self.ids[:calls]:
            ask = Ask(identity, "tenant:acme", asked)
            keep((ask, backend.reserve(ask, clock())))

    def settlements(self) -> list[Settlement]:
        done = [settlement_of(ask, reply) for ask, reply in self.open]
        self.open.clear()
        return done

    def settle(self) -> None:
        for settlement in self.settlements():
            self.backend.settle(settlement, time.time())
        self.ids = new_ids(len(self.ids))


class _Settling:
    """
    Settles as many reservations as are asked for; reserving them is not timed.
    """

    def __init__(self, limits: int, calls: int) -> None:
        self._ours = _Reserving(limits, calls)
        self._calls = calls
        self.refill()

    def refill(self) -> None:
        self._ours.reserve(self._calls)
        self._ours.ids = new_ids(self._calls)
        self._waiting = iter(self._ours.settlements())

    def run(self, calls: int) -> None:
        backend, clock = self._ours.backend, time.time
        for _, settlement in zip(range(calls), self._waiting, strict=False):
            backend.settle(settlement, clock())


def new_ids(calls: int) -> list[str]:
    start = next(_IDS) * 10**9
    return [f"{start + number:032x}" for number in range(calls)]


def settlement_of(ask: Ask, reply: Reply) -> Settlement:
    holds = tuple([Hold(check, state.slot) for check, state in zip(ask.checks, reply.states, strict=True)])
    units = ("requests",) * len(holds)
    reservation = Reservation(ask.id, ask.tag, holds, units, Cost(), time.time() + 600)
    return Settlement(reservation, tuple(hold.check.cost for hold in holds))


def _admit(scale: Scale, limits: int, *, goal: str) -> Result:
    calls = 5_000
    ours, settling = _Reserving(limits, scale.calls(calls)), _Settling(limits, scale.calls(calls))
    pyrate = _Pyrate(limits)
    seen = compare(
        {
            "ours": Contender(ours.reserve, ours.settle),
            "settle": Contender(settling.run, settling.refill),
            "limits, fixed windows": Contender(_limits_fixed(limits)),
            "pyrate-limiter, log": Contender(pyrate.run, pyrate.renew),
        },
        scale,
        calls=calls,
    )
    value, settle = seen.pop("ours"), seen.pop("settle")
    peer = min(seen, key=lambda name: seen[name])
    met = value <= 0.8 if limits == 1 else value <= 1.5 and value * 4 <= seen[peer]
    return Result(value, "us CPU", peer, seen[peer], goal, met, {"settle_us": settle, **seen})


def _limits_fixed(limits: int):
    limiter = FixedWindowRateLimiter(MemoryStorage())
    items = parse_many(";".join(f"{HUGE} per {seconds} seconds" for seconds, _ in LIMITS[:limits]))
    costs = [cost for _, cost in LIMITS[:limits]]

    def run(calls: int) -> None:
        pairs, hit = list(zip(items, costs, strict=True)), limiter.hit
        for _ in range(calls):
            for item, cost in pairs:
                hit(item, "acme", "k1", cost=cost)

    return run


class _Pyrate:
    """
    All limits in one bucket, which keeps an entry a hit: a new one each turn, or it would only get slower.
    """

    def __init__(self, limits: int) -> None:
        self._rates = [Rate(HUGE + at, seconds * 1_000) for at, (seconds, _) in enumerate(LIMITS[:limits])]
        self.renew()

    def renew(self) -> None:
        self._limiter = Limiter(InMemoryBucket(self._rates))

    def run(self, calls: int) -> None:
        acquire = self._limiter.try_acquire
        for _ in range(calls):
            assert acquire("k1", blocking=False)
