"""
Window algorithms on plain values: the bound holds, Retry-After is exact, states stay whole.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenbudget_mw.rules.windows import ALGORITHMS, calendar, concurrent, fits, strict_log

SLOT, SLOTS = 10, 6
PARAMS = (SLOT, SLOTS)
LENGTH = SLOT * SLOTS
CAP = 20
START = 1_000_000

# Steps of the clock, most of them at the borders of slots and windows.
borders = [0, 1, SLOT - 1, SLOT, SLOT + 1, LENGTH - SLOT, LENGTH - 1, LENGTH, LENGTH + 1, LENGTH + SLOT]
steps = st.one_of(st.sampled_from(borders), st.integers(0, 3 * LENGTH))
costs = st.one_of(st.sampled_from([0, 1, CAP - 1, CAP, CAP + 1]), st.integers(0, CAP))
histories = st.lists(st.tuples(steps, costs), max_size=60)


def run(history: list[tuple[int, int]], state: list[int]) -> list[tuple[int, int]]:
    """
    Ask for each cost in turn; return the moments and costs that were admitted.
    """
    now, admitted = START, []
    for step, cost in history:
        now += step
        slot, used = strict_log.peek(state, PARAMS, now)
        if fits(used, cost, CAP):
            strict_log.charge(state, PARAMS, slot, cost, now)
            admitted.append((now, cost))
    return admitted


class TestStrictLog:
    @given(histories)
    @settings(max_examples=400, deadline=None)
    def test_never_more_than_the_cap_in_any_trailing_window(self, history: list[tuple[int, int]]) -> None:
        """
        Every window of the full length, wherever it ends, holds at most the cap.
        """
        admitted = run(history, [0])

        for end, _ in admitted:
            assert sum(cost for moment, cost in admitted if end - LENGTH < moment <= end) <= CAP

    @given(histories)
    @settings(max_examples=200, deadline=None)
    def test_nothing_counts_longer_than_one_slot_beyond_the_window(self, history: list[tuple[int, int]]) -> None:
        """
        What is older than the window and a slot is forgotten: the price of merging is one slot at most.
        """
        state = [0]
        admitted = run(history, state)
        now = admitted[-1][0] if admitted else START
        _, used = strict_log.peek(state, PARAMS, now)

        assert used <= sum(cost for moment, cost in admitted if moment > now - LENGTH - SLOT)

    @given(histories, costs.filter(lambda cost: 0 < cost <= CAP))
    @settings(max_examples=400, deadline=None)
    def test_t06_refused_just_before_retry_after_and_admitted_at_it(
        self, history: list[tuple[int, int]], cost: int
    ) -> None:
        """
        Retry-After is the first moment at which the asked cost fits.
        """
        state = [0]
        admitted = run(history, state)
        now = admitted[-1][0] if admitted else START
        _, used = strict_log.peek(state, PARAMS, now)
        moment = strict_log.frees_at(state, PARAMS, used + cost - CAP, now)

        assert fits(strict_log.peek(state, PARAMS, moment)[1], cost, CAP)
        if moment > now:
            assert not fits(strict_log.peek(state, PARAMS, moment - 1)[1], cost, CAP)

    @given(histories)
    @settings(max_examples=200, deadline=None)
    def test_the_window_is_empty_at_its_reset_and_not_before(self, history: list[tuple[int, int]]) -> None:
        """
        Reset is the moment at which the newest entry leaves.
        """
        state = [0]
        admitted = run(history, state)
        now = admitted[-1][0] if admitted else START
        moment = strict_log.empty_at(state, PARAMS, now)

        assert strict_log.peek(state, PARAMS, moment)[1] == 0
        if moment > now:
            assert strict_log.peek(state, PARAMS, moment - 1)[1] > 0

    @given(histories, st.lists(st.tuples(st.integers(0, 59), st.integers(0, CAP)), max_size=20))
    @settings(max_examples=200, deadline=None)
    def test_the_state_stays_whole(self, history: list[tuple[int, int]], given_back: list[tuple[int, int]]) -> None:
        """
        The total is the sum of the entries, which are ordered, positive, and no more than the slots that can live.
        """
        state = [0]
        admitted = run(history, state)
        for index, amount in given_back:
            if index < len(admitted):
                strict_log.give_back(state, (admitted[index][0] // SLOT + 1) * SLOT, amount)

        assert state[0] == sum(state[2::2])
        assert state[1::2] == sorted(set(state[1::2]))
        assert all(amount > 0 for amount in state[2::2])
        assert len(state) <= 1 + 2 * (SLOTS + 1)

    def test_peek_changes_nothing(self) -> None:
        """
        Also not where entries have left.
        """
        state = [7, 60, 3, 120, 4]
        strict_log.peek(state, PARAMS, 10_000)

        assert state == [7, 60, 3, 120, 4]

    def test_a_charge_to_an_older_slot_keeps_the_order(self) -> None:
        """
        A settlement may find its entry gone while younger ones stand.
        """
        state = [4, 60, 1, 80, 3]
        strict_log.charge(state, PARAMS, 70, 5, 75)

        assert state == [9, 60, 1, 70, 5, 80, 3]

    def test_a_charge_to_a_slot_that_has_left_is_forgotten(self) -> None:
        """
        The end of the slot is the last moment that counts.
        """
        state = [0]

        assert strict_log.charge(state, PARAMS, 60, 5, 120) == 120
        assert state == [0]
        assert strict_log.charge(state, PARAMS, 60, 5, 119) == 120
        assert state == [5, 60, 5]

    def test_entries_of_another_slot_length_stay_true(self) -> None:
        """
        A window cut more finely by new settings keeps what it counted.
        """
        state = [0]
        strict_log.charge(state, (20, 3), 40, 5, 25)
        slot, used = strict_log.peek(state, (10, 6), 36)
        strict_log.charge(state, (10, 6), slot, 1, 36)

        assert (slot, used) == (40, 5)
        assert state == [6, 40, 6]
        assert strict_log.peek(state, (10, 6), 99)[1] == 6
        assert strict_log.peek(state, (10, 6), 100)[1] == 0

    def test_more_is_never_given_back_than_stands(self) -> None:
        """
        A total is never below zero.
        """
        state = [3, 60, 3]
        strict_log.give_back(state, 60, 5)
        strict_log.give_back(state, 70, 5)

        assert state == [0]


class TestCalendar:
    PARAMS = (0, 100, 250)

    def test_forgets_at_the_end_of_the_period(self) -> None:
        """
        The last microsecond counts, the end does not.
        """
        state = [0]
        calendar.charge(state, self.PARAMS, 0, 5, 10)

        assert calendar.peek(state, self.PARAMS, 99) == (0, 5)
        assert calendar.peek(state, self.PARAMS, 100) == (100, 0)
        assert calendar.frees_at(state, self.PARAMS, 1, 10) == 100
        assert calendar.empty_at(state, self.PARAMS, 10) == 100

    def test_an_older_period_never_comes_back(self) -> None:
        """
        A caller whose clock is behind is counted in the newer period.
        """
        state = [0]
        calendar.charge(state, (100, 250, 400), 100, 5, 120)

        assert calendar.peek(state, self.PARAMS, 90) == (100, 5)
        assert calendar.frees_at(state, self.PARAMS, 1, 90) == 250

    def test_a_settlement_of_a_past_period_is_forgotten(self) -> None:
        """
        The new period owes nothing of the old one.
        """
        state = [0]
        calendar.charge(state, self.PARAMS, 0, 5, 10)
        calendar.charge(state, self.PARAMS, 100, 2, 110)
        calendar.charge(state, self.PARAMS, 0, 9, 111)
        calendar.give_back(state, 0, 5)

        assert state == [2, 100, 250]

    def test_nothing_is_freed_where_nothing_is_asked(self) -> None:
        """
        Without excess the moment is now.
        """
        assert calendar.frees_at([0], self.PARAMS, 0, 10) == 10
        assert calendar.empty_at([0], self.PARAMS, 10) == 10
        assert calendar.lifetime(self.PARAMS, 10) == 240


class TestConcurrent:
    def test_counts_until_it_is_given_back(self) -> None:
        """
        Time frees nothing.
        """
        state = [0]
        concurrent.charge(state, (), 0, 2, 10)

        assert concurrent.peek(state, (), 10**15) == (0, 2)
        concurrent.give_back(state, 0, 1)
        assert state == [1]
        concurrent.give_back(state, 0, 5)
        assert state == [0]

    def test_tells_to_ask_again_soon(self) -> None:
        """
        Nobody knows when a call ends.
        """
        assert concurrent.frees_at([3], (), 1, 10) == 10 + concurrent.RETRY_US
        assert concurrent.frees_at([3], (), 0, 10) == 10
        assert concurrent.empty_at([0], (), 10) == 10


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_has_a_twin_in_lua(name: str) -> None:
    """
    What Python knows, Redis knows.
    """
    from importlib.resources import files

    windows = files("tokenbudget_mw.rules.windows")
    text = windows.joinpath(f"{name}.lua").read_text(encoding="utf-8")

    for function in ("peek", "charge", "give_back", "credit", "frees_at", "empty_at", "lifetime"):
        assert f".{function}(" in text
    assert "used" in windows.joinpath(f"{name}_look.lua").read_text(encoding="utf-8")
    assert "slot, empty_at = " in windows.joinpath(f"{name}_take.lua").read_text(encoding="utf-8")
    assert "quick way" in windows.joinpath(f"{name}_move.lua").read_text(encoding="utf-8")
