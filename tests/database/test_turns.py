"""
Work in turns: every row once, in order, and a pause where others may run.
"""

from __future__ import annotations

from itertools import chain

import pytest

from tokenbudget_mw.database import turns


@pytest.mark.parametrize(("rows", "pauses"), [(0, 0), (1, 0), (49, 0), (50, 1), (120, 2)])
def test_a_full_turn_is_followed_by_a_pause(rows: int, pauses: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A few rows are written without one; many keep nobody waiting for longer than a turn.
    """
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)

    given = list(turns.in_turns(iter(range(rows))))

    assert list(chain.from_iterable(given)) == list(range(rows))
    assert all(len(some) <= turns.ROWS for some in given)
    assert slept == [turns.PAUSE] * pauses
