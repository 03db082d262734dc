"""
The memory backend's own promises: bounded, thread-safe, one state for both colours.
"""

from __future__ import annotations

import asyncio
import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec
import pytest

from tokenbudget_mw.backends import open_pair
from tokenbudget_mw.backends.leases import Leases
from tokenbudget_mw.backends.memory import MemoryBackend
from tokenbudget_mw.errors import BackendUnavailableError
from tokenbudget_mw.testing.backends import HOUR, ask, check, in_flight, settlement
from tokenbudget_mw.testing.clock import FakeClock
from tokenbudget_mw.values import CROWDED, Ask, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """
    Let threads change places as often as they can.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.mark.usefixtures("eager_threads")
def test_t01_threads_settle_exactly_the_limit(clock: FakeClock) -> None:
    """
    200 requests of 8 threads against 100: what is settled is 100, and nothing else is charged.
    """
    backend = MemoryBackend()

    def request(_: int) -> int:
        asked = ask(check(1, 100), in_flight(1000))
        reply = backend.reserve(asked, clock())
        return backend.settle(settlement(asked, reply), clock()) if reply.admitted else 0

    with ThreadPoolExecutor(8) as threads:
        settled = sum(threads.map(request, range(200)))

    assert settled == 100
    assert backend.peek(ask(check(0, 100)), clock()).states[0].remaining == 0
    assert backend.peek(ask(in_flight(1)), clock()).admitted


def test_t09_after_ten_thousand_random_aborts_nothing_is_in_flight(clock: FakeClock) -> None:
    """
    Settled, settled twice, or lost: when the last lease has ended, no call counts, and windows hold what was settled.
    """
    chance = random.Random(9)
    backend = MemoryBackend()
    used = 0
    for _ in range(10_000):
        asked = ask(check(5, 10**9, "tokens:3600", params=HOUR), in_flight(10**6), lease=chance.choice([1.0, 30.0]))
        reply = backend.reserve(asked, clock())
        fate = chance.random()
        if fate < 0.6:
            amount = chance.randrange(20)
            for _again in range(chance.choice([1, 2])):
                backend.settle(settlement(asked, reply, amount, 1), clock())
            used += amount
        clock.advance(0.01)
    clock.advance(30.0)
    for _ in range(200):
        backend.peek(ask(in_flight(1)), clock())

    assert backend.peek(ask(in_flight(1)), clock()).admitted
    assert 10**9 - backend.peek(ask(check(0, 10**9, "tokens:3600", params=HOUR)), clock()).states[0].remaining == used


def test_idle_counters_make_room(clock: FakeClock) -> None:
    """
    A million subjects one after the other do not fill the memory.
    """
    backend = MemoryBackend(max_counters=50)
    for number in range(1000):
        asked = ask(check(counter=f"key={number}"))
        backend.settle(settlement(asked, backend.reserve(asked, clock())), clock())
        clock.advance(5.0)

    assert len(backend) == 50


def test_a_counter_in_use_is_never_forgotten(clock: FakeClock) -> None:
    """
    An exhausted and a reserved key survive any number of other keys.
    """
    backend = MemoryBackend(max_counters=10)
    exhausted = check(10, 10, window="tokens:3600", params=HOUR, counter="key=exhausted")
    reserved = in_flight(1, counter="key=reserved")
    spent = ask(exhausted)
    backend.settle(settlement(spent, backend.reserve(spent, clock())), clock())
    held = ask(reserved, lease=3600.0)
    reply = backend.reserve(held, clock())
    for number in range(300):
        asked = ask(check(counter=f"key={number}"))
        backend.settle(settlement(asked, backend.reserve(asked, clock())), clock())
        clock.advance(10.0)

    assert not backend.reserve(ask(exhausted), clock()).admitted
    assert not backend.reserve(ask(reserved), clock()).admitted
    backend.settle(settlement(held, reply), clock())
    assert backend.reserve(ask(reserved), clock()).admitted
    assert len(backend) <= 11


def test_more_counters_in_use_than_agreed_are_an_error(clock: FakeClock) -> None:
    """
    At twice the bound, all in use, a new counter is refused loudly and an old one is not reset.
    """
    backend = MemoryBackend(max_counters=10)
    for number in range(20):
        assert backend.reserve(ask(check(10, 10, counter=f"key={number}")), clock()).admitted

    with pytest.raises(BackendUnavailableError, match="20 counters, all in use"):
        backend.reserve(ask(check(counter="key=one-more")), clock())
    assert not backend.reserve(ask(check(counter="key=0")), clock()).admitted
    assert len(backend) == 20


def test_anonymous_counters_are_bounded_apart(clock: FakeClock) -> None:
    """
    As many addresses as there are in the world take no place from a key, and no key's count.
    """
    backend = MemoryBackend(max_counters=10)
    for number in range(20):
        flood = msgspec.structs.replace(ask(check(10, 10, counter=f"key=ip:{number}")), is_anonymous=True)
        assert backend.reserve(flood, clock()).admitted

    with pytest.raises(BackendUnavailableError, match="20 anonymous counters, all in use"):
        backend.reserve(msgspec.structs.replace(ask(check(counter="key=ip:20")), is_anonymous=True), clock())
    for number in range(20):
        assert backend.reserve(ask(check(10, 10, counter=f"key={number}")), clock()).admitted


def test_counters_of_models_are_bounded_apart_and_for_each_holder(clock: FakeClock) -> None:
    """
    As many models as a client can name take no place from a key's own counter, nor from another holder's models.
    """
    backend = MemoryBackend(max_counters=100)
    for number in range(64):
        assert backend.reserve(ask(check(10, 10, counter=f"key=k1,model=m{number}")), clock()).admitted

    with pytest.raises(BackendUnavailableError, match="64 models for one holder, all in use"):
        backend.reserve(ask(check(counter="key=k1,model=m64")), clock())
    assert not backend.reserve(ask(check(10, 10, counter="key=k1,model=m0")), clock()).admitted
    assert backend.reserve(ask(check(counter="key=k2,model=m64")), clock()).admitted
    for number in range(64):
        nobody = ask(check(10, 10, counter=f"key=ip:1,model=m{number}"))
        assert backend.reserve(msgspec.structs.replace(nobody, is_anonymous=True), clock()).admitted
    with pytest.raises(BackendUnavailableError, match="64 models for one holder, all in use"):
        backend.reserve(msgspec.structs.replace(ask(check(counter="key=ip:1,model=m64")), is_anonymous=True), clock())
    for number in range(200):
        assert backend.reserve(ask(check(10, 10, counter=f"key={number}")), clock()).admitted


def test_idle_counters_of_models_make_room_for_others(clock: FakeClock) -> None:
    """
    A thousand models one after the other, of one holder and of many, and of everybody, fill nothing; one that is spent stays.
    """
    backend = MemoryBackend(max_counters=80)
    wanted = check(10, 10, window="tokens:3600", params=HOUR, counter="key=k0,model=spent")
    spent = ask(wanted)
    backend.settle(settlement(spent, backend.reserve(spent, clock())), clock())
    for number in range(3000):
        holder = ("key=k0,", f"key=k{number // 5},", "")[number % 3]
        asked = ask(check(counter=f"{holder}model=m{number}"))
        backend.settle(settlement(asked, backend.reserve(asked, clock())), clock())
        clock.advance(0.9)

    assert len(backend) <= 160
    assert not backend.reserve(ask(wanted), clock()).admitted


def test_open_reservations_of_a_counter_are_bounded(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Beyond the bound an ask is crowded out and charges nothing; asks that hold nothing, and other counters, go on.
    """
    monkeypatch.setattr("tokenbudget_mw.backends.memory.MAX_OPEN", 3)
    backend = MemoryBackend()
    asked = [ask(check(1, 100)) for _ in range(4)]
    replies = [backend.reserve(one, clock()) for one in asked]

    assert [reply.admitted for reply in replies] == [True, True, True, False]
    assert replies[3].barred == CROWDED
    assert backend.peek(ask(check(0, 100)), clock()).states[0].remaining == 97
    assert backend.reserve(ask(check(1, 100), lease=0.0), clock()).admitted
    assert backend.reserve(ask(check(1, 100, counter="key=other")), clock()).admitted
    backend.settle(settlement(asked[0], replies[0]), clock())
    assert backend.reserve(asked[3], clock()).admitted


def test_refused_and_peeked_subjects_take_no_memory(clock: FakeClock) -> None:
    """
    Only what is charged is kept.
    """
    backend = MemoryBackend()
    for number in range(100):
        backend.reserve(ask(check(1, 0, counter=f"key={number}")), clock())
        backend.peek(ask(check(counter=f"key={number}")), clock())

    assert len(backend) == 0


def test_settled_reservations_take_no_memory(clock: FakeClock) -> None:
    """
    What was served leaves nothing behind but its counter.
    """
    leases: Leases[None] = Leases()
    backend = MemoryBackend()
    backend._leases = leases
    for _ in range(1000):
        asked = ask(check(1, 10**6))
        backend.settle(settlement(asked, backend.reserve(asked, clock())), clock())

    assert len(leases) == 0
    assert not any(leases._queues.values())
    assert not leases._unsettled


def test_leases_remember_a_bounded_number_of_unsettled_ends(clock: FakeClock) -> None:
    """
    The oldest unsettled end is forgotten first; its settlement then changes nothing.
    """
    backend = MemoryBackend()
    backend._leases = Leases(remembered=2)
    asked = [ask(check(1, 10), lease=1.0 + number) for number in range(3)]
    replies = [backend.reserve(one, clock()) for one in asked]
    clock.advance(10.0)
    answers = [backend.settle(settlement(*pair), clock()) for pair in zip(asked, replies, strict=True)]

    assert answers == [False, True, True]


def test_both_colours_share_one_state(clock: FakeClock) -> None:
    """
    A sync handler in an async app spends the same budget.
    """
    threads, loops = open_pair("memory://")
    assert threads.reserve(ask(check(10, 10)), clock()).admitted

    assert not asyncio.run(loops.reserve(ask(check(1, 10)), clock())).admitted


class Interrupted:
    """
    A lock behind whose taking a signal's handler raises, as Python lets it.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.release = self.lock.release
        self._is_owned = self.lock._is_owned  # type: ignore[attr-defined]

    def acquire(self) -> None:
        self.lock.acquire()
        raise TimeoutError


class Refused(Interrupted):
    """
    A lock before whose taking the handler raises, as it does where another thread holds the lock.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_first = True

    def acquire(self) -> None:
        if self.is_first:
            self.is_first = False
            raise TimeoutError
        self.lock.acquire()


@pytest.mark.parametrize("kind", [Interrupted, Refused])
@pytest.mark.parametrize("step", ["reserve", "settle"])
def test_a_signal_that_raises_as_the_lock_is_taken_leaves_it_free(
    clock: FakeClock, step: str, kind: type[Interrupted]
) -> None:
    """
    A time limit that a queue ends tasks by comes between any two steps; other threads must not wait for ever then, and what it
    raises is what the task hears of.
    """
    backend, asked = MemoryBackend(), ask(check(1, 10))
    reply = backend.reserve(asked, clock())
    backend._lock = interrupted = kind()  # type: ignore[assignment]

    with pytest.raises(TimeoutError):
        backend.reserve(asked, clock()) if step == "reserve" else backend.settle(settlement(asked, reply), clock())

    with ThreadPoolExecutor(1) as other:
        assert other.submit(interrupted.lock.acquire, blocking=False).result()


def test_it_starts_no_thread(clock: FakeClock) -> None:
    """
    Tidying happens inside the calls.
    """
    before = threading.active_count()
    backend = MemoryBackend()
    for _ in range(100):
        backend.reserve(ask(check(1, 10**6), lease=1.0), clock.advance(1.0))

    assert threading.active_count() == before


@pytest.mark.parametrize("lease", [600.0, 0.0])
def test_a_question_that_comes_again_and_again_is_answered_as_any_other(clock: FakeClock, lease: float) -> None:
    """
    The very same checks, worked out once, count as fresh ones do: through slots, settlements, credits, caps and refusals.
    """
    chance = random.Random(11)
    calm, fresh = MemoryBackend(), MemoryBackend()
    checks = (check(1, 40, "requests:60"), check(3, 90, room=5), check(1, 60, "requests:60", counter="tenant=t"))
    held: list[tuple[Ask, Reply, Reply]] = []
    worked_out = 0
    for number in range(6_000):
        asked = Ask(f"{number:032x}", "acme", checks, lease)
        other = msgspec.structs.replace(asked, checks=tuple([msgspec.structs.replace(one) for one in checks]))
        replies = calm.reserve(asked, clock()), fresh.reserve(other, clock())
        worked_out += len(calm._calms.known) > 0

        assert replies[0] == replies[1]
        if replies[0].admitted and lease:
            held.append((asked, *replies))
        if held and chance.random() < 0.5:
            ended, *both = held.pop(chance.randrange(len(held)))
            amounts = (1, chance.choice([0, 3, 20]), 1)
            for backend, reply in zip((calm, fresh), both, strict=True):
                assert backend.settle(settlement(ended, reply, *amounts), clock())
        if chance.random() < 0.02:
            amount = chance.choice([2, 2**53 - 1])
            for backend in (calm, fresh):
                backend.credit(ask(check(amount, 1, "requests:60")), clock())
        clock.advance(chance.choice([0.0, 0.001, 0.2, 1.0, 7.0]))

    assert worked_out > 1_000
