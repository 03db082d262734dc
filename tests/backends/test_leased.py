"""
Quota reserved ahead: what it saves, when it ends, and how all of it comes back.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from tokenbudget_mw.backends import open_pair
from tokenbudget_mw.backends.breaker import Circuit, Guarded
from tokenbudget_mw.backends.fallback import Fallback, LocalShare
from tokenbudget_mw.backends.leased import AsyncLeasedBackend, LeasedBackend, make_stock, shapes, stock
from tokenbudget_mw.backends.leased.portions import validity
from tokenbudget_mw.backends.leased.shapes import Terms
from tokenbudget_mw.backends.leased.stock import Stock
from tokenbudget_mw.backends.memory import AsyncMemoryBackend, MemoryBackend
from tokenbudget_mw.errors import BackendUnavailableError
from tokenbudget_mw.testing.asks import seed
from tokenbudget_mw.testing.backends import HOUR, MINUTE, START, ask, check, in_flight, settlement
from tokenbudget_mw.testing.clock import FakeClock
from tokenbudget_mw.values import CheckState

if TYPE_CHECKING:
    from collections.abc import Callable

    from private_servers import RedisServer

    from tokenbudget_mw.values import Ask, Reply, Settlement

TEN = Terms(first=10, most=10, share=1)
"""Each portion is for ten asks."""


class Counting(MemoryBackend):
    """
    A backend that keeps what it is asked, and may be away.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asks: list[Ask] = []
        self.told: list[Settlement] = []
        self.is_away = False

    def reserve(self, ask: Ask, now: float) -> Reply:
        self.look()
        self.asks.append(ask)
        return super().reserve(ask, now)

    def settle(self, settlement: Settlement, now: float) -> bool:
        self.look()
        self.told.append(settlement)
        return super().settle(settlement, now)

    def look(self) -> None:
        if self.is_away:
            raise BackendUnavailableError

    @property
    def costs(self) -> list[int]:
        return [asked.checks[0].cost for asked in self.asks]

    def used(self, now: float = START, **options: Any) -> int:
        return 10**6 - self.peek(ask(check(0, 10**6, **options)), now).states[0].remaining


@pytest.fixture
def shared() -> Counting:
    return Counting()


def leased(shared: Any, terms: Terms = TEN) -> LeasedBackend:
    return LeasedBackend(shared, make_stock(terms, is_virtual=True))


def hour(cost: int = 1, cap: int = 1000, **options: Any) -> Any:
    return check(cost, cap, "tokens:3600", params=HOUR, **options)


def admit(backend: Any, asked: Ask, now: float = START) -> Reply:
    reply: Reply = backend.reserve(asked, now)
    assert reply.admitted
    return reply


def test_a_busy_subject_seldom_asks(shared: Counting) -> None:
    """
    A thousand requests of one second are some ten round trips: each portion is twice the last, until it suffices.
    """
    backend = leased(shared, Terms())
    for at in range(1000):
        asked = ask(hour(1, 100_000))
        reply = admit(backend, asked, START + at / 1000)
        backend.settle(settlement(asked, reply), START + at / 1000)

    assert shared.costs == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    backend.close()
    assert shared.used(window="tokens:3600", params=HOUR) == 1000


def test_the_next_portion_is_what_the_last_term_had(shared: Counting) -> None:
    """
    A subject that calms down reserves less, and one that is slow nothing at all.
    """
    backend = leased(shared, Terms(first=16))
    for at in range(8):
        admit(backend, ask(hour(1, 100_000), lease=0.0), START + at / 10)
    admit(backend, ask(hour(1, 100_000), lease=0.0), START + 1.0)
    admit(backend, ask(hour(1, 100_000), lease=0.0), START + 10.0)
    admit(backend, ask(hour(1, 100_000), lease=0.0), START + 20.0)

    assert shared.costs == [16, 10, 1, 16]


def test_a_portion_is_a_small_part_of_what_is_left(shared: Counting) -> None:
    """
    Near the limit portions become small, so that little is held where others need it.
    """
    backend = leased(shared, Terms(share=8))
    while backend.reserve(ask(hour(1, 400), lease=0.0), START).admitted:
        pass

    sizes = [cost for cost in shared.costs if cost > 1]
    left = [400 - sum(shared.costs[:at]) for at, cost in enumerate(shared.costs) if cost > 1]
    assert len(sizes) > 10
    assert all(size <= rest / 8 for size, rest in zip(sizes, left, strict=True))
    assert shared.used(window="tokens:3600", params=HOUR) == 400


def test_after_a_refusal_the_backend_is_asked_each_time(shared: Counting) -> None:
    """
    Until the window frees, nothing is reserved ahead.
    """
    backend = leased(shared, Terms(first=2, share=1))
    for _ in range(10):
        admit(backend, ask(check(1, 10), lease=0.0))
    asked = len(shared.asks)
    for at in range(5):
        assert not backend.reserve(ask(check(1, 10), lease=0.0), START + at).admitted
    later = START + 61
    for _ in range(3):
        admit(backend, ask(check(1, 10), lease=0.0), later)

    assert len(shared.asks) - asked == 5 + 2
    assert shared.costs[-2:] == [1, 2]


def test_a_cost_above_what_is_held_is_asked_for(shared: Counting) -> None:
    """
    One ask larger than a portion takes its own way, and takes nothing from it.
    """
    backend = leased(shared)
    admit(backend, ask(hour(1), lease=0.0))
    admit(backend, ask(hour(500), lease=0.0))
    admit(backend, ask(hour(1), lease=0.0))

    assert shared.costs == [10, 500]


def test_what_others_of_this_process_hold_is_no_reason_to_refuse(shared: Counting) -> None:
    """
    A key's portion has taken the tenant's last tokens: another key of the same process gets them.
    """
    backend, tenant = leased(shared), hour(1, 10, counter="tenant=t")
    admit(backend, ask(hour(1, counter="key=a"), tenant, lease=0.0))

    for _ in range(9):
        admit(backend, ask(hour(1, counter="key=b"), tenant, lease=0.0))
    assert not backend.reserve(ask(hour(1, counter="key=b"), tenant, lease=0.0), START).admitted


@pytest.mark.parametrize(
    "other",
    [
        in_flight(100),
        check(1, 100, "tokens:60/gcra", params=(60_000_000, 100), algorithm="gcra"),
        check(1, 100, "tokens:12", params=(200_000, 60)),
    ],
    ids=["concurrent", "gcra", "short slots"],
)
def test_what_cannot_be_reserved_ahead_is_asked_for_whole(shared: Counting, other: Any) -> None:
    """
    One such check, and the whole ask goes to the backend, all or nothing as ever.
    """
    backend = leased(shared)
    for _ in range(5):
        admit(backend, ask(hour(1), other))

    assert shared.costs == [1] * 5


def test_a_shadow_limit_that_is_spent_is_asked_for(shared: Counting) -> None:
    """
    A shadow check is counted as if it were enforced: where that cannot be known here, the backend is asked.
    """
    backend = leased(shared)
    shadow = check(1, 3, "s:3600", params=HOUR, enforced=False)
    fits = [admit(backend, ask(hour(1), shadow)).states[1].fits for _ in range(5)]
    backend.close()

    assert fits == [True, True, True, False, False]
    assert shared.used(window="tokens:3600", params=HOUR) == 5
    assert shared.used(window="s:3600", params=HOUR) == 3


def test_room_is_held_too(shared: Counting) -> None:
    """
    A check for room is answered from what is held, and what is held leaves that room.
    """
    backend = leased(shared)
    for _ in range(5):
        assert admit(backend, ask(hour(1), check(0, 7, room=5), lease=0.0)).states[1].remaining == 7

    assert len(shared.asks) == 1
    assert not backend.reserve(ask(hour(1), check(0, 7, room=8), lease=0.0), START).admitted


def test_a_changed_cap_holds_at_once(shared: Counting) -> None:
    """
    What was reserved under the old cap is not used under the new one.
    """
    backend = leased(shared)
    admit(backend, ask(hour(1, 1000), lease=0.0))

    assert not backend.reserve(ask(hour(1, 0), lease=0.0), START).admitted


def test_a_portion_ends_with_its_slot_its_term_and_its_period(shared: Counting) -> None:
    """
    Whatever comes first: from then on a charge would stand elsewhere.
    """
    us = int(START * 1_000_000)
    day = check(1, 1000, "money:day", params=(us - 100, us + 300_000, us + 10**9), algorithm="calendar")
    for checks, good, over in (
        ([check(1, 1000)], 0.999999, 1.0),
        ([hour(1)], 0.999999, 1.0),
        ([hour(1), day], 0.299999, 0.3),
    ):
        backend = leased(other := Counting())
        for at in (0.0, good):
            admit(backend, ask(*checks, lease=0.0), START + at)
        assert len(other.asks) == 1
        admit(backend, ask(*checks, lease=0.0), START + over)
        assert len(other.asks) == 2


def test_what_a_slot_does_not_use_goes_back(shared: Counting) -> None:
    """
    The next call of the process gives back what the last slot left over.
    """
    backend = leased(shared)
    admit(backend, ask(check(1, 1000), lease=0.0))
    assert shared.used() == 10
    admit(backend, ask(hour(1), lease=0.0), START + 2)

    assert shared.used(START + 2) == 1


def test_a_settlement_below_the_reservation_is_used_again(shared: Counting) -> None:
    """
    What a call did not use is there for the next, at no round trip.
    """
    backend = leased(shared)
    for _ in range(19):
        asked = ask(hour(10, 200))
        backend.settle(settlement(asked, admit(backend, asked), 5), START)

    assert shared.costs == [100]
    backend.close()
    assert shared.used(window="tokens:3600", params=HOUR) == 95


def test_a_debt_is_told_though_other_calls_are_open(shared: Counting) -> None:
    """
    Others must hear at once of what was used beyond all that is held.
    """
    backend = leased(shared)
    asked, open_ = ask(hour(1)), ask(hour(1))
    reply, still = admit(backend, asked), admit(backend, open_)
    backend.settle(settlement(asked, reply, 500), START)

    assert shared.used(window="tokens:3600", params=HOUR) == 501
    backend.settle(settlement(open_, still, 2), START)
    backend.close()
    assert shared.used(window="tokens:3600", params=HOUR) == 502


def test_a_debt_is_told_at_once_where_nothing_else_is_open(shared: Counting) -> None:
    """
    The portion is over then, in the slot where it was charged.
    """
    backend = leased(shared)
    asked = ask(check(1, 1000))
    backend.settle(settlement(asked, admit(backend, asked), 500), START + 0.5)

    assert shared.used() == 500
    assert shared.used(START + 61) == 0


def test_a_debt_waits_for_a_backend_that_is_away(shared: Counting) -> None:
    """
    A fallback that decides alone meanwhile does not know of it, and it counts where its call did, not where it is told.
    """
    behind = Fallback(Guarded(shared, Circuit("redis", in_a_row=100)), LocalShare())
    backend = leased(behind)
    asked, open_ = ask(check(1, 1000)), ask(check(1, 1000))
    reply, still = admit(backend, asked), admit(backend, open_)
    shared.is_away = True
    backend.settle(settlement(asked, reply, 500), START + 0.5)
    shared.is_away = False
    backend.settle(settlement(open_, still, 2), START + 30)

    assert shared.used(START + 30) == 502
    assert shared.used(START + 61) == 0


def test_a_debt_whose_settlement_was_heard_and_not_answered_counts_once(
    shared: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    It is told again, and changes nothing then.
    """
    settle = shared.settle

    def lose_the_answer(told: Settlement, now: float) -> bool:
        settle(told, now)
        raise BackendUnavailableError

    backend = leased(shared)
    asked, open_ = ask(hour(1)), ask(hour(1))
    reply, still = admit(backend, asked), admit(backend, open_)
    monkeypatch.setattr(shared, "settle", lose_the_answer)
    backend.settle(settlement(asked, reply, 500), START)
    monkeypatch.setattr(shared, "settle", settle)
    backend.settle(settlement(open_, still, 2), START)
    backend.close()

    assert shared.used(window="tokens:3600", params=HOUR) == 502


def test_a_debt_does_not_start_a_window_that_was_lost(shared: Counting) -> None:
    """
    It starts at what the books say; what they do not know is charged in full.
    """
    books = check(1, 1000, "money:3600", params=HOUR, is_booked=True)
    backend = leased(shared)
    shared.seed("acme", [seed(of=books)], START)
    asked, open_ = ask(hour(1), books), ask(hour(1), books)
    reply, still = admit(backend, asked), admit(backend, open_)
    MemoryBackend.__init__(shared)
    backend.settle(settlement(asked, reply, 500, 500), START)
    backend.settle(settlement(open_, still, 1, 1), START)

    assert shared.peek(ask(hour(), books), START).unseeded == (1,)
    assert shared.used(window="tokens:3600", params=HOUR) >= 490


def test_t11_the_same_call_twice_is_one_call(shared: Counting) -> None:
    """
    Reserved again under its id it is answered as before; settled again it changes nothing.
    """
    backend = leased(shared)
    first, asked = ask(hour(1)), ask(hour(3))
    for each in (first, asked):
        assert backend.reserve(each, START) == backend.reserve(each, START)
    told = settlement(asked, backend.reserve(asked, START), 2)

    assert [backend.settle(told, START) for _ in range(3)] == [True, False, False]
    backend.close()
    assert shared.used(window="tokens:3600", params=HOUR) == 3


def test_what_a_fallback_gives_is_not_kept(shared: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    While Redis is away each ask is decided by its policy, and what was given ahead is given back.
    """
    reserve = shared.reserve
    monkeypatch.setattr(shared, "reserve", lambda ask, now: replace(reserve(ask, now), degraded=True))
    backend = leased(shared)
    replies = [admit(backend, ask(hour(1), lease=0.0)) for _ in range(3)]

    assert all(reply.degraded for reply in replies)
    assert shared.costs == [10, 1, 1, 1]
    assert shared.used(window="tokens:3600", params=HOUR) == 3


def test_a_settlement_after_the_end_of_the_portion_is_told_where_it_was_charged(shared: Counting) -> None:
    """
    A call that takes minutes is settled in the slot that it began in, and leaves with it.
    """
    backend = leased(shared)
    asked = ask(check(1, 1000))
    reply = admit(backend, asked)
    admit(backend, ask(hour(1), lease=0.0), START + 5)
    backend.settle(settlement(asked, reply, 4), START + 40)

    assert shared.used(START + 60.9) == 4
    assert shared.used(START + 61) == 0


def test_t08_calls_that_nobody_settles_end_and_a_late_settlement_counts(shared: Counting) -> None:
    """
    Their tokens go back before the backend would take the whole portion; the requests stay; a settlement that comes later
    charges what was used, once.
    """
    backend = leased(shared)
    asked = ask(check(1, 100, "requests:3600", params=HOUR), hour(7), lease=20.0)
    reply = admit(backend, asked)
    admit(backend, ask(check(1, 100), lease=0.0), START + 22)

    assert shared.used(START + 22, window="requests:3600", params=HOUR) == 1
    assert shared.used(START + 22, window="tokens:3600", params=HOUR) == 0
    assert backend.settle(settlement(asked, reply, 1, 5), START + 30)
    assert not backend.settle(settlement(asked, reply, 1, 5), START + 30)
    assert shared.used(START + 30, window="requests:3600", params=HOUR) == 1
    assert shared.used(START + 30, window="tokens:3600", params=HOUR) == 5


def test_a_heartbeat_keeps_a_call_of_a_portion_open(shared: Counting) -> None:
    """
    The portion is renewed for it, and so outlives its first lease.
    """
    backend = leased(shared)
    asked = ask(hour(7), lease=20.0)
    reply = admit(backend, asked)
    told = settlement(asked, reply, 5)
    for at in (10, 25, 40):
        assert backend.renew(told.reservation, 20.0, START + at)
        admit(backend, ask(check(1, 100), lease=0.0), START + at + 5)

    assert shared.used(START + 55, window="tokens:3600", params=HOUR) == 70
    assert backend.settle(told, START + 55)
    assert shared.used(START + 55, window="tokens:3600", params=HOUR) == 5


def test_close_gives_back_what_is_not_used(shared: Counting) -> None:
    """
    What is open then counts as reserved; what it turns out to cost above that is told.
    """
    backend = leased(shared)
    asked = ask(hour(1))
    reply = admit(backend, asked)
    backend.close()

    assert shared.used(window="tokens:3600", params=HOUR) == 1
    assert backend.settle(settlement(asked, reply, 4), START)
    assert shared.used(window="tokens:3600", params=HOUR) == 4
    admit(backend, ask(hour(1)))


def test_t18_a_bar_is_seen_at_once_here_and_within_a_term_elsewhere(shared: Counting) -> None:
    """
    What other processes hold for the holder lasts a second at most, also if other holders of the windows go on.
    """
    here, there = leased(shared), leased(shared)
    mine, others = (ask(hour(1, holder_free), lease=0.0, holder="key=a") for holder_free in (1000, 1000))
    for backend in (here, there):
        admit(backend, mine)
    here.bar("acme", "key=a", "revoked", 60.0, START)

    assert here.reserve(others, START).barred == "revoked"
    assert there.reserve(others, START + 0.5).admitted
    admit(there, ask(hour(1), lease=0.0, holder="key=b"), START + 0.9)
    assert there.reserve(others, START + 1.0).barred == "revoked"


def test_nothing_is_lost_while_the_backend_is_away(shared: Counting) -> None:
    """
    What is held is used; what was used is told when the backend is back.
    """
    backend = leased(shared)
    asked = ask(hour(1))
    reply = admit(backend, asked)
    shared.is_away = True
    admit(backend, ask(hour(1), lease=0.0), START + 0.5)
    assert backend.settle(settlement(asked, reply), START + 0.9)
    with pytest.raises(BackendUnavailableError):
        backend.reserve(ask(hour(1)), START + 1)
    shared.is_away = False
    admit(backend, ask(check(1, 100), lease=0.0), START + 2)

    assert shared.used(START + 2, window="tokens:3600", params=HOUR) == 2


def test_t16_redis_away_is_the_policy_after_the_portion(redis_server: RedisServer) -> None:
    """
    While a portion lasts nobody notices; then each limit follows its `on_backend_error`, and Redis is used when it is back.
    """
    pytest.importorskip("redis")
    threads, _ = open_pair(f"leased+{redis_server.url}", deadline=0.5, terms=Terms(seconds=30.0, first=10))
    held = threads.reserve(ask(hour(1, on_error="deny"), lease=0.0), 0.0)
    redis_server.kill()
    still = threads.reserve(ask(hour(1, on_error="deny"), lease=0.0), 0.0)
    policies = [threads.reserve(ask(hour(1, on_error=on, counter="key=new")), 0.0) for on in ("allow", "deny", "local")]
    redis_server.start()
    wait_until(lambda: not threads.reserve(ask(hour(1, counter="key=back")), 0.0).degraded)
    threads.close()

    assert (held.admitted, still.admitted, still.degraded) == (True, True, False)
    assert [(reply.admitted, reply.degraded) for reply in policies] == [(True, True), (False, True), (True, True)]


def test_a_quiet_process_gives_back_by_itself(redis_db: str) -> None:
    """
    Nobody asks any more: what the term left over is back in Redis soon, by thread and by loop.
    """
    redis = pytest.importorskip("tokenbudget_mw.backends.redis")
    watch = redis.RedisBackend(redis_db, deadline=5.0)
    day = check(1, 1000, "tokens:86400", params=(1_440_000_000, 60))

    def used() -> int:
        return 1000 - int(watch.peek(ask(day), 0.0).states[0].remaining)

    async def main(loops: Any) -> None:
        await loops.reserve(ask(day, lease=0.0), time.time())
        assert used() > 2
        ends = time.monotonic() + 20
        while used() != 2:
            assert time.monotonic() < ends
            await asyncio.sleep(0.02)
        await loops.aclose()

    threads, loops = open_pair(f"leased+{redis_db}", deadline=5.0, terms=Terms(seconds=0.5, first=10))
    admit(threads, ask(day, lease=0.0), time.time())
    assert used() == 10
    wait_until(lambda: used() == 1)
    asyncio.run(main(loops))
    threads.close()
    watch.close()


def wait_until(ready: Callable[[], bool]) -> None:
    """
    Wait until *ready* says yes, for 20 seconds at most.
    """
    ends = time.monotonic() + 20
    while not ready():
        assert time.monotonic() < ends, "it never was"
        time.sleep(0.02)


def test_refills_that_cross_lose_nothing() -> None:
    """
    1,200 callers of one loop, whose questions are answered late and out of order: 1,000 are admitted, and counted.
    """

    class Slow(AsyncMemoryBackend):
        async def reserve(self, ask: Ask, now: float) -> Reply:
            reply = await super().reserve(ask, now)
            for _ in range(len(ask.id) + int(ask.id[:1], 16) * 3):
                await asyncio.sleep(0)
            return reply

    memory = MemoryBackend()
    backends = [AsyncLeasedBackend(Slow(memory), make_stock(Terms(share=4), is_virtual=True)) for _ in range(2)]

    async def one(number: int) -> bool:
        backend, key = backends[number % 2], f"key=k{number % 3}"
        asked = ask(check(1, 10_000, counter=key), hour(1, 1000, counter="tenant=t"))
        for _ in range(number % 50):
            await asyncio.sleep(0)
        for _ in range(20):  # what another holds just now may come back
            reply = await backend.reserve(asked, START)
            if reply.admitted:
                await backend.settle(settlement(asked, reply), START)
                return True
        return False

    async def main() -> int:
        return sum(await asyncio.gather(*[one(number) for number in range(1200)]))

    admitted = asyncio.run(main())
    used = 1000 - memory.peek(ask(hour(0, 1000, counter="tenant=t")), START).states[0].remaining
    assert admitted == 1000
    assert used == 1000


def test_loops_that_take_turns_need_one_task_to_tell(shared: Counting) -> None:
    """
    Of several loops one tells for all; where it rests, the next one does.
    """
    backend = AsyncLeasedBackend(AsyncMemoryBackend(shared), make_stock(TEN))
    one, two = asyncio.new_event_loop(), asyncio.new_event_loop()

    async def call() -> int:
        for _ in range(20):  # more than is held
            await backend.reserve(ask(hour(1, 10**6), lease=0.0), time.time())
        return len(asyncio.all_tasks())

    async def both() -> list[int]:
        found = []
        for _ in range(5):
            found.append(await call())
            with ThreadPoolExecutor(1) as thread:
                found.append(thread.submit(two.run_until_complete, call()).result())
        return found

    most = max(one.run_until_complete(both()))
    rested = two.run_until_complete(call())
    for loop in (one, two):
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.close()

    assert (most, rested) == (2, 2)


def test_a_loop_that_ends_tells_what_was_used(shared: Counting) -> None:
    """
    Loops that live for one request each, as those of test clients and of scripts, leave nothing for a later one to tell.
    """
    backend = AsyncLeasedBackend(AsyncMemoryBackend(shared), make_stock(TEN))
    day = {"window": "tokens:86400", "params": (1_440_000_000, 60)}

    async def call() -> None:
        asked = ask(check(1, 10**6, **day))
        reply = await backend.reserve(asked, time.time())
        await backend.settle(settlement(asked, reply, 50), time.time())

    for _ in range(3):
        asyncio.run(call())

    assert shared.used(time.time(), **day) == 150


def test_threads_share_a_stock(shared: Counting) -> None:
    """
    Eight threads of one process are admitted the limit, exactly.
    """
    backend = leased(shared, Terms(share=4))

    def one(_: int) -> bool:
        asked = ask(hour(3, 1500), check(1, 1000, "requests:3600", params=HOUR))
        reply = backend.reserve(asked, START)
        return reply.admitted and backend.settle(settlement(asked, reply), START)

    with ThreadPoolExecutor(8) as threads:
        admitted = sum(threads.map(one, range(1000)))

    backend.close()
    assert admitted == 500
    assert shared.used(window="tokens:3600", params=HOUR) == 1500
    assert shared.used(window="requests:3600", params=HOUR) == 500


def test_real_time_ends_a_portion_whatever_the_wall_clock_says(shared: Counting) -> None:
    """
    A wall clock that stands still or is set back keeps no portion, nor does one that is set forward.
    """
    clock = FakeClock(100.0)
    backend = LeasedBackend(shared, Stock(TEN, clock))
    for moment, real, asks in (
        (0.0, 100.0, 1),
        (0.0, 100.9, 1),
        (-500.0, 100.998, 1),
        (0.0, 101.0, 2),
        (60.0, 101.1, 3),
    ):
        clock.now = real
        admit(backend, ask(hour(1), lease=0.0), START + moment)
        assert len(shared.asks) == asks
    backend.close()


def test_memory_is_bounded(shared: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Shapes beyond a number ask each time, idle ones are forgotten, and open calls of a shape have a bound.
    """
    monkeypatch.setattr(shapes, "SHAPES", 3)
    monkeypatch.setattr(stock, "MAX_OPEN", 5)
    backend = leased(shared)
    for key in range(6):
        admit(backend, ask(hour(1, counter=f"key={key}"), lease=0.0))
    assert shared.costs == [10, 10, 10, 1, 1, 1]
    assert len(backend._stock._shapes) == 3
    later = START + 120
    for _ in range(7):
        admit(backend, ask(hour(1, counter="key=9")), later)

    assert shared.costs[6:] == [1, 10, 1]


def test_an_idle_shape_is_forgotten(shared: Counting) -> None:
    """
    A million subjects that come once leave nothing behind for ever.
    """
    backend = leased(shared, Terms())
    for number in range(50):
        admit(backend, ask(hour(1, counter=f"key={number}"), lease=0.0), START + 10 * number)

    assert len(backend._stock._shapes) <= 8
    assert backend._stock.is_empty


@pytest.mark.parametrize(
    ("states", "found"),
    [
        ([CheckState(True, 5, 60.75, 0.0, 9_000_000)], (8_250_000, 9_000_000)),
        ([CheckState(True, 5, 61.0, 0.0, 9_000_000)], (8_000_000, 9_000_000)),
        # a slot that began after the clock's now, or is over: the clock went back, or the window is cut another way
        ([CheckState(True, 5, 61.5, 0.0, 9_000_000)], None),
        ([CheckState(True, 5, 60.0, 0.0, 9_000_000)], None),
        ([CheckState(False, 5, 60.75, 0.0, -1)], None),
    ],
)
def test_how_long_a_portion_is_good_is_read_from_the_reply(states: list[CheckState], found: Any) -> None:
    """
    The backend's own moment follows from when the window will be empty; where it makes no sense, nothing is reserved.
    """
    assert validity([check(5, 10, params=MINUTE)], states) == found
