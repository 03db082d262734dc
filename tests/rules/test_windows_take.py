"""
The short way of a charge does what the long way does, or nothing; and it can be undone.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenbudget_mw.rules.windows import ALGORITHMS, calendar, concurrent, fits, strict_log

SLOT, SLOTS, CAP, START = 10, 6, 20, 1_000_000
PARAMS = {
    "strict_log": (SLOT, SLOTS),
    "calendar": (START - 50, START + 100, START + 300),
    "concurrent": (),
    "gcra": (60, CAP),
}

steps = st.one_of(st.sampled_from([0, 1, 9, 10, 11, 59, 60, 61, 70]), st.integers(0, 200))
costs = st.one_of(st.sampled_from([0, 1, CAP - 1, CAP, CAP + 1]), st.integers(0, CAP))
histories = st.lists(st.tuples(steps, costs, st.booleans()), max_size=50)


@pytest.mark.parametrize("name", PARAMS)
@given(histories)
@settings(max_examples=200, deadline=None)
def test_the_short_way_is_the_long_way(name: str, history: list[tuple[int, int, bool]]) -> None:
    """
    Where it charges, it answers as peek and charge do, and both windows count the same ever after.
    """
    algorithm, params = ALGORITHMS[name], PARAMS[name]
    short, long, now = [0], [0], START
    for step, cost, is_undone in history:
        now += step
        slot, used = algorithm.peek(long, params, now)
        assert algorithm.peek(short, params, now) == (slot, used)
        assert algorithm.empty_at(short, params, now) == algorithm.empty_at(long, params, now)
        taken = algorithm.take(short, params, cost, CAP - cost if cost else 10**9, now)
        if taken is None:
            assert algorithm.peek(short, params, now) == (slot, used)
            if fits(used, cost, CAP):
                algorithm.charge(short, params, slot, cost, now)
                algorithm.charge(long, params, slot, cost, now)
        elif is_undone:
            algorithm.give_back(short, taken[0], cost)
        else:
            assert fits(used, cost, CAP)
            assert taken == (slot, used, algorithm.charge(long, params, slot, cost, now))


@given(histories, steps)
@settings(max_examples=200, deadline=None)
def test_an_undone_charge_leaves_what_an_earlier_moment_sees(history: list[tuple[int, int, bool]], later: int) -> None:
    """
    After a refusal the clock may step back to the newest admitted moment: everything that counted then is there.
    """
    state, now = [0], START
    for step, cost, _ in history:
        now += step
        slot, used = strict_log.peek(state, PARAMS["strict_log"], now)
        if fits(used, cost, CAP):
            strict_log.charge(state, PARAMS["strict_log"], slot, cost, now)
            if not cost:
                now -= step  # what costs nothing leaves no trace of its moment
        else:
            now -= step
    before = strict_log.peek(state, PARAMS["strict_log"], now)
    taken = strict_log.take(state, PARAMS["strict_log"], 1, CAP, now + later)
    if taken is not None:
        strict_log.give_back(state, taken[0], 1)

    assert strict_log.peek(state, PARAMS["strict_log"], now) == before


@pytest.mark.parametrize("most", [4, float("nan")])
def test_what_does_not_fit_is_not_taken(most: float) -> None:
    """
    Also not where nobody can say whether it fits.
    """
    assert strict_log.take([5, 1_010, 5], (SLOT, SLOTS), 1, most, 1_005) is None  # type: ignore[arg-type]
    assert calendar.take([5, 0, 2_000], (0, 2_000, 4_000), 1, most, 1_005) is None  # type: ignore[arg-type]
    assert concurrent.take([5], (), 1, most, 1_005) is None  # type: ignore[arg-type]


def test_at_most_means_at_most() -> None:
    """
    What counts already may be exactly as much as leaves room.
    """
    assert strict_log.take([5, 1_010, 5], (SLOT, SLOTS), 1, 5, 1_005) == (1_010, 5, 1_070)
    assert calendar.take([5, 0, 2_000], (0, 2_000, 4_000), 1, 5, 1_005) == (0, 5, 2_000)
    assert concurrent.take([5], (), 1, 5, 1_005) == (0, 5, 1_005 + concurrent.RETRY_US)


def test_a_period_that_is_over_is_left_to_the_long_way() -> None:
    """
    The end belongs to the next period.
    """
    assert calendar.take([5, 0, 2_000], (0, 2_000, 4_000), 1, 10, 2_000) is None
    assert calendar.take([5, 0, 2_000], (2_000, 4_000, 6_000), 1, 10, 2_000) is None
    assert calendar.take([0], (0, 2_000, 4_000), 1, 10, 1_000) is None


def test_charges_are_additions_until_the_slot_ends_or_the_oldest_entry_leaves() -> None:
    """
    What comes first, to the microsecond; from then on nothing is promised.
    """
    assert strict_log.calm([3, 120, 3], (60, 2), 60) == (120, 240, 120)
    assert strict_log.calm([7, 60, 3, 120, 4], (60, 2), 119) == (120, 240, 120)
    assert strict_log.calm([7, 90, 3, 240, 4], (60, 2), 200) == (240, 360, 210)


@pytest.mark.parametrize(
    ("state", "now"),
    [([0], 60), ([3, 120, 3], 59), ([3, 120, 3], 120), ([7, 60, 3, 240, 4], 180)],
    ids=["never charged", "before its slot", "after its slot", "the oldest has left"],
)
def test_a_window_that_will_change_is_not_calm(state: list[int], now: int) -> None:
    """
    The next charge does more there than add.
    """
    assert strict_log.calm(state, (60, 2), now) is None
