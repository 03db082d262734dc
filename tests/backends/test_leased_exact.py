"""
What processes admit from quota reserved ahead never passes a limit, in any trailing window, and all of it is told.
"""

from __future__ import annotations

import time
import uuid
from itertools import pairwise
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokenbudget_mw.backends import open_pair
from tokenbudget_mw.backends.leased import LeasedBackend, make_stock
from tokenbudget_mw.backends.leased.shapes import Terms
from tokenbudget_mw.backends.memory import MemoryBackend
from tokenbudget_mw.testing.backends import ask, check, settlement

if TYPE_CHECKING:
    from tokenbudget_mw.backends.base import Backend

START_US = 1_700_000_000_000_000
SLOT_US, SLOTS = 500_000, 6
LENGTH_US = SLOT_US * SLOTS
REQUESTS, TOKENS, DAY = 40, 300, 900
PERIODS = (START_US - 5_000_000, START_US + 5_200_000, START_US + 500_000_000)

# Most moments are borders, or a microsecond beside them: of slots, of the window, of the period.
moves = st.one_of(
    st.just((0, 0)),
    st.just((0, 0)),
    st.tuples(st.sampled_from([1, 2, 5, 6, 7, 13]), st.sampled_from([-1, 0, 0, 1])),
    st.tuples(st.just(-1), st.integers(0, 2_000_000)),
)
steps = st.tuples(
    moves,
    st.sampled_from(["reserve", "reserve", "reserve", "burst", "settle", "settle", "close"]),
    st.integers(0, 2),  # the process
    st.sampled_from([1, 1, 2, 5, 20]),
    st.integers(0, 40),
)


class Call(NamedTuple):
    """
    An admitted call: when, and what it was charged for.
    """

    at_us: int
    requests: int
    tokens: int


class History:
    """
    Three processes that share limits, and what they admitted.
    """

    def __init__(self, terms: Terms, shared: Backend) -> None:
        self.shared = shared
        self.tag = uuid.uuid4().hex
        self.processes = [LeasedBackend(self.shared, make_stock(terms, is_virtual=True)) for _ in range(3)]
        self.now_us = START_US
        self.calls: dict[str, Call] = {}
        self.open: list[Any] = []
        self.is_exact = True

    @property
    def now(self) -> float:
        return self.now_us / 1_000_000

    def move(self, borders: int, beside: int) -> None:
        if borders < 0:
            self.now_us += beside
        elif borders:
            self.now_us = max(self.now_us, (self.now_us // SLOT_US + borders) * SLOT_US + beside)

    def checks(self, tokens: int) -> tuple[Any, ...]:
        params = (SLOT_US, SLOTS)
        return (
            check(1, REQUESTS, "requests:3", params=params),
            check(tokens, TOKENS, "tokens:3", params=params),
            check(tokens, DAY, "tokens:day", params=PERIODS, algorithm="calendar", counter="tenant=t"),
        )

    def step(self, move: tuple[int, int], act: str, process: int, tokens: int, choice: int) -> None:
        self.move(*move)
        if act == "close":
            # a call that is open then stays charged as it was reserved, where it turns out cheaper
            self.is_exact = self.is_exact and not any(owner == process for owner, _, _ in self.open)
            self.processes[process].close()
        elif act == "settle":
            if self.open:
                self.settle(process, choice)
        else:
            for _ in range(choice if act == "burst" else 1):
                self.reserve(process, tokens)

    def reserve(self, process: int, tokens: int) -> None:
        asked = ask(*self.checks(tokens), tag=self.tag)
        reply = self.processes[process].reserve(asked, self.now)
        if reply.admitted:
            self.calls[asked.id] = Call(self.now_us, 1, tokens)
            self.open.append((process, asked, reply))
            self.check_limits()

    def settle(self, _: int, choice: int) -> None:
        process, asked, reply = self.open.pop(choice % len(self.open))
        tokens = min(asked.checks[1].cost, choice)
        assert self.processes[process].settle(settlement(asked, reply, 1, tokens, tokens), self.now)
        self.calls[asked.id] = self.calls[asked.id]._replace(tokens=tokens)

    def check_limits(self) -> None:
        recent = [call for call in self.calls.values() if call.at_us > self.now_us - LENGTH_US]
        assert sum(call.requests for call in recent) <= REQUESTS
        assert sum(call.tokens for call in recent) <= TOKENS
        for begin, end in pairwise(PERIODS):
            assert sum(call.tokens for call in self.calls.values() if begin <= call.at_us < end) <= DAY

    def finish(self) -> None:
        """
        When all is settled and given back, what is counted is what was used, where it was used.
        """
        while self.open:
            self.settle(0, 7)
        for process in self.processes:
            process.close()
        counted = self.shared.peek(ask(*self.checks(0), tag=self.tag), self.now).states
        recent = [call for call in self.calls.values() if self.slot_end(call) > self.now_us - LENGTH_US]
        period = [call for call in self.calls.values() if (call.at_us < PERIODS[1]) == (self.now_us < PERIODS[1])]
        seen = [cap - state.remaining for cap, state in zip((REQUESTS, TOKENS, DAY), counted, strict=True)]
        true = [len(recent), sum(call.tokens for call in recent), sum(call.tokens for call in period)]
        assert seen == true or (not self.is_exact and all(one >= two for one, two in zip(seen, true, strict=True)))

    def slot_end(self, call: Call) -> int:
        return (call.at_us // SLOT_US + 1) * SLOT_US


class Unclosed:
    """
    A backend that many processes share, and none closes.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def close(self) -> None:
        pass


def run(history: list[Any], terms: Terms, shared: Backend) -> None:
    told = History(terms, shared)
    for step in history:
        told.step(*step)
    told.finish()


histories = st.lists(steps, min_size=10, max_size=40)


@pytest.mark.parametrize("share", [1, 3], ids=["greedy", "sharing"])
@given(histories, st.sampled_from([1, 4, 16]), st.sampled_from([1, 10, 50]))
@settings(max_examples=300, deadline=None)
def test_no_trailing_window_and_no_period_ever_passes_its_limit(
    share: int, history: list[Any], first: int, most: int
) -> None:
    """
    Three processes admit, settle and close at the borders of slots; each admission finds every limit kept, and in the end
    what is counted is what was used.
    """
    run(history, Terms(seconds=1.0, most=most, share=share, first=first), MemoryBackend())


@given(histories, st.sampled_from([1, 4, 16]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nor_does_any_on_redis(redis_db: str, history: list[Any], first: int) -> None:
    """
    The same, with the counters in Redis.
    """
    redis = pytest.importorskip("tokenbudget_mw.backends.redis")
    backend = redis.RedisBackend(redis_db, deadline=5.0, clock="caller")
    run(history, Terms(seconds=1.0, share=2, first=first), Unclosed(backend))
    backend.close()


CAP = 600


class Racer(Thread):
    """
    A process that asks until *ends*, every *pause* seconds, and writes down between which moments it was admitted.
    """

    def __init__(self, url: str, ends: float, terms: Terms, pause: float) -> None:
        super().__init__()
        self.url, self.ends, self.terms, self.pause = url, ends, terms, pause
        self.admitted: list[tuple[float, float]] = []
        self.has_begun = Event()

    def run(self) -> None:
        backend, _ = open_pair(f"leased+{self.url}", deadline=5.0, terms=self.terms)
        short, pause = check(1, CAP, "requests:1", params=(250_000, 4)), Event()
        while (before := time.time()) < self.ends:
            if backend.reserve(ask(short, lease=0.0), before).admitted:
                self.admitted.append((before, time.time()))
            self.has_begun.set()
            pause.wait(self.pause)
        backend.close()


def test_in_real_time_no_window_passes_its_limit(redis_db: str) -> None:
    """
    One process reserves a third of the limit and uses it slowly, two take what they can get: whatever lies surely within one
    second is not more than the limit, by Redis's clock and their own, and not much less either.
    """
    pytest.importorskip("redis")
    ends = time.time() + 3.0
    racers = [Racer(redis_db, ends, Terms(first=200, share=3), 0.004)]
    racers += [Racer(redis_db, ends, Terms(), 0.0005) for _ in range(2)]
    for racer in racers:
        racer.start()
        racer.has_begun.wait(10)
    for racer in racers:
        racer.join()
    admitted = sorted(each for racer in racers for each in racer.admitted)
    most = max(
        sum(1 for before, after in admitted[at:] if after <= begin + 1.0) for at, (begin, _) in enumerate(admitted)
    )

    assert most <= CAP
    assert len(admitted) >= CAP
