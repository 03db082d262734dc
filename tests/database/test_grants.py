"""
Money for a time: usage takes it first, what is left at its end goes back once, and the books close.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from tokenbudget_mw.database import books, ledger, tables
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.grants import expire, grant, unused
from tokenbudget_mw.database.ledger import EntryConflictError
from tokenbudget_mw.database.writer import DatabaseSink
from tokenbudget_mw.testing.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from tokenbudget_mw.values import UsageRecord

    MakeRecord = Callable[..., UsageRecord]

NOW = 1_760_000_000.0
DAY = 86_400.0
ACME = "tenant:acme"


class Books:
    """
    An account's life on a clock of its own.
    """

    def __init__(self, engine: Engine, record: MakeRecord) -> None:
        self.engine, self.clock, self._record = engine, FakeClock(NOW), record
        self._sink, self._sequence = DatabaseSink(engine, clock=self.clock), 0

    def grant(self, amount: int, days: float, key: str = "g") -> ledger.Entry:
        return grant(self.engine, ACME, amount, key=key, expires_at=NOW + days * DAY, clock=self.clock)

    def use(self, pico: int) -> None:
        self._sequence += 1
        self._sink.write([self._record(self._sequence, cost_pico=pico)])

    def expire(self) -> list[int]:
        return [entry.change_pico for entry in expire(self.engine, clock=self.clock)]

    @property
    def balance(self) -> int:
        return ledger.balance(self.engine, ACME)

    @property
    def unused(self) -> int:
        return unused(self.engine, ACME, clock=self.clock)


@pytest.fixture
def account(engine: Engine, record: MakeRecord) -> Books:
    """
    Acme's books, on each database in turn.
    """
    return Books(engine, record)


def test_what_is_unused_goes_back_once(account: Books) -> None:
    """At its end, and not before, the rest of a grant is taken back; the next run finds nothing to do."""
    account.grant(100, days=1)
    account.clock.advance(1)
    account.use(30)
    before = account.expire(), account.balance, account.unused
    account.clock.advance(DAY)

    assert before == ([], 70, 70)
    assert account.unused == 0
    assert account.expire() == [-70]
    assert account.expire() == []
    assert account.balance == 0
    assert books.verify(account.engine).verified


def test_paid_money_is_used_last_and_stays(account: Books) -> None:
    """Usage takes from the grant that ends first, then from the other, then from what was paid."""
    ledger.topup(account.engine, ACME, 1000, key="a", clock=account.clock)
    account.grant(100, days=2, key="late")
    account.grant(50, days=1, key="soon")
    account.clock.advance(1)
    account.use(60)
    account.clock.advance(DAY)
    account.use(20)

    assert account.unused == 70
    assert account.expire() == []  # nothing is left of the one that has ended
    account.clock.advance(DAY)
    assert account.expire() == [-70]
    assert account.balance == 1000
    assert books.verify(account.engine).verified


def test_usage_after_the_end_takes_paid_money(account: Books) -> None:
    """A grant that is over pays nothing, even where nobody has taken it back yet."""
    account.grant(100, days=1)
    account.clock.advance(DAY)
    account.use(30)

    assert account.expire() == [-100]
    assert account.balance == -30


def test_what_was_taken_back_pays_for_nothing_that_a_slow_clock_writes(account: Books) -> None:
    """Usage that is dated before the end of a grant which was taken back meanwhile takes from the next one."""
    ledger.topup(account.engine, ACME, 1000, key="a", clock=account.clock)
    account.grant(100, days=1, key="soon")
    account.grant(100, days=2, key="late")
    account.clock.advance(1)
    account.use(30)
    account.clock.advance(DAY)
    taken_back = account.expire()
    account.clock.advance(-DAY)
    account.use(50)
    account.clock.advance(2 * DAY)

    assert taken_back == [-70]
    assert account.expire() == [-50]
    assert account.balance == 1000
    assert books.verify(account.engine).verified


def test_a_grant_that_nobody_took_back_in_time_is_taken_back_all_the_same(account: Books) -> None:
    """Though another was given since."""
    account.grant(100, days=1)
    account.clock.advance(2 * DAY)
    account.grant(50, days=9, key="next")

    assert account.expire() == [-100]
    assert account.unused == 50
    assert account.balance == 50


def test_what_was_paid_long_before_is_not_paid_again(account: Books) -> None:
    """What is left of a grant hangs on those that have ended beside it, and on those that had beside these."""
    account.grant(100, days=3, key="first")
    account.clock.advance(1)
    account.grant(100, days=10, key="second")
    account.clock.advance(DAY)
    account.use(60)
    account.clock.advance(4 * DAY)
    first = account.expire()
    account.grant(100, days=20, key="third")
    account.clock.advance(1)
    account.use(80)
    account.clock.advance(5 * DAY)

    assert first == [-40]
    assert account.expire() == [-20]
    assert account.unused == 100
    assert books.verify(account.engine).verified


def test_what_is_given_back_is_no_grant(account: Books) -> None:
    """A refund of what a grant has paid is money like any other: it does not end with the grant."""
    account.grant(100, days=1)
    account.clock.advance(1)
    account.use(100)
    ledger.refund(account.engine, ACME, 40, key="r", clock=account.clock)
    account.clock.advance(DAY)

    assert account.expire() == []
    assert account.balance == 40


def test_what_is_taken_back_was_never_given(account: Books) -> None:
    """A top-up that was posted wrongly is not paid for by a grant when it is reversed."""
    account.grant(100, days=1)
    ledger.topup(account.engine, ACME, 40, key="wrong", clock=account.clock)
    account.clock.advance(1)
    ledger.reverse(account.engine, "topup", key="wrong", clock=account.clock)

    assert account.unused == 100
    account.clock.advance(DAY)
    assert account.expire() == [-100]
    assert account.balance == 0


def test_an_adjustment_that_is_taken_back_never_was(account: Books) -> None:
    """What was taken off by mistake and given back is the grant's again, and ends with it."""
    account.grant(100, days=1)
    account.clock.advance(1)
    ledger.adjust(account.engine, ACME, -40, key="wrong", clock=account.clock)
    ledger.adjust(account.engine, ACME, -7, key="right", clock=account.clock)
    before = account.unused
    ledger.reverse(account.engine, "adjust", key="wrong", clock=account.clock)

    assert (before, account.unused, account.balance) == (53, 93, 93)
    account.clock.advance(DAY)
    assert (account.expire(), account.balance) == ([-93], 0)
    assert books.verify(account.engine).verified


def test_t11_the_same_key_grants_once(account: Books) -> None:
    """A grant that is told twice is there once; another amount, account or end under its key is an error."""
    assert (account.grant(100, days=1).is_new, account.grant(100, days=1).is_new) == (True, False)
    with pytest.raises(EntryConflictError):
        account.grant(101, days=1)
    with pytest.raises(EntryConflictError, match="one that ends at 2025-10-10"):
        account.grant(100, days=2)

    assert account.balance == 100


@pytest.mark.parametrize(("amount", "days", "key"), [(0, 1, "k"), (1, 0, "k"), (1, 1, " ")])
def test_what_makes_no_sense_is_refused(account: Books, amount: int, days: float, key: str) -> None:
    """No amount, no time, no key: an error, and nothing is posted."""
    with pytest.raises(ValueError, match=r"above 0|ends after|idempotency key"):
        account.grant(amount, days, key)

    assert account.balance == 0


def test_entries_are_added_up_by_the_database(account: Books) -> None:
    """What is left of a grant is told without a look at each entry, and without one at what was before those that are open."""
    account.grant(100, days=1, key="closed")
    account.clock.advance(1)
    account.use(30)
    account.clock.advance(DAY)
    account.expire()
    account.grant(50, days=3, key="open")
    account.clock.advance(1)
    account.use(20)
    asked: list[str] = []
    event.listen(account.engine, "before_cursor_execute", lambda *given: asked.append(given[2].lower()))

    assert account.unused == 30
    entries = [sql for sql in asked if "from tokenbudget_ledger" in sql]
    assert [("sum(" in sql) for sql in entries] == [True]


SPENT = st.tuples(st.just("use"), st.integers(1, 60))
GIVEN = st.tuples(st.just("grant"), st.integers(1, 100), st.integers(1, 6))
OTHERS = st.sampled_from([("wait",), ("expire",), ("refund",), ("adjust",)])


@given(st.lists(st.one_of(SPENT, GIVEN, OTHERS, st.just(("wait",))), max_size=25))
@settings(max_examples=40, deadline=None)
def test_grants_pay_as_a_replay_of_the_entries_says(acts: list[tuple[Any, ...]]) -> None:
    """However grants overlap, end and are taken back, each pico-dollar is paid by the one that ends first at its moment."""
    engine = open_engine("sqlite://")
    tables.metadata.create_all(engine, [tables.ledger, tables.balances, tables.grants])
    clock, open_grants, taken, expected = FakeClock(NOW), list[list[Any]](), list[int](), list[int]()
    for number, (act, *given_) in enumerate(acts):
        clock.advance(0.001)
        if act == "wait":
            clock.advance(1)
        elif act == "grant":
            amount, seconds = given_
            entry = grant(engine, ACME, amount, key=f"{number}", expires_at=clock.now + seconds, clock=clock)
            open_grants.append([round(clock.now + seconds, 6), entry.id, amount])
        elif act == "expire":
            taken += sorted(entry.change_pico for entry in expire(engine, clock=clock))
            expected += sorted(-left for ends, _, left in open_grants if ends <= clock.now and left)
            open_grants = [granted for granted in open_grants if granted[0] > clock.now]
        elif act == "refund":
            ledger.refund(engine, ACME, 7, key=f"{number}", clock=clock)
        else:
            spent = given_[0] if given_ else 9
            ledger.adjust(engine, ACME, -spent, key=f"{number}", clock=clock)
            for granted in sorted(open_grants):
                if granted[0] > clock.now:
                    paid = min(granted[2], spent)
                    granted[2] -= paid
                    spent -= paid
    left = unused(engine, ACME, clock=clock)
    engine.dispose()

    assert taken == expected
    assert left == sum(left for ends, _, left in open_grants if ends > clock.now)


def test_t15_two_at_once_take_back_once(database_url: str, record: MakeRecord) -> None:
    """Runs at the same time, while usage is written, take each grant back once."""
    engine = open_engine(database_url)
    tables.metadata.create_all(engine)
    account = Books(engine, record)
    for number in range(5):
        account.grant(10, days=1, key=f"g{number}")
    account.clock.advance(2 * DAY)
    taken: list[int] = []
    threads = [threading.Thread(target=lambda: taken.extend(account.expire())) for _ in range(3)]
    threads.append(threading.Thread(target=lambda: [account.use(1) for _ in range(5)]))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    held, verified = account.balance, books.verify(engine).verified
    engine.dispose()
    assert (taken, held, verified) == ([-10] * 5, -5, True)
