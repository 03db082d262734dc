"""
The leaking bucket on plain values.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenbudget_mw.rules.policy import Policy
from tokenbudget_mw.rules.windows import fits, gcra
from tokenbudget_mw.settings.limits import parse_limit
from tokenbudget_mw.values import Cost, Subject

START = 1_000_000
shapes = st.sampled_from([(60, 6), (60, 20), (7, 1_000), (1_000_003, 7), (60_000_000, 5_000_000_000), (60, 1)])
steps = st.one_of(st.sampled_from([0, 1, 2, 59, 60, 61]), st.integers(0, 200))
shares = st.one_of(st.sampled_from([0.0, 0.5, 1.0, 1.1]), st.floats(0, 1))
histories = st.lists(st.tuples(steps, shares), max_size=40)


def run(history: list[tuple[int, float]], state: list[int], params: tuple[int, int]) -> list[tuple[int, int]]:
    """
    Ask for each share of the cap in turn; return the moments and costs that were admitted.
    """
    now, admitted = START, []
    for step, share in history:
        now += step
        cost = int(params[1] * share)
        slot, used = gcra.peek(state, params, now)
        if fits(used, cost, params[1]):
            gcra.charge(state, params, slot, cost, now)
            admitted.append((now, cost))
    return admitted


@given(histories, shapes)
@settings(max_examples=300, deadline=None)
def test_no_window_sees_more_than_a_bucket_and_what_leaks_meanwhile(
    history: list[tuple[int, float]], params: tuple[int, int]
) -> None:
    """
    Over any span at most the cap and what the span's length leaks: less than twice the cap in a window.
    """
    length, cap = params
    admitted = run(history, [0], params)

    for end, _ in admitted:
        for begin in {moment for moment, _ in admitted if moment <= end}:
            spent = sum(cost for moment, cost in admitted if begin <= moment <= end)
            assert spent <= cap + (end - begin) * cap // length + 1


@given(histories, shapes, st.floats(0.01, 1))
@settings(max_examples=300, deadline=None)
def test_t06_refused_just_before_retry_after_and_admitted_at_it(
    history: list[tuple[int, float]], params: tuple[int, int], share: float
) -> None:
    """
    Retry-After is the first moment at which the asked cost fits; reset the first at which nothing is left.
    """
    state, cap = [0], params[1]
    admitted = run(history, state, params)
    now, cost = (admitted[-1][0] if admitted else START), max(1, int(cap * share))
    used = gcra.peek(state, params, now)[1]
    moment, empty = gcra.frees_at(state, params, used + cost - cap, now), gcra.empty_at(state, params, now)

    assert fits(gcra.peek(state, params, moment)[1], cost, cap)
    assert moment == now or not fits(gcra.peek(state, params, moment - 1)[1], cost, cap)
    assert gcra.peek(state, params, empty)[1] == 0
    assert empty == now or gcra.peek(state, params, empty - 1)[1] > 0


def test_a_spent_bucket_comes_back_little_by_little() -> None:
    """
    A tenth of the window brings a tenth of the cap.
    """
    state = [0]
    gcra.charge(state, (60, 10), START, 10, START)

    assert [gcra.peek(state, (60, 10), START + at)[1] for at in (0, 5, 6, 12, 59, 60)] == [10, 10, 9, 8, 1, 0]


def test_many_small_charges_lose_no_leak() -> None:
    """
    What has half leaked when the next charge comes goes on leaking.
    """
    state = [0]
    for now in range(START, START + 100):
        slot, used = gcra.peek(state, (60, 10), now)
        if fits(used, 1, 10):
            gcra.charge(state, (60, 10), slot, 1, now)

    assert state[0] == 10 + 99 * 10 // 60


def test_a_changed_amount_keeps_what_was_counted() -> None:
    """
    What is in the bucket stays; it leaks at the new rate from the next charge on.
    """
    state = [0]
    gcra.charge(state, (60, 10), START, 8, START)
    gcra.charge(state, (60, 60), START + 30, 1, START + 30)

    assert state == [4, START + 30, 60, 60]
    assert gcra.take(state, (60, 10), 1, 10, START + 31) is None


def test_what_has_leaked_is_not_given_back() -> None:
    """
    A settlement of a charge from before the bucket was empty takes nothing off later ones.
    """
    state = [0]
    gcra.charge(state, (60, 10), START, 10, START)
    gcra.charge(state, (60, 10), START + 70, 5, START + 70)
    gcra.give_back(state, START, 10)
    assert state[0] == 5

    gcra.give_back(state, START + 70, 9)
    assert state[0] == 0
    gcra.give_back([0], START, 1)


@pytest.mark.parametrize(("age", "level"), [(59, 3), (60, 0)])
def test_a_late_settlement_counts_while_a_full_bucket_would_leak(age: int, level: int) -> None:
    """
    Debt is charged, but for what is older than the window.
    """
    state = [0]
    gcra.charge(state, (60, 10), START, 3, START + age)

    assert state[0] == level


def test_settings_choose_it() -> None:
    """
    A limit's dict names it, and its count is apart from the strict one of the same window.
    """
    limit = parse_limit({"limit": "90 tokens/minute", "algorithm": "gcra"})
    strict = parse_limit("100 tokens/minute")
    _, checks = Policy({}, (limit, strict)).bind(
        (limit, strict), Subject(key="k"), None, None, Cost(input_tokens=5), Cost(), float(START)
    )

    assert [(check.window, check.algorithm, check.params) for check in checks] == [
        ("tokens:60/gcra", "gcra", (60_000_000, 90)),
        ("tokens:60", "strict_log", (1_000_000, 60)),
    ]


@pytest.mark.parametrize("amount", [7, 9])
def test_the_last_digit_of_a_quotient_makes_no_promise_wrong(amount: int) -> None:
    """
    Where a float is a hair too small or too large, the bucket is still empty at the first microsecond that it can be.
    """
    state, hour = [0], (3_600_000_000, 1000)
    empty = gcra.charge(state, hour, START, amount, START)

    assert gcra.peek(state, hour, empty)[1] == 0
    assert gcra.peek(state, hour, empty - 1)[1] == 1


def test_the_moment_is_found_at_once_however_slowly_a_bucket_leaks() -> None:
    """
    No search through the microseconds of a year.
    """
    year = 2**45  # a good one: its quotients are exact

    assert gcra.charge([0], (year, 1), START, 1, START) == START + year


@pytest.mark.parametrize("more", [0, 10])
def test_a_debt_that_leaks_for_longer_than_anybody_waits_is_gone_by_then(more: int) -> None:
    """
    From there on no single microseconds are told, not even of the debt that takes exactly as long.
    """
    shape = (3_600_000_000, 4_903_944_814)
    state = [5_448_827_571_111_110 + more, START, *shape]

    assert gcra.empty_at(state, shape, START) == START + gcra.FAR_US
