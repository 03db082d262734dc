"""
How long the oldest record has waited, told from few notes.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tokenbudget_mw.accounting.backlog import Backlog

STEPS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 5), st.floats(0.001, 100.0)),
    min_size=1,
    max_size=200,
)


@given(STEPS)
def test_the_oldest_is_known_to_a_fraction_of_the_longest_wait(steps: list[tuple[int, int, float]]) -> None:
    """
    However records come and go, what is told is never less than the true wait, and more by 1/64 of the longest at most.
    """
    backlog, seen, done, now, longest = Backlog(), list[float](), 0, 0.0, 0.0

    for come, go, passed in steps:
        now += passed
        longest = max(longest, now - seen[done] if done < len(seen) else 0.0)
        seen += [now] * come
        done = min(len(seen), done + go)
        backlog.look(done, len(seen) - done, now)

        if done == len(seen):
            assert backlog.since is None
        else:
            assert backlog.since is not None
            wait = now - seen[done]
            assert wait - 1e-6 <= now - backlog.since <= wait + longest / 64 + 1e-6


def test_a_day_of_waiting_is_some_hundred_notes() -> None:
    """
    A database that is away for a day, or slow for a day, takes no memory here.
    """
    backlog = Backlog()

    for second in range(86_400):
        backlog.look(second // 10, second + 1, float(second))

    assert len(backlog._notes) < 1_000
