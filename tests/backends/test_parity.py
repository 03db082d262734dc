"""
Python and Lua tell the same story.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tokenbudget_mw.backends.memory import MemoryBackend
from tokenbudget_mw.testing.asks import ask, check, seed, settlement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenbudget_mw.backends.base import Backend
    from tokenbudget_mw.values import Check

redis = pytest.importorskip("tokenbudget_mw.backends.redis")

START = 1_700_000_000.0
SLOT_US, SLOTS = 1_000_000, 6
DAY = [int(START * 1e6) + 20_000_000 * k for k in range(3)]

# Most moments are borders, or a microsecond beside them: of slots (half seconds), windows, leases and the day.
moves = st.one_of(
    st.tuples(
        st.just("border"),
        st.sampled_from([0, 1, 2, 6, 11, 12, 13, 14, 40, -2, -14]),
        st.sampled_from([0, 0, 0, 1, -1]),
    ),
    st.tuples(st.just("later"), st.sampled_from([0, 1_000_000, 3_000_000]), st.just(0)),
    st.tuples(st.just("later"), st.integers(0, 9_000_000), st.just(0)),
)
costs = st.one_of(st.sampled_from([0, 1, 9, 10, 11]), st.integers(0, 10))


def windows(counter: str, cost: int, more: int, room: int) -> tuple[Check, ...]:
    """
    All that a request may be checked for, on one counter.
    """
    return (
        check(cost, 10, "requests:6", params=(SLOT_US, SLOTS), counter=counter),
        check(more, 30, "tokens:6", params=(SLOT_US // 2, SLOTS * 2), counter=counter, room=room),
        check(more, 60, "money:day", params=tuple(DAY), algorithm="calendar", counter=counter, room=room),
        check(1, 3, "concurrent", params=(), algorithm="concurrent", counter=counter),
        check(cost, 12, "tokens:7/gcra", params=(7_000_000, 12), algorithm="gcra", counter=counter, room=room),
        check(more, 5, "shadow:6", params=(SLOT_US, SLOTS), counter=counter, enforced=False),
        check(cost, 4, "shadow:day", params=tuple(DAY), algorithm="calendar", counter=counter, enforced=False),
    )


def usual(counter: str, cost: int, more: int, room: int, choice: int) -> tuple[Check, ...]:
    """
    Some of the enforced ones, of which the script has a quick way, often with caps that are seldom reached; a large amount.
    """
    *enforced, _, _ = windows(counter, cost, more, room)
    roomy = [
        replace(one, cap=one.cap * (50 if choice % 3 else 1))
        for number, one in enumerate(enforced)
        if not choice >> number & 1
    ]
    return (*roomy, check(more << 28, 1 << 40, "money:6", params=(SLOT_US, SLOTS), counter=counter, room=room))


def of_books(counter: str, cost: int) -> tuple[Check, ...]:
    """
    What the books know, of each algorithm that they seed.
    """
    return (
        check(cost, 40, "spent:6", params=(SLOT_US, SLOTS), counter=counter, is_booked=True),
        check(cost, 60, "spent:day", params=tuple(DAY), algorithm="calendar", counter=counter, is_booked=True),
        check(cost, 50, "spent:7/gcra", params=(7_000_000, 50), algorithm="gcra", counter=counter, is_booked=True),
    )


ACTS = [*["reserve"] * 3, *["usual"] * 4, *["settle"] * 4, "peek", "credit", "renew", "seed", "bar", "booked", "booked"]

steps = st.tuples(
    moves,
    st.sampled_from(ACTS),
    costs,
    st.integers(0, 20),
    st.integers(0, 30),
    st.sampled_from([1.0, 3.0, 600.0, 0.0]),
    st.sampled_from([0, 0, 0, 1, 10, 31]),
)


@pytest.fixture
def shared(redis_db: str) -> Iterator[Backend]:
    backend = redis.RedisBackend(redis_db, deadline=5.0, clock="caller")
    yield backend
    backend.close()


class Histories:
    """
    The same calls to two backends, compared answer by answer.
    """

    def __init__(self, one: Backend, two: Backend) -> None:
        self.backends = (one, two)
        self.tag = uuid.uuid4().hex
        self.now_us = int(START * 1_000_000)
        self.made: list[Any] = []

    def move(self, kind: str, amount: int, beside: int) -> None:
        if kind == "later":
            self.now_us += amount
        else:
            half = SLOT_US // 2
            self.now_us = (self.now_us // half + amount) * half + beside

    def step(self, move: Any, act: str, cost: int, more: int, choice: int, lease: float, room: int) -> None:
        self.move(*move)
        if act == "credit":
            asked = ask(*windows("key=k", cost, more, room), tag=self.tag)
            self.both(lambda backend: backend.credit(asked, self.now))
        elif act in ("reserve", "usual", "peek", "booked"):
            checks = of_books("key=k", cost) if act == "booked" else windows("key=k", cost, more, room)
            checks = usual("key=k", cost, more, room, choice) if act == "usual" else checks
            asked = ask(*checks, tag=self.tag, lease=lease, holder="key=h" if choice % 2 else "key=k")
            reply = self.both(lambda backend: getattr(backend, "peek" if act == "peek" else "reserve")(asked, self.now))
            if act != "peek" and reply.admitted and lease:
                self.made.append((asked, reply))
        elif act == "seed":
            self.seed(of_books("key=k", 0), cost, more, choice)
        elif act == "bar":
            # Memory has one clock, Redis one a counter: with a clock that steps back a bar ends twice there. None ends here.
            counter, status = "key=h" if choice % 2 else "key=k", ("revoked", "suspended", "")[choice % 3]
            self.both(lambda backend: backend.bar(self.tag, counter, status, 10_000.0, self.now))
            self.both(lambda backend: backend.peek(ask(*windows("key=k", 0, 0, 0), tag=self.tag), self.now))
        elif self.made:
            self.follow(act, *self.made[choice % len(self.made)], more, lease)

    def seed(self, checks: tuple[Check, ...], cost: int, more: int, choice: int) -> None:
        border = self.now_us // SLOT_US * SLOT_US
        slots = {
            "strict_log": [(border - 2 * SLOT_US, more), (border + SLOT_US, cost), (border, cost)],
            "calendar": [(DAY[0], more), (DAY[1], cost)],
            "gcra": [(border - SLOT_US, cost)],
        }
        seeds = [seed(*slots[one.algorithm][choice % 3 :], of=one) for one in checks]
        self.both(lambda backend: backend.seed(self.tag, seeds, self.now))

    def follow(self, act: str, asked: Any, reply: Any, more: int, lease: float) -> None:
        charged = [one for one, state in zip(asked.checks, reply.states, strict=True) if state.slot >= 0]
        told = settlement(asked, reply, *[more << 28 if one.window == "money:6" else more for one in charged])
        if act == "settle":
            self.both(lambda backend: backend.settle(told, self.now))
        elif act == "renew" and told.reservation.holds:
            self.both(lambda backend: backend.renew(told.reservation, lease, self.now))

    @property
    def now(self) -> float:
        return self.now_us / 1_000_000

    def both(self, call: Any) -> Any:
        one, two = (call(backend) for backend in self.backends)
        assert one == two
        return one


# what a credit leaves has left the window already, but not yet the state
LEFT = [
    (("border", 0, 0), "usual", 0, 1, 1, 600.0, 0),
    (("border", 13, 0), "usual", 0, 6, 21, 1.0, 0),
    (("later", 0, 0), "credit", 0, 6, 0, 1.0, 0),
    (("border", 0, 0), "reserve", 0, 1, 0, 3.0, 0),
    (("border", 2, 0), "reserve", 0, 0, 0, 1.0, 0),
]


@given(st.lists(steps, min_size=15, max_size=40))
@example(LEFT)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_memory_and_redis_answer_random_histories_alike(shared: Backend, history: list[Any]) -> None:
    """
    Reserving, peeking, settling, expiring, with a clock that also steps back: every answer is equal.
    """
    both = Histories(MemoryBackend(), shared)
    for step in history:
        both.step(*step)
