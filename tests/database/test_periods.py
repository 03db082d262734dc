"""
Billing periods: every pico-dollar stands on one invoice, and what is closed never changes.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from tokenbudget_mw.database import books, ledger, periods, repair, tables
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.invoices import _half_even
from tokenbudget_mw.database.periods import (
    PICO_PER_CENT,
    Invoice,
    InvoiceItem,
    PeriodError,
    close,
    closed,
    draft,
)
from tokenbudget_mw.database.rerating import Selection, rerate
from tokenbudget_mw.database.writer import DatabaseSink
from tokenbudget_mw.rules.tariffs import Tariffs
from tokenbudget_mw.values import Price

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from tokenbudget_mw.values import UsageRecord

    MakeRecord = Callable[..., UsageRecord]

ACME = "tenant:acme"
DOLLAR = 10**12
MAY, JUNE, JULY = (datetime(2025, month, 1, tzinfo=UTC) for month in (5, 6, 7))
AFTER = datetime(2025, 8, 1, tzinfo=UTC).timestamp()


def on(day: datetime) -> dict[str, int]:
    return {"created_at_us": int(day.timestamp()) * 10**6}


@pytest.fixture
def used(engine: Engine, record: MakeRecord) -> Engine:
    """
    Acme's May: two models, to the last microsecond; and somebody else's.
    """
    DatabaseSink(engine).write(
        [
            record(1, request_model="big", cost_pico=3 * DOLLAR + 1, **on(MAY)),
            record(2, request_model="small", cost_pico=DOLLAR, created_at_us=int(JUNE.timestamp()) * 10**6 - 1),
            record(3, request_model="big", cost_pico=DOLLAR, **on(MAY + timedelta(days=9))),
            record(4, request_model="big", cost_pico=7 * DOLLAR, account="tenant:other", **on(MAY)),
            record(5, request_model="big", cost_pico=2 * DOLLAR, **on(JUNE)),
        ]
    )
    return engine


def closed_at(engine: Engine, starts: datetime, ends: datetime, included: int = 0) -> Invoice:
    return close(engine, ACME, starts, ends, included_pico=included, clock=lambda: AFTER)


def test_a_draft_tells_usage_by_model(used: Engine) -> None:
    """Days from the first moment to just before the last, by model, the dearest first; what is beyond the allowance is due."""
    invoice = draft(used, ACME, MAY, JUNE, included_pico=2 * DOLLAR)

    assert invoice.items == (
        InvoiceItem("big", 2, 20, 10, 4 * DOLLAR + 1),
        InvoiceItem("small", 1, 10, 5, DOLLAR),
    )
    assert (invoice.usage_pico, invoice.overage_pico) == (5 * DOLLAR + 1, 3 * DOLLAR + 1)
    assert (invoice.due_cents, invoice.remainder_pico, invoice.closed_at) == (300, 1, None)
    assert draft(used, ACME, MAY, JUNE, included_pico=6 * DOLLAR).due_cents == 0


def test_a_closed_period_stays_as_it_was(used: Engine, record: MakeRecord) -> None:
    """Usage that turns up later, and a price that is corrected, stand on the next invoice; the closed one does not change."""
    may = closed_at(used, MAY, JUNE)
    DatabaseSink(used).write([record(9, request_model="late", cost_pico=5 * PICO_PER_CENT, **on(MAY))])
    prices = Tariffs([Price("p", "small", 0, 0)], lambda _: (), "flag", Price("c", "*", 1, 1), str)
    rerate(used, prices, Selection(MAY, JUNE, model="small"), apply=True)

    june = closed_at(used, JUNE, JULY)

    assert draft(used, ACME, MAY, JUNE) == closed_at(used, MAY, JUNE) == may
    assert (june.usage_pico, june.earlier_pico) == (2 * DOLLAR, 5 * PICO_PER_CENT - DOLLAR)
    assert (june.carried_pico, june.due_cents) == (1, 105)
    assert closed(used, ACME) == [may, june]
    assert books.verify(used).verified


def test_an_invoice_of_many_models_is_closed(used: Engine, record: MakeRecord) -> None:
    """
    Models are named by clients, too: however many of them a period has, its invoice has a place.
    """
    names = [f"model-with-quite-a-long-name-{number}" for number in range(900)]
    DatabaseSink(used).write(
        [record(number, request_model=name, cost_pico=1, **on(MAY)) for number, name in enumerate(names, 10)]
    )

    closed_at(used, MAY, JUNE)

    assert len(closed(used, ACME)[0].items) == 902
    assert books.verify(used).verified


@pytest.mark.parametrize(
    ("included", "late", "due"),
    [
        (2, 1, (300, 100)),  # May's allowance was spent, June's pays nothing of it
        (7, 1, (0, 0)),  # May's has room for it
        (7, 4, (0, 200)),  # for two dollars of it
        (2, -1, (300, -100)),  # May was charged too much: June gives it back, although its usage is free
        (7, -1, (0, 0)),  # May was free anyway
    ],
)
def test_what_turns_up_counts_in_its_own_period(
    used: Engine, record: MakeRecord, included: int, late: int, due: tuple[int, int]
) -> None:
    """Late usage, and another price, are due as they would have been in their own month, once; June's usage is free."""
    may = closed_at(used, MAY, JUNE, included * DOLLAR)
    if late > 0:
        DatabaseSink(used).write([record(9, request_model="late", cost_pico=late * DOLLAR, **on(MAY))])
    else:
        prices = Tariffs([Price("p", "small", 0, 0)], lambda _: (), "flag", Price("c", "*", 1, 1), str)
        rerate(used, prices, Selection(MAY, JUNE, model="small"), apply=True)

    june = closed_at(used, JUNE, JULY, 5 * DOLLAR)
    july = draft(used, ACME, JULY, JULY + timedelta(days=31))

    assert (may.due_cents, june.due_cents) == due
    assert june.earlier_pico == late * DOLLAR
    assert (july.earlier_pico, july.due_cents) == (0, 0)
    assert books.verify(used).verified


def test_a_closed_period_needs_no_allowance_again(used: Engine) -> None:
    """Whoever names no allowance gets the period as it was closed, with the one it was closed with."""
    may = closed_at(used, MAY, JUNE, 2 * DOLLAR)

    assert draft(used, ACME, MAY, JUNE) == close(used, ACME, MAY, JUNE, clock=lambda: AFTER) == may


def test_refunds_come_off_once(used: Engine) -> None:
    """A refund lowers the invoice of its own period, below zero where it must."""
    at = (MAY + timedelta(days=3)).timestamp()
    ledger.refund(used, ACME, 6 * DOLLAR, key="r", clock=lambda: at)

    may, june = closed_at(used, MAY, JUNE, DOLLAR), closed_at(used, JUNE, JULY)

    assert (may.refunds_pico, may.overage_pico, may.due_cents) == (6 * DOLLAR, 1 - DOLLAR, -100)
    assert (june.refunds_pico, june.due_cents) == (0, 200)


def test_a_refund_that_is_taken_back_is_due_again(used: Engine) -> None:
    """In its own period it is no refund, in a later one it is due there; a top-up that is taken back is on no invoice."""
    may_4th, june_4th = ((day + timedelta(days=3)).timestamp() for day in (MAY, JUNE))
    for key in ("wrong", "right"):
        ledger.refund(used, ACME, DOLLAR, key=key, clock=lambda: may_4th)
    ledger.reverse(used, "refund", key="wrong", clock=lambda: may_4th)
    ledger.topup(used, ACME, DOLLAR, key="paid", clock=lambda: may_4th)
    ledger.reverse(used, "topup", key="paid", clock=lambda: may_4th)
    may = closed_at(used, MAY, JUNE)
    ledger.reverse(used, "refund", key="right", clock=lambda: june_4th)

    june = closed_at(used, JUNE, JULY)

    assert (may.refunds_pico, may.due_cents) == (DOLLAR, 400)
    assert (june.refunds_pico, june.due_cents) == (-DOLLAR, 300)
    assert books.verify(used).verified


@pytest.mark.parametrize(
    ("starts", "ends", "included", "message"),
    [
        (JUNE, JUNE, None, "ends after its beginning"),
        (JUNE, MAY, None, "ends after its beginning"),
        (MAY, JUNE - timedelta(hours=1), None, "at midnight UTC"),
        (datetime(2025, 5, 1), JUNE, None, "at midnight UTC"),  # noqa: DTZ001 - a moment without a zone is what is refused
        (MAY, JUNE, -1, "not below 0"),
    ],
)
def test_no_draft_is_made_of_what_is_no_period(
    used: Engine, starts: datetime, ends: datetime, included: int | None, message: str
) -> None:
    """A draft that could not be closed is no invoice to show to anybody."""
    with pytest.raises(PeriodError, match=message):
        draft(used, ACME, starts, ends, included_pico=included)


@pytest.mark.parametrize(
    ("starts", "ends", "message"),
    [
        (MAY, JUNE - timedelta(days=1), "2025-05-01 to 2025-06-01 is closed for tenant:acme already"),
        (JUNE - timedelta(days=1), JULY, "is closed for tenant:acme already"),
        (JUNE + timedelta(days=1), JULY, "The next period of tenant:acme begins on 2025-06-01"),
        (MAY - timedelta(days=3), MAY, "The next period of tenant:acme begins on 2025-06-01"),
        (JUNE, JUNE, "ends after its beginning"),
        (JUNE, JULY - timedelta(hours=1), "at midnight UTC"),
        (JUNE, datetime(2025, 7, 1, tzinfo=UTC) + timedelta(days=90), "lies ahead"),
    ],
)
def test_periods_follow_one_another(used: Engine, starts: datetime, ends: datetime, message: str) -> None:
    """Days are invoiced once, and none is left out; nothing is closed before it is over."""
    closed_at(used, MAY, JUNE)

    with pytest.raises(PeriodError, match=message):
        closed_at(used, starts, ends)
    with pytest.raises(PeriodError, match=r"closed with \$0.00 included, not \$0.000000000001"):
        closed_at(used, MAY, JUNE, 1)
    assert len(closed(used, ACME)) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE tokenbudget_periods SET document = REPLACE(document, 'big', 'bag')",
        "UPDATE tokenbudget_periods SET document = 'x' WHERE starts_at < '2025-05-31'",
        "UPDATE tokenbudget_periods SET usage_pico = 1 WHERE starts_at < '2025-05-31'",
        "UPDATE tokenbudget_periods SET ends_at = starts_at",
        "UPDATE tokenbudget_periods SET account = 'key:k9'",
        "DELETE FROM tokenbudget_periods WHERE starts_at < '2025-05-31'",
    ],
)
def test_a_changed_period_is_found(used: Engine, statement: str) -> None:
    """Whoever changes or removes what was closed is found, and no repair makes it pass."""
    closed_at(used, MAY, JUNE)
    closed_at(used, JUNE, JULY)
    assert books.verify(used).verified
    with used.begin() as connection:
        assert connection.execute(text(statement)).rowcount > 0

    repair.repair(used)

    differences = books.verify(used).differences
    assert {difference.kind for difference in differences} == {"period"}
    assert "is not what was closed" in str(differences[0])


def test_t15_two_at_once_close_once(database_url: str, record: MakeRecord) -> None:
    """Threads that close the same period get one invoice."""
    engine = open_engine(database_url)
    tables.metadata.create_all(engine)
    DatabaseSink(engine).write([record(1, cost_pico=DOLLAR, **on(MAY))])
    made: list[Invoice] = []
    threads = [threading.Thread(target=lambda: made.append(closed_at(engine, MAY, JUNE))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    kept, verified = closed(engine, ACME), books.verify(engine).verified
    engine.dispose()
    assert made == kept * 3
    assert (len(kept), kept[0].due_cents, verified) == (1, 100, True)


def test_t15_somebody_else_closes_other_days_meanwhile(used: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Days that were closed while this period was drafted are on no second invoice, though it begins on another day."""
    drafted, others = periods.drafted, [(MAY + timedelta(days=5), JULY)]

    def draft_slowly(*arguments: Any, **options: Any) -> Invoice:
        made = drafted(*arguments, **options)
        if others:
            closed_at(used, *others.pop())
        return made

    monkeypatch.setattr(periods, "drafted", draft_slowly)

    with pytest.raises(PeriodError, match="2025-05-06 to 2025-07-01 is closed"):
        closed_at(used, MAY, JUNE)
    assert [invoice.starts_at[:10] for invoice in closed(used, ACME)] == ["2025-05-06"]
    assert books.verify(used).verified


@given(st.lists(st.integers(-(10**12), 10**12), max_size=30))
def test_rounding_loses_nothing(amounts: list[int]) -> None:
    """Cents and what is carried over add up to the exact amounts, and no rounding is off by more than half a cent."""
    carried = cents = 0
    for amount in amounts:
        due = amount + carried
        rounded = _half_even(due)
        carried = due - rounded * PICO_PER_CENT
        cents += rounded
        assert abs(carried) * 2 <= PICO_PER_CENT

    assert cents * PICO_PER_CENT + carried == sum(amounts)


def test_halves_are_rounded_to_even() -> None:
    """Half a cent goes to the even neighbour, so that many invoices do not drift one way."""
    half = PICO_PER_CENT // 2

    assert [_half_even(n * half) for n in (1, 3, 5, -1, -3)] == [0, 2, 2, 0, -2]
    assert [_half_even(half + 1), _half_even(-half - 1)] == [1, -1]
