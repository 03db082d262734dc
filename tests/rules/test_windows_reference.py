"""
Every algorithm against a naive one that keeps everything, in another shape, and works each answer out anew.

Settings change under way: slots, lengths, amounts, periods.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenbudget_mw.rules.windows import ALGORITHMS, concurrent

if TYPE_CHECKING:
    from collections.abc import Callable

Params = tuple[int, ...]
START = 1_000_000


class Reference(Protocol):
    """
    The naive twin of an algorithm; see `tokenbudget_mw.rules.windows.Algorithm`.
    """

    def peek(self, params: Params, now: int) -> tuple[int, int]: ...

    def takes(self, params: Params, cost: int, most: int, now: int) -> bool | None: ...

    def charge(self, params: Params, slot: int, amount: int, now: int) -> int: ...

    def give_back(self, slot: int, amount: int) -> None: ...

    def credit(self, amount: int) -> None: ...

    def frees_at(self, params: Params, excess: int, now: int) -> int: ...

    def empty_at(self, params: Params, now: int) -> int: ...

    def lifetime(self, params: Params, now: int) -> int: ...


class Log:
    """
    Amounts by the end of their slot.
    """

    def __init__(self) -> None:
        self.slots: dict[int, int] = {}

    def alive(self, params: Params, now: int) -> dict[int, int]:
        return {end: n for end, n in sorted(self.slots.items()) if end + params[0] * params[1] > now}

    def peek(self, params: Params, now: int) -> tuple[int, int]:
        return now - now % params[0] + params[0], sum(self.alive(params, now).values())

    def takes(self, params: Params, cost: int, most: int, now: int) -> bool | None:
        slot, used = self.peek(params, now)
        if not used:
            return None  # what has left may still lie there, or not
        if used > most:
            return False
        newest = max(self.slots)
        return newest - params[0] <= now < newest or (slot > newest and cost > 0)

    def charge(self, params: Params, slot: int, amount: int, now: int) -> int:
        self.slots = self.alive(params, now)
        if amount and slot + params[0] * params[1] > now:
            self.slots[slot] = self.slots.get(slot, 0) + amount
        return max(self.slots) + params[0] * params[1] if self.slots else now

    def give_back(self, slot: int, amount: int) -> None:
        self.slots[slot] = max(0, self.slots.get(slot, 0) - amount)
        self.slots = {end: n for end, n in self.slots.items() if n}

    def credit(self, amount: int) -> None:
        for end in sorted(self.slots, reverse=True):
            part = min(amount, self.slots[end])
            amount -= part
            self.give_back(end, part)

    def frees_at(self, params: Params, excess: int, now: int) -> int:
        moment = now
        for end, n in self.alive(params, now).items():
            if excess > 0:
                excess, moment = excess - n, end + params[0] * params[1]
        return moment

    def empty_at(self, params: Params, now: int) -> int:
        return max([now, *[end + params[0] * params[1] for end in self.slots]])

    def lifetime(self, params: Params, now: int) -> int:
        return params[0] * params[1] + params[0]


class Periods:
    """
    The total of the newest period that was charged; one that has not begun ends none that runs.
    """

    def __init__(self) -> None:
        self.period: tuple[int, int] | None = None
        self.total = 0

    def of(self, params: Params, now: int) -> tuple[int, int]:
        asked = (params[0], params[1]) if now < params[1] else (params[1], params[2])
        if self.period is None:
            return asked
        runs_still = now < asked[0] and now < self.period[1]
        return self.period if runs_still or self.period[0] >= asked[0] else asked

    def peek(self, params: Params, now: int) -> tuple[int, int]:
        start = self.of(params, now)[0]
        return start, self.total if self.period is not None and self.period[0] == start else 0

    def takes(self, params: Params, cost: int, most: int, now: int) -> bool:
        is_this = self.period is not None and self.period[0] == params[0] and now < params[1]
        return is_this and self.total <= most

    def charge(self, params: Params, slot: int, amount: int, now: int) -> int:
        period = self.of(params, now)
        if period != self.period:
            self.period, self.total = period, 0
        self.total += amount if slot == period[0] else 0
        return self.empty_at(params, now)

    def give_back(self, slot: int, amount: int) -> None:
        if self.period is not None and self.period[0] == slot:
            self.total = max(0, self.total - amount)

    def credit(self, amount: int) -> None:
        self.total = max(0, self.total - amount)

    def frees_at(self, params: Params, excess: int, now: int) -> int:
        return max(now, self.of(params, now)[1]) if excess > 0 else now

    def empty_at(self, params: Params, now: int) -> int:
        return self.frees_at(params, self.peek(params, now)[1], now)

    def lifetime(self, params: Params, now: int) -> int:
        return max(0, params[2] - now)


class Flights:
    """
    A number.
    """

    def __init__(self) -> None:
        self.flying = 0

    def peek(self, params: Params, now: int) -> tuple[int, int]:
        return 0, self.flying

    def takes(self, params: Params, cost: int, most: int, now: int) -> bool:
        return self.flying <= most

    def charge(self, params: Params, slot: int, amount: int, now: int) -> int:
        self.flying += amount
        return self.empty_at(params, now)

    def give_back(self, slot: int, amount: int) -> None:
        self.flying = max(0, self.flying - amount)

    def credit(self, amount: int) -> None:
        self.give_back(0, amount)

    def frees_at(self, params: Params, excess: int, now: int) -> int:
        return now + (concurrent.RETRY_US if excess > 0 else 0)

    def empty_at(self, params: Params, now: int) -> int:
        return self.frees_at(params, self.flying, now)

    def lifetime(self, params: Params, now: int) -> int:
        return 0


class Bucket:
    """
    Exact fractions, where amounts and lengths divide well enough that floats are exact, too.
    """

    def __init__(self) -> None:
        self.level, self.since, self.rate, self.params = 0, 0, Fraction(1), ()

    def left(self, now: int) -> int:
        return max(0, self.level - math.floor((now - self.since) * self.rate))

    def peek(self, params: Params, now: int) -> tuple[int, int]:
        return now, self.left(now)

    def takes(self, params: Params, cost: int, most: int, now: int) -> bool:
        return 0 < self.left(now) <= most and self.params == params

    def charge(self, params: Params, slot: int, amount: int, now: int) -> int:
        if not self.left(now) or self.params != params:
            self.level, self.since, self.rate, self.params = self.left(now), now, Fraction(params[1], params[0]), params
        self.level += amount if now - slot < params[0] else 0
        return self.empty_at(params, now)

    def give_back(self, slot: int, amount: int) -> None:
        if slot >= self.since:
            self.level = max(0, self.level - amount)

    def credit(self, amount: int) -> None:
        self.level = max(0, self.level - amount)

    def leaked_at(self, amount: int) -> int:
        return self.since + math.ceil(amount / self.rate)

    def frees_at(self, params: Params, excess: int, now: int) -> int:
        return max(now, self.leaked_at(self.level - self.left(now) + excess)) if excess > 0 else now

    def empty_at(self, params: Params, now: int) -> int:
        return self.leaked_at(self.level) if self.left(now) else now

    def lifetime(self, params: Params, now: int) -> int:
        return params[0]


REFERENCES: dict[str, Callable[[], Reference]] = {
    "strict_log": Log,
    "calendar": Periods,
    "concurrent": Flights,
    "gcra": Bucket,
}
PARAMS: dict[str, list[Params]] = {
    "strict_log": [(10, 6), (10, 6), (5, 12), (20, 3), (30, 2)],
    "calendar": [
        (START, START + 60, START + 120),
        (START, START + 60, START + 120),
        (START, START + 70, START + 120),
        (START + 60, START + 120, START + 180),
        (START - 30, START, START + 60),
    ],
    "concurrent": [()],
    "gcra": [(64, 16), (64, 16), (64, 8), (32, 16), (16, 64), (64, 1)],
}

# Steps of the clock, most of them at the borders of slots and windows.
times = st.one_of(st.sampled_from([0, 0, 1, 4, 5, 6, 9, 10, 11, 50, 59, 60, 61, 64, 70]), st.integers(0, 130))
amounts = st.one_of(st.sampled_from([0, 1, 2, 3]), st.integers(0, 20))
histories = st.lists(
    st.tuples(
        times,
        st.sampled_from(["ask", "ask", "ask", "ask", "charge", "give_back", "credit"]),
        amounts,
        st.integers(0, 40),
        st.integers(0, 5),
    ),
    min_size=5,
    max_size=40,
)


@pytest.mark.parametrize("name", ALGORITHMS)
@given(histories)
@settings(max_examples=400, deadline=None)
def test_it_answers_as_the_naive_one_does(name: str, history: list[tuple[int, str, int, int, int]]) -> None:
    """
    Looking, charging now and late, giving back, crediting, waiting: every answer is the same, and so is what counts.
    """
    algorithm, naive, state = ALGORITHMS[name], REFERENCES[name](), [0]
    now, slots = START, [START]
    for step, act, amount, choice, which in history:
        now += step
        params = PARAMS[name][which % len(PARAMS[name])]
        if act == "ask":
            slot, used = algorithm.peek(state, params, now)
            assert (slot, used) == naive.peek(params, now)
            is_short = naive.takes(params, amount, choice, now)
            taken = algorithm.take(state, params, amount, choice, now)
            assert (taken is not None) == is_short or is_short is None
            if taken is not None:
                assert taken == (
                    slot if name != "strict_log" else taken[0],
                    used,
                    naive.charge(params, taken[0], amount, now),
                )
            elif used <= choice:
                assert algorithm.charge(state, params, slot, amount, now) == naive.charge(params, slot, amount, now)
            slots.append(taken[0] if taken else slot)
        elif act == "charge":
            slot = slots[choice % len(slots)]
            assert algorithm.charge(state, params, slot, amount, now) == naive.charge(params, slot, amount, now)
        elif act == "give_back":
            algorithm.give_back(state, slots[choice % len(slots)], amount)
            naive.give_back(slots[choice % len(slots)], amount)
        else:
            algorithm.credit(state, amount)
            naive.credit(amount)
        used = algorithm.peek(state, params, now)[1]
        assert used == naive.peek(params, now)[1]
        for excess in (0, 1, used // 2, used):
            if excess <= used:
                assert algorithm.frees_at(state, params, excess, now) == naive.frees_at(params, excess, now)
        assert algorithm.empty_at(state, params, now) == naive.empty_at(params, now)
        assert algorithm.lifetime(params, now) == naive.lifetime(params, now)
        assert state[0] >= 0


def test_amounts_may_be_larger_than_moments() -> None:
    """
    A nano-dollar is not a microsecond: neither is taken for the other, however large amounts are.
    """
    log, state = ALGORITHMS["strict_log"], [2000, 60, 1500, 240, 500]

    assert log.peek(state, (60, 2), 230) == (240, 500)
    assert log.frees_at([2000, 60, 1500, 120, 500], (60, 2), 1600, 130) == 240
    assert log.take(state, (60, 2), 1, 1000, 230) == (240, 500, 360)
    assert log.charge([2000, 60, 1500, 240, 500], (60, 2), 240, 1, 230) == 360
