"""
Questions that memory has worked out: when they are, what they charge, and when they stand back.
"""

from __future__ import annotations

from typing import Any

import pytest

from tokenbudget_mw.backends import calm
from tokenbudget_mw.backends.base import MAX_OPEN
from tokenbudget_mw.backends.calm import Calm, Calms
from tokenbudget_mw.backends.counters import Counter
from tokenbudget_mw.testing.asks import ask, check
from tokenbudget_mw.values import Check, CheckState

WINDOW: dict[str, Any] = {"params": (60, 2)}
NOW = 110


def counter_of(**windows: list[int]) -> Counter:
    counter = Counter()
    counter.layout = {name: at for at, name in enumerate(windows)}
    counter.extend(windows.values())
    return counter


def questions() -> tuple[Check, Check]:
    return check(2, 10, "a", **WINDOW), check(1, 20, "b", room=5, **WINDOW)


def worked_out(counter: Counter, checks: tuple[Check, ...]) -> Calm:
    calms = Calms()
    asked = ask(*checks)
    for _ in range(2):
        calms.see(asked, {("acme", "key=k1"): counter}, NOW)
    return calms.known[id(asked.checks)]


def test_the_second_time_it_is_worked_out() -> None:
    """
    Not the first time, because most questions never come again; then with all that a charge needs.
    """
    counter = counter_of(a=[7, 60, 3, 120, 4], b=[1, 120, 1])
    calms, asked = Calms(), ask(*questions())
    calms.see(asked, {("acme", "key=k1"): counter}, NOW)
    assert calms.known == {}

    calms.see(asked, {("acme", "key=k1"): counter}, NOW)

    rows = ((counter[0], 3, 4, 120, 240, 2, 8, 10), (counter[1], 1, 2, 120, 240, 1, 15, 20))
    assert calms.known == {id(asked.checks): Calm(asked.checks, "acme", 120, (counter,), rows)}
    assert calms.known[id(asked.checks)].checks is asked.checks


@pytest.mark.parametrize(
    "other",
    [
        check(0, 10, "b", **WINDOW),
        check(1, 10, "b", enforced=False, **WINDOW),
        check(1, 10, "b", params=(60, 12), algorithm="gcra"),
    ],
    ids=["free", "shadow", "gcra"],
)
def test_what_is_no_plain_charge_is_not_worked_out(other: Check) -> None:
    """
    One such check is enough.
    """
    calms = Calms()
    asked = ask(questions()[0], other)
    for _ in range(3):
        calms.see(asked, {("acme", "key=k1"): counter_of(a=[4, 120, 4], b=[1, 120, 1])}, NOW)

    assert calms.known == {}


def test_few_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    When there are as many as may be, all are forgotten: those that still come are soon known again.
    """
    monkeypatch.setattr(calm, "KEPT", 2)
    calms, counter = Calms(), counter_of(a=[4, 120, 4])
    asked = [ask(check(1, 10, "a", **WINDOW)) for _ in range(3)]
    for one in asked[:2]:
        for _ in range(2):
            calms.see(one, {("acme", "key=k1"): counter}, NOW)
    assert set(calms.known) == {id(one.checks) for one in asked[:2]}

    calms.see(asked[2], {("acme", "key=k1"): counter}, NOW)
    assert list(calms._seen) == [id(asked[2].checks)]
    calms.see(asked[2], {("acme", "key=k1"): counter}, NOW)

    assert set(calms.known) == {id(asked[2].checks)}


def test_a_charge_is_an_addition() -> None:
    """
    To what counts and to the newest entry of each window, up to the cap, to the last unit.
    """
    counter = counter_of(a=[6, 60, 3, 120, 3], b=[1, 120, 1])
    known = worked_out(counter, questions())

    assert known.take(NOW) == (
        CheckState(True, 2, (240 - NOW) / 1e6, 0.0, 120),
        CheckState(True, 18, (240 - NOW) / 1e6, 0.0, 120),
    )
    assert known.take(NOW)[0].remaining == 0
    assert list(counter) == [[10, 60, 3, 120, 7], [3, 120, 3]]
    assert known.take(NOW) == ()
    assert list(counter) == [[10, 60, 3, 120, 7], [3, 120, 3]]


@pytest.mark.parametrize("changed", [[16, 120, 16], [1, 180, 1], [0]], ids=["full", "another slot", "emptied"])
def test_what_does_not_fit_leaves_all_windows_as_they_were(changed: list[int]) -> None:
    """
    Also those before the one that is full, or has changed in another way.
    """
    counter = counter_of(a=[4, 120, 4], b=[1, 120, 1])
    known = worked_out(counter, questions())
    counter[1][:] = changed

    assert known.take(NOW) == ()
    assert list(counter) == [[4, 120, 4], changed]


def test_a_crowded_counter_takes_no_more() -> None:
    """
    As many open leases as may be are not exceeded on this way either.
    """
    counter = counter_of(a=[4, 120, 4])
    known = worked_out(counter, questions()[:1])
    counter.open = MAX_OPEN
    assert known.take(NOW) == ()

    counter.open -= 1

    assert len(known.take(NOW)) == 1
