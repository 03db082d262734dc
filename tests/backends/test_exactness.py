"""
Random histories against a book that keeps every call by itself: what a limit promises holds after each step.

Reservations, settlements up and down, credits and ended leases, of two keys of one tenant, on many windows at once;
most moments are borders of slots, windows, periods and leases, or a microsecond beside them. On memory, and on a Redis
that takes the caller's moments.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest
from exact_book import Book
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokenbudget_mw.backends.memory import MemoryBackend
from tokenbudget_mw.testing.backends import ask, check, in_flight, settlement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tokenbudget_mw.backends.base import Backend
    from tokenbudget_mw.values import Ask, Check, Reply

START_US = 1_700_000_000_000_000
SLOT_US = 500_000
MOST = 10**6
DAY_US = 20_000_000
LONG = 600.0  # a lease longer than every window here

moves = st.one_of(
    st.tuples(st.sampled_from([0, 0, 1, 2, 11, 12, 13, 14, 40]), st.sampled_from([0, 0, 1, -1])),
    st.tuples(st.integers(0, 16), st.integers(0, SLOT_US)),
)
costs = st.one_of(st.sampled_from([0, 1, 9, 10, 11]), st.integers(0, 10))
leases = st.sampled_from([1.0, 3.0, LONG])
acts = st.sampled_from(["reserve", "reserve", "reserve", "settle", "settle", "credit"])
histories = st.lists(
    st.tuples(moves, acts, st.sampled_from(["key=a", "key=b"]), costs, st.integers(0, 25), st.integers(0, 30), leases),
    min_size=10,
    max_size=40,
)
patient = st.lists(st.tuples(moves, st.just("reserve"), st.just("key=a"), costs, *[st.just(0)] * 2, st.just(LONG)))


@pytest.fixture(params=["memory", "redis"])
def opened(request: pytest.FixtureRequest) -> Iterator[Callable[[], Backend]]:
    """
    Give a backend to each example: a new one, or the same Redis, in which each history has keys of its own.
    """
    if request.param == "memory":
        yield MemoryBackend
        return
    redis = pytest.importorskip("tokenbudget_mw.backends.redis")
    backend = redis.RedisBackend(request.getfixturevalue("redis_db"), deadline=5.0, clock="caller")
    yield lambda: backend
    backend.close()


def with_settings(examples: int) -> Any:
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.differing_executors]
    return settings(max_examples=examples, deadline=None, suppress_health_check=quiet)


def limits(key: str, cost: int, now_us: int, *, calls: int = 3) -> tuple[Check, ...]:
    """
    The limits of a request of *key*: its own, then those that it shares with the other key of its tenant.
    """
    day = tuple(START_US + DAY_US * ((now_us - START_US) // DAY_US + k) for k in range(3))
    enforced = (
        check(cost, 10, "requests:6", params=(SLOT_US, 12), counter=key),
        check(cost, 15, "tokens:7/gcra", params=(7_000_000, 15), algorithm="gcra", counter=key),
        in_flight(calls, counter=key),
        check(cost, 14, "tokens:6", params=(SLOT_US * 2, 6), counter="tenant=t"),
        check(cost, 60, "money:day", params=day, algorithm="calendar", counter="tenant=t"),
    )
    if key == "key=a":
        return enforced  # where all is enforced and fits, backends take a shorter way
    return (*enforced, check(cost, 9, "shadow:6", params=(SLOT_US, 12), counter="tenant=t", enforced=False))


class History:
    """
    One history on one backend, and the book of it.
    """

    def __init__(self, backend: Backend, *, calls: int = 3) -> None:
        self.backend = backend
        self.book = Book()
        self.tag = uuid.uuid4().hex
        self.now_us = START_US
        self._calls = calls
        self._replies: list[tuple[Ask, Reply]] = []

    @property
    def now(self) -> float:
        return self.now_us / 1_000_000

    def asked(self, key: str, cost: int, lease: float = LONG) -> Ask:
        return ask(*limits(key, cost, self.now_us, calls=self._calls), tag=self.tag, lease=lease)

    def used(self) -> dict[tuple[str, str], int]:
        """
        Return what every window counts, by counter and window.
        """
        every = [*self.asked("key=a", 0).checks[:3], *self.asked("key=b", 0).checks]
        free = [check(0, MOST, c.window, params=c.params, algorithm=c.algorithm, counter=c.counter) for c in every]
        states = self.backend.peek(ask(*free, tag=self.tag), self.now).states
        return {(c.counter, c.window): MOST - state.remaining for c, state in zip(every, states, strict=True)}

    def step(self, move: tuple[int, int], act: str, key: str, cost: int, actual: int, choice: int, lease: float) -> Any:
        """
        Let time pass, then act; return the ask and its refusal where there is one.
        """
        border, beside = move
        self.now_us = max(self.now_us, (self.now_us // SLOT_US + border) * SLOT_US + beside)
        self.book.expire(self.now_us)
        if act == "reserve":
            return self.reserve(self.asked(key, cost, lease))
        if act == "credit":
            self.credit(self.asked(key, cost))
        elif self._replies:
            at = choice % len(self._replies)
            asked, reply = self._replies[at]
            told = settlement(asked, reply, *[actual] * sum(state.slot >= 0 for state in reply.states))
            is_first = self.book.settle(self.book.calls[at], actual, self.now_us)
            assert self.backend.settle(told, self.now) == is_first
        return None

    def reserve(self, asked: Ask) -> Any:
        before = self.used()
        reply = self.backend.reserve(asked, self.now)
        assert reply.admitted == all(s.fits for s, c in zip(reply.states, asked.checks, strict=True) if c.enforced)
        if not reply.admitted:
            assert self.used() == before
            return asked, reply
        self._replies.append((asked, reply))
        self.book.admit(asked, reply, self.now_us)
        for one, state in zip(asked.checks, reply.states, strict=True):
            if state.slot >= 0 and one.cost:
                self.keeps_its_promise(one)
        return None

    def credit(self, asked: Ask) -> None:
        before = self.used()
        self.backend.credit(asked, self.now)
        for name, counted in self.used().items():
            self.book.credits[name] = self.book.credits.get(name, 0) + before[name] - counted

    def keeps_its_promise(self, one: Check) -> None:
        """
        Assert, at the moment of an admission, what the limit *one* promises.
        """
        match one.algorithm:
            case "strict_log":
                length = one.params[0] * one.params[1]
                assert self.book.spent(one, self.now_us - length + 1, self.now_us) <= one.cap
            case "calendar":
                assert self.book.spent(one, one.params[0], self.now_us) <= one.cap
            case "gcra":
                self.leaks_no_faster(one)
            case _:
                assert self.book.spent(one, 0, self.now_us) <= one.cap

    def leaks_no_faster(self, one: Check) -> None:
        length, cap = one.params
        for begin in {entry.moment for entry in self.book.entries(one)}:
            leaked = (self.now_us - begin) * cap // length + 1
            assert self.book.spent(one, begin, self.now_us) <= cap + leaked + self.book.refunded(one, begin)

    def counts_what_the_book_says(self) -> None:
        """
        Assert that windows count all that they must, and nothing for longer than they say.
        """
        counted = self.used()
        for one in (*self.asked("key=a", 0).checks[:3], *self.asked("key=b", 0).checks):
            used, credited = counted[one.counter, one.window], self.book.credits.get((one.counter, one.window), 0)
            if one.algorithm == "concurrent" and not credited:
                assert used == self.book.in_flight(one)
            elif one.algorithm == "calendar" and not credited:
                assert used == self.book.spent(one, one.params[0], self.now_us)
            elif one.algorithm == "strict_log":
                slot, slots = one.params
                assert used >= self.book.spent(one, self.now_us - slot * slots + 1, self.now_us)
                assert used <= self.book.spent(one, self.now_us - slot * (slots + 1) + 1, self.now_us) + credited


@given(histories)
@with_settings(150)
def test_no_trailing_window_and_no_period_is_ever_passed(opened: Callable[[], Backend], steps: list[Any]) -> None:
    """
    Whatever is settled, credited or lost, an admission never brings any trailing window, period or count above its limit;
    a refusal changes no counter; and counters hold what the history says.
    """
    history = History(opened())
    for step in steps:
        history.step(*step)
        history.counts_what_the_book_says()


@given(patient.filter(lambda steps: len(steps) > 4), costs.filter(lambda cost: 0 < cost <= 10))
@with_settings(100)
def test_t06_all_limits_together_admit_at_retry_after_and_not_a_microsecond_before(
    opened: Callable[[], Backend], steps: list[Any], cost: int
) -> None:
    """
    The longest wait of the limits that refuse is the first moment at which the request is admitted.
    """
    history = History(opened(), calls=1000)
    for step in steps:
        history.step(*step)
    refusal = history.reserve(history.asked("key=a", cost))
    if refusal is None:
        return
    asked, reply = refusal
    wait = max(s.retry_after for s, c in zip(reply.states, asked.checks, strict=True) if c.enforced)
    history.now_us += round(wait * 1_000_000)

    early = history.backend.reserve(ask(*asked.checks, tag=history.tag), (history.now_us - 1) / 1_000_000)
    assert not early.admitted
    assert history.backend.reserve(ask(*asked.checks, tag=history.tag), history.now).admitted
