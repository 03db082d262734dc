"""
Books that were tampered with are put right by further entries, and then prove themselves again.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import OperationalError

from tokenbudget_mw.database import books, ledger, repair, tables
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.faults import is_permanent
from tokenbudget_mw.database.rerating import Selection, rerate
from tokenbudget_mw.database.retention import purge
from tokenbudget_mw.database.writer import DatabaseSink
from tokenbudget_mw.rules.tariffs import Tariffs
from tokenbudget_mw.values import Price

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from tokenbudget_mw.values import UsageRecord

    MakeRecord = Callable[..., UsageRecord]

DAY_US = 86_400_000_000
START_US = 1_760_000_000_123_457
NEXT = {"created_at_us": START_US + DAY_US}
START = datetime(2025, 10, 9, tzinfo=UTC)
ACME = "tenant:acme"


@pytest.fixture
def kept(engine: Engine, record: MakeRecord) -> Engine:
    """
    Books of two days: writes of two accounts and of nobody, a top-up, and a row that was priced again.
    """
    ledger.topup(engine, ACME, 1000, key="a")
    sink = DatabaseSink(engine)
    sink.write([record(1, cost_pico=10, key_id="k1", route="/a"), record(2, cost_pico=20, key_id="k2")])
    sink.write([record(3, cost_pico=12, **NEXT), record(4, account="key:k9", cost_pico=5, **NEXT)])
    sink.write([record(5, account=None, cost_pico=9), record(6, cost_pico=3, request_model="m", status=500)])
    price_again(engine)
    return engine


def price_again(engine: Engine) -> None:
    prices = Tariffs([Price("p", "m", 1, 0)], lambda _: (), "flag", Price("c", "*", 1, 1), str)
    rerate(engine, prices, Selection(START, START + timedelta(days=9)), apply=True)


def tamper(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            assert connection.execute(text(statement)).rowcount > 0


def ledger_rows(engine: Engine) -> dict[str, tuple[object, ...]]:
    with engine.connect() as connection:
        return {row.id: tuple(row) for row in connection.execute(select(tables.ledger))}


TAMPERINGS = {
    "row changed": "UPDATE tokenbudget_usage SET cost_pico = cost_pico + 1 WHERE sequence = 2",
    "row gone": "DELETE FROM tokenbudget_usage WHERE sequence = 1",
    "row moved": "UPDATE tokenbudget_usage SET account = 'key:k9' WHERE sequence = 3",
    "entry gone": "DELETE FROM tokenbudget_ledger WHERE amount_pico = 12",
    "entry changed": "UPDATE tokenbudget_ledger SET amount_pico = 60 WHERE amount_pico = 5",
    "entries changed": "UPDATE tokenbudget_ledger SET entries = 3 WHERE entries = 2",
    "write forgotten": "UPDATE tokenbudget_ledger SET write_id = NULL WHERE amount_pico = 5",
    "re-rating gone": "DELETE FROM tokenbudget_ledger WHERE kind = 'rerate'",
    "correction changed": "UPDATE tokenbudget_corrections SET change_pico = 100",
    "balance changed": "UPDATE tokenbudget_balances SET balance_pico = balance_pico + 1",
    "balances gone": "DELETE FROM tokenbudget_balances",
    "subjects changed": "UPDATE tokenbudget_rollup_subjects SET requests = requests + 1, cost_pico = cost_pico + 7",
    "subjects gone": "DELETE FROM tokenbudget_rollup_subjects",
    "hours gone": "DELETE FROM tokenbudget_rollup_hours",
    "days changed": "UPDATE tokenbudget_rollup_days SET input_tokens = input_tokens + 1",
}


@pytest.mark.parametrize("statement", TAMPERINGS.values(), ids=TAMPERINGS)
def test_whatever_was_changed_is_put_right(kept: Engine, statement: str) -> None:
    """After a repair the books agree, and no entry of the ledger was changed or deleted for it."""
    tamper(kept, statement)
    before = ledger_rows(kept)
    broken = not books.verify(kept).verified

    repair.repair(kept, note="audit 7")

    after = ledger_rows(kept)
    assert broken
    assert books.verify(kept).differences == ()
    assert {name: after[name] for name in before} == before
    added = [row for name, row in after.items() if name not in before]
    assert all("repair" in row and "audit 7" in row for row in added)


def test_everything_at_once(kept: Engine) -> None:
    """All of it together is put right, too, and the balance is what the rows say."""
    with kept.begin() as connection:
        for statement in TAMPERINGS.values():
            connection.execute(text(statement))

    repair.repair(kept)

    assert books.verify(kept).differences == ()
    with kept.connect() as connection:
        spent = connection.scalar(select(func.sum(tables.usage.c.cost_pico)).where(tables.usage.c.account == ACME))
    assert ledger.balance(kept, ACME) == 1000 - int(spent or 0) - 100


def test_what_is_posted_is_told(kept: Engine) -> None:
    """The report counts entries, what they come to, balances and lines of rollups."""
    tamper(kept, TAMPERINGS["entry gone"], TAMPERINGS["row changed"])

    report = repair.repair(kept)

    assert (report.entries, report.posted_pico, report.balances) == (2, 12 + 1, 1)
    assert report.rollups == 3
    assert repair.repair(kept) == repair.RepairReport()


def test_rollups_get_back_every_figure(kept: Engine, record: MakeRecord) -> None:
    """What verify does not compare is made anew with the rest: errors, refusals, durations, keys and routes."""

    def content() -> list[list[tuple[object, ...]]]:
        found = []
        with kept.connect() as connection:
            for table in (tables.rollup_subjects, tables.rollup_hours, tables.rollup_days):
                columns = [column for column in table.columns if column.name != "id"]
                found.append(sorted(map(repr, connection.execute(select(*columns)))))
        return found

    DatabaseSink(kept).write([record(7, cost_pico=8, key_id="k1", route="/a", request_model="m")])
    price_again(kept)
    before = content()
    tamper(kept, *(f"DELETE FROM tokenbudget_rollup_{name}" for name in ("subjects", "hours", "days")))

    repair.repair(kept)

    assert content() == before


def test_days_that_retention_has_emptied(kept: Engine) -> None:
    """Where rows are gone the kept sums are the truth: rollups follow them, the account's ledger follows the rollup."""
    purge(kept, before=START + timedelta(days=1))
    assert books.verify(kept).verified
    tamper(
        kept,
        TAMPERINGS["subjects changed"],
        TAMPERINGS["hours gone"],
        TAMPERINGS["days changed"],
        TAMPERINGS["entry changed"],
        "UPDATE tokenbudget_ledger SET amount_pico = 31 WHERE amount_pico = 30",
    )

    repair.repair(kept)

    report = books.verify(kept)
    assert report.differences == ()
    assert report.rollup_pico == report.usage_pico + report.unowned_pico + report.purged_pico + report.corrected_pico


def test_repaired_while_others_write(database_url: str, record: MakeRecord) -> None:
    """Two repairs and two writers at once: nothing is repaired twice, nothing written is lost."""
    engine = open_engine(database_url)
    tables.metadata.create_all(engine)
    sink = DatabaseSink(engine)
    sink.write([record(n, cost_pico=10, account=f"key:{n % 3}") for n in range(30)])
    tamper(
        engine,
        "UPDATE tokenbudget_rollup_subjects SET cost_pico = cost_pico + 5",
        "UPDATE tokenbudget_rollup_hours SET requests = requests + 5",
        "UPDATE tokenbudget_balances SET balance_pico = 0",
        "DELETE FROM tokenbudget_ledger WHERE account = 'key:1'",
    )
    failures: list[Exception] = []

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as exc:
            failures.append(exc)

    def written(rows: list[UsageRecord]) -> bool:
        try:
            sink.write(rows)
        except OperationalError as exc:
            if is_permanent(exc):
                raise
            return False
        return True

    def write(first: int) -> None:
        for n in range(first, first + 10):
            rows = [record(n, cost_pico=10, account=f"key:{n % 3}")]
            # as the flusher does, where the database chose the writer to end a deadlock
            while not written(rows):
                pass

    works = [lambda: repair.repair(engine), lambda: repair.repair(engine), lambda: write(100), lambda: write(200)]
    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    report = books.verify(engine)
    engine.dispose()
    assert failures == []
    assert report.differences == ()
    assert (report.rows, report.rollup_pico, report.balance_pico) == (50, 500, -500)
