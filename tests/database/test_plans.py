"""
No hot query reads a table from end to end (`EXPLAIN` says so).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from query_plans import is_scan, plan, scans, statements_of
from sqlalchemy import select

from tokenbudget_mw.database import ledger as money
from tokenbudget_mw.database import tables
from tokenbudget_mw.database.balances import BalanceReader
from tokenbudget_mw.database.keys import KeyStore
from tokenbudget_mw.database.writer import DatabaseSink

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine, Select

    from tokenbudget_mw.values import UsageRecord

usage, ledger = tables.usage.c, tables.ledger.c
AT = datetime(2025, 10, 9, tzinfo=UTC)

HOT = {
    "what a write added": select(usage.id).where(
        usage.instance_id == "i1", usage.sequence.between(3, 9), usage.write_id == "w"
    ),
    "log of a key": select(usage.id)
    .where(usage.key_id == "k1", usage.created_at < AT)
    .order_by(usage.created_at.desc(), usage.id.desc())
    .limit(50),
    "log of an account": select(usage.id)
    .where(usage.account == "tenant:1", usage.created_at < AT)
    .order_by(usage.created_at.desc(), usage.id.desc())
    .limit(50),
    "last minute": select(usage.input_tokens).where(usage.created_at >= AT),
    "ledger of an account": select(ledger.id)
    .where(ledger.account == "tenant:1")
    .order_by(ledger.created_at.desc(), ledger.id.desc())
    .limit(50),
}


@pytest.fixture
def full(engine: Engine, record: Callable[..., UsageRecord]) -> Engine:
    """
    A database with some thousand rows of many keys, and up-to-date statistics.
    """
    hour = 3_600_000_000
    DatabaseSink(engine).write(
        [
            record(
                number,
                instance_id=f"i{number % 7}",
                id=f"r{number}",
                key_id=f"k{number % 97}",
                account=f"tenant:{number % 53}",
                created_at_us=1_750_000_000_000_000 + number * hour,
            )
            for number in range(3000)
        ]
    )
    with engine.begin() as connection:
        if engine.dialect.name == "mysql":
            names = ", ".join(tables.metadata.tables)
            connection.exec_driver_sql(f"ANALYZE TABLE {names}").all()
        else:
            connection.exec_driver_sql("ANALYZE")
    return engine


def test_t15_no_hot_query_scans(full: Engine) -> None:
    """
    Each lookup on the way of a request, of a write and of a log page takes an index.
    """
    with full.connect() as connection:
        plans = {name: plan(connection, statement) for name, statement in HOT.items()}

    assert {name: found for name, found in plans.items() if scans(found)} == {}


def test_t15_no_statement_of_a_request_or_a_write_scans(full: Engine, record: Callable[..., UsageRecord]) -> None:
    """
    So does every statement that is made on the way of a request, a write and a top-up.
    """
    store = KeyStore(full, "pepper")
    kid = [store.create(tenant=f"tenant-{number}").row.kid for number in range(50)][7]
    batch = [record(9000 + number, account=f"tenant:{number}", key_id=f"k{number}") for number in range(5)]
    asked: dict[str, Callable[[Engine], object]] = {
        "key": lambda _: store.lookup(kid),
        "funded": lambda engine: BalanceReader(engine).funded(["tenant:1", "tenant:2"]),
        "balance": lambda engine: money.balance(engine, "tenant:1"),
        "top-up": lambda engine: money.topup(engine, "tenant:1", 5, key="paid"),
        "write": lambda engine: DatabaseSink(engine).write(batch),
    }

    made = {name: statements_of(full, ask) for name, ask in asked.items()}

    assert all(made.values())
    assert [sql for found in made.values() for sql, values in found if is_scan(full, sql, values)] == []


def test_t15_a_scan_would_be_noticed(full: Engine) -> None:
    """
    The check itself finds a query that has no index.
    """
    with full.connect() as connection:
        found = plan(connection, select(usage.id).where(usage.path == "/v1/chat/completions"))

    assert scans(found)
    (made,) = statements_of(full, lambda engine: _ask(engine, select(usage.id).where(usage.path == "/v1/messages")))
    assert is_scan(full, *made)


def _ask(engine: Engine, statement: Select[Any]) -> None:
    with engine.connect() as connection:
        connection.execute(statement)
