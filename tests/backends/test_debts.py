"""
What one process admits while the backend is away counts there when it is back.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from tokenbudget_mw.backends import debts
from tokenbudget_mw.backends.circuits import LeftAloneError
from tokenbudget_mw.backends.debts import Debts
from tokenbudget_mw.backends.fallback import AsyncFallback, Fallback, LocalShare
from tokenbudget_mw.backends.memory import AsyncMemoryBackend, MemoryBackend
from tokenbudget_mw.errors import BackendUnavailableError
from tokenbudget_mw.testing.asks import HOUR, START, Blocking, ask, check, in_flight, seed, settlement
from tokenbudget_mw.values import Hold

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenbudget_mw.backends.base import Backend
    from tokenbudget_mw.values import Ask, Reply, Settlement

BEGIN = int(START) * 1_000_000
MONTH = tuple(BEGIN + 2_592_000_000_000 * k for k in range(3))


class Shared(MemoryBackend):
    """
    A backend that is away when it is told to be, and one answer of which may be lost.
    """

    is_away = is_answer_lost = False
    tag_away = "none of those that are asked for"
    error: BackendUnavailableError = LeftAloneError("It is away.")

    def reserve(self, ask: Ask, now: float) -> Reply:
        self.look(ask.tag)
        return super().reserve(ask, now)

    def settle(self, settlement: Settlement, now: float) -> bool:
        self.look(settlement.reservation.tag)
        is_moved = super().settle(settlement, now)
        if self.is_answer_lost:
            self.is_answer_lost = False
            raise BackendUnavailableError
        return is_moved

    def look(self, tag: str) -> None:
        if self.is_away or tag.startswith(self.tag_away):
            raise self.error

    def used(self, now: float = START, **options: Any) -> int:
        return 10**6 - self.peek(ask(check(0, 10**6, **options)), now).states[0].remaining


@pytest.fixture
def shared() -> Shared:
    return Shared()


@pytest.fixture(params=["threads", "loop"])
def fallback(request: pytest.FixtureRequest, shared: Shared, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    """
    It tells when it is closed, and not before.
    """
    monkeypatch.setattr("tokenbudget_mw.backends.fallback.TELL_EVERY", 3600.0)
    if request.param == "threads":
        yield Fallback(shared, LocalShare())  # type: ignore[arg-type]
        return
    yield Blocking(AsyncFallback(AsyncMemoryBackend(shared), LocalShare()))  # type: ignore[arg-type]


def tell(fallback: Any) -> None:
    """
    Do one round of telling.
    """
    if isinstance(fallback, Blocking):
        fallback._run(fallback._backend._tell())
    else:
        fallback._tell()


def month(cost: int = 1, cap: int = 1000, **options: Any) -> Any:
    return check(cost, cap, "tokens:month", params=MONTH, algorithm="calendar", **options)


def test_what_was_admitted_alone_counts_when_the_backend_is_back(shared: Shared, fallback: Backend) -> None:
    """
    At what the calls came to, in the slots in which they began; calls in flight are over by then.
    """
    shared.is_away = True
    made = []
    for second in (0, 10, 20):
        asked = ask(check(5, 100), month(5), in_flight(9))
        made.append((asked, fallback.reserve(asked, START + second)))
    for asked, reply in made:
        fallback.settle(settlement(asked, reply, 7, 7, 1), START + 40)
    shared.is_away = False
    fallback.close()

    assert shared.used(START + 40) == 21
    assert [shared.used(START + at) for at in (60.9, 61, 71, 81)] == [21, 14, 7, 0]
    assert shared.used(START + 90, window="tokens:month", params=MONTH, algorithm="calendar") == 21
    assert shared.peek(ask(in_flight(1)), START + 90).admitted


def test_requests_that_nobody_settles_count_too(shared: Shared, fallback: Backend) -> None:
    """
    What is taken for good is owed at once; what was refused is not.
    """
    shared.is_away = True
    admitted = [fallback.reserve(ask(check(1, 3), lease=0.0), START).admitted for _ in range(5)]
    shared.is_away = False
    fallback.close()

    assert sum(admitted) == 3
    assert shared.used() == 3


def test_what_the_backend_may_have_counted_for_good_is_no_debt(shared: Shared, fallback: Backend) -> None:
    """
    An ask that it did not answer in time may count there all the same; a reservation of the kind is given back.
    """
    shared.is_away, shared.error = True, BackendUnavailableError("No answer.")
    asked = ask(check(2, 100))
    fallback.reserve(ask(check(1, 100), lease=0.0), START)
    reply = fallback.reserve(asked, START)
    fallback.settle(settlement(asked, reply, 2), START)
    shared.is_away = False
    fallback.close()

    assert shared.used() == 2


def test_a_clock_that_is_ahead_fills_no_window_for_long(shared: Shared) -> None:
    """
    A slot that has not come yet is the newest one there is.
    """
    share = LocalShare()
    share.reserve(ask(check(5, 100), lease=0.0), START + 86_400)
    share.latest = START
    Fallback(shared, share).close()  # type: ignore[arg-type]

    assert [shared.used(START + at) for at in (0, 60.9, 61)] == [5, 5, 0]


def test_what_allow_lets_through_is_no_debt(shared: Shared, fallback: Backend) -> None:
    """
    Nobody has counted it.
    """
    shared.is_away = True
    fallback.reserve(ask(check(1, 3, on_error="allow"), lease=0.0), START)
    shared.is_away = False
    fallback.close()

    assert shared.used() == 0


def test_what_has_left_its_window_meanwhile_is_not_told(shared: Shared, fallback: Backend) -> None:
    """
    An hour's outage does not spend the minute after it.
    """
    shared.is_away = True
    fallback.reserve(ask(check(5, 100), check(5, 100, "tokens:3600", params=HOUR), lease=0.0), START)
    fallback.reserve(ask(check(7, 100), lease=0.0), START + 1800)
    shared.is_away = False
    fallback.close()

    assert shared.used(START + 1800) == 7
    assert shared.used(START + 1800, window="tokens:3600", params=HOUR) == 5


def test_a_window_that_was_lost_is_left_to_the_books(shared: Shared, fallback: Backend) -> None:
    """
    They know of the call, too; another of its windows counts it.
    """
    shared.seed("acme", [seed(of=month())], START)
    shared.is_away = True
    fallback.reserve(ask(check(5, 100), month(5, is_booked=True), lease=0.0), START)
    MemoryBackend.__init__(shared)
    shared.is_away = False
    fallback.close()

    assert shared.peek(ask(check(), month(is_booked=True)), START).unseeded == (1,)
    assert shared.used() == 5


def test_a_debt_whose_answer_was_lost_counts_once(shared: Shared) -> None:
    """
    It is told again under its id, by a thread as by a loop.
    """
    share = LocalShare()
    for close in (
        Fallback(shared, share).close,  # type: ignore[arg-type]
        lambda: asyncio.run(AsyncFallback(AsyncMemoryBackend(shared), share).aclose()),  # type: ignore[arg-type]
    ):
        before = shared.used()
        share.reserve(ask(check(5, 100), lease=0.0), START)
        shared.is_answer_lost = True
        close()
        assert share.debts
        close()
        assert not share.debts
        assert shared.used() == before + 5


def test_what_is_owed_is_told_without_a_further_call(
    shared: Shared, fallback: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    By a thread or a task, while there is anything to tell.
    """
    monkeypatch.setattr("tokenbudget_mw.backends.fallback.TELL_EVERY", 0.001)
    told = threading.Event()
    settle = shared.settle

    def tell(settlement: Settlement, now: float) -> bool:
        is_moved = settle(settlement, now)
        told.set()
        return is_moved

    monkeypatch.setattr(shared, "settle", tell)
    shared.is_away = True
    fallback.reserve(ask(check(5, 100), lease=0.0), START)
    shared.is_away = False

    assert told.wait(10)
    assert shared.used() == 5
    fallback.close()


def test_a_server_that_is_away_keeps_no_debt_from_another(shared: Shared, fallback: Backend) -> None:
    """
    A settlement waits for the one; what was admitted alone counts at the other, which is back.
    """
    asked = replace(ask(check(5, 100)), tag="away")
    reply = fallback.reserve(asked, START)
    shared.is_away = True
    fallback.settle(settlement(asked, reply, 7), START)
    fallback.reserve(ask(check(3, 100), lease=0.0), START)
    shared.is_away, shared.tag_away = False, "away"
    fallback.close()

    assert shared.used() == 3


@pytest.mark.parametrize("number", [1, 3, 20])
def test_a_server_that_is_away_keeps_nothing_from_another(number: int, shared: Shared, fallback: Backend) -> None:
    """
    However many subjects of its own wait first, in a few rounds the others' settlements and debts are told, and theirs when
    it is back.
    """
    tags = [*(f"away {at}" for at in range(number)), "there"]
    asked = [replace(ask(check(5, 100)), tag=tag) for tag in tags]
    replies = [fallback.reserve(each, START) for each in asked]
    shared.is_away = True
    for each, reply in zip(asked, replies, strict=True):
        fallback.settle(settlement(each, reply, 7), START)
        fallback.reserve(replace(ask(check(3, 100), lease=0.0), tag=each.tag), START)

    shared.is_away, shared.tag_away = False, "away"
    for _ in range(1 + number // debts.MOST_AWAY):
        tell(fallback)
    used = [100 - shared.peek(replace(ask(check(0, 100)), tag=tag), START).states[0].remaining for tag in tags]
    shared.tag_away = "nowhere"
    fallback.close()
    at_last = [100 - shared.peek(replace(ask(check(0, 100)), tag=tag), START).states[0].remaining for tag in tags]

    assert used == [5] * number + [7 + 3]
    assert at_last == [7 + 3] * (number + 1)


@pytest.mark.parametrize("number", [1, 20])
def test_an_open_debt_of_a_server_that_is_away_keeps_nothing_from_another(number: int) -> None:
    """
    What is only to be settled waits for its server, as what is to be asked first does.
    """
    owed = Debts()
    for at in range(number):
        owed.add(f"away {at}", debts_of(1), START)
        debt = owed.next(START)
        assert debt is not None
        owed.keep(dataclasses.replace(debt, is_open=True))
    owed.add("there", debts_of(1), START)
    away, found = set[str](), list[str]()
    for _ in range(1 + number // debts.MOST_AWAY):
        away.clear()
        while (debt := owed.next(START, away)) is not None:
            if debt.tag == "there":
                found.append(debt.tag)
                continue
            away.add(debt.tag)
            owed.keep(debt)

    assert found == ["there"]
    assert len(away) == min(number, debts.MOST_AWAY)


def test_what_is_owed_while_its_thread_ends_is_told_too(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The thread has just seen that nothing is left, when another call ends; no further one comes.
    """
    monkeypatch.setattr("tokenbudget_mw.backends.fallback.TELL_EVERY", 0.001)
    share, late, told = LocalShare(), list[bool](), threading.Event()
    fallback = Fallback(shared, share)  # type: ignore[arg-type]
    settle = shared.settle

    def tell(settlement: Settlement, now: float) -> bool:
        is_moved = settle(settlement, now)
        if shared.used() == 5 + 7:
            told.set()
        return is_moved

    monkeypatch.setattr(shared, "settle", tell)

    class Late(Debts):
        def __bool__(self) -> bool:
            is_any = super().__bool__()
            if not is_any and not late and threading.current_thread().name == "tokenbudget-settle":
                late.append(fallback.settle(settlement(asks[1], replies[1], 7), START))
            return is_any

    share.debts = Late()
    asks = [ask(check(5, 100)), ask(check(5, 100))]
    shared.is_away = True
    replies = [fallback.reserve(each, START) for each in asks]
    fallback.settle(settlement(asks[0], replies[0], 5), START)
    shared.is_away = False

    assert told.wait(10)
    assert late == [True]
    fallback.close()


def debts_of(number: int) -> list[tuple[Hold, int]]:
    return [(Hold(check(counter=f"key={at}"), BEGIN + 1_000_000), 1) for at in range(number)]


def test_debts_are_added_up_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    One amount a slot, however many calls there were; of too many the oldest are forgotten.
    """
    monkeypatch.setattr(debts, "MOST", 5)
    owed = Debts()
    for _ in range(3):
        owed.add("acme", debts_of(2), START)
    first = owed.next(START)
    for number in range(8):
        owed.add(f"tenant{number}", debts_of(1), START)

    assert first is not None
    assert [(hold.check.counter, hold.check.cost, amount) for hold, amount in first.owed] == [
        ("key=0", 0, 3),
        ("key=1", 0, 3),
    ]
    left = [debt.tag for debt in iter(lambda: owed.next(START), None)]
    assert left == [f"tenant{number}" for number in range(3, 8)]
    assert not owed


def test_of_too_many_debts_those_are_forgotten_whose_windows_end_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A month's budget, that was owed to first, is not given up for the seconds after it.
    """
    monkeypatch.setattr(debts, "MOST", 5)
    owed = Debts()
    for second in range(20):
        slots = [(Hold(month(), MONTH[0]), 1), (Hold(check(), BEGIN + second * 1_000_000), 1)]
        owed.add("acme", slots, START + second)

    (debt,) = iter(lambda: owed.next(START + 20), None)
    (budget, amount), *others = debt.owed
    assert (budget.check.window, amount) == ("tokens:month", 20)
    assert [hold.slot for hold, _ in others] == [BEGIN + second * 1_000_000 for second in range(16, 20)]


def test_many_debts_are_told_a_part_at_a_time() -> None:
    """
    No call is larger than a script should be.
    """
    owed = Debts()
    owed.add("acme", debts_of(100), START)

    sizes = [len(debt.owed) for debt in iter(lambda: owed.next(START), None)]
    assert sum(sizes) == 100
    assert max(sizes) == debts.TOLD_AT_ONCE


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_owes_nothing() -> None:
    """
    What its parent owes, its parent tells.
    """
    owed = Debts()
    owed.add("acme", debts_of(1), START)
    child = os.fork()
    if not child:
        os._exit(1 if owed else 0)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert owed
