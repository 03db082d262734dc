"""
Roles with no more than `docs/operations.md` grants them, in a schema of its own, on PostgreSQL.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Engine, make_url
from sqlalchemy.exc import ProgrammingError

import tokenbudget_mw_alembic
from tokenbudget_mw.database import books, ledger, periods
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.retention import purge
from tokenbudget_mw.database.writer import DatabaseSink

if TYPE_CHECKING:
    from tokenbudget_mw.values import UsageRecord

    MakeRecord = Callable[..., UsageRecord]

Open = Callable[[str], Engine]

ROLES = """
CREATE ROLE {name}_owner LOGIN PASSWORD 'x';
CREATE SCHEMA books AUTHORIZATION {name}_owner;
CREATE ROLE {name}_app LOGIN PASSWORD 'x';
GRANT USAGE ON SCHEMA books TO {name}_app;
ALTER DEFAULT PRIVILEGES FOR ROLE {name}_owner IN SCHEMA books GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {name}_app;
CREATE ROLE {name}_reader LOGIN PASSWORD 'x';
GRANT USAGE ON SCHEMA books TO {name}_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE {name}_owner IN SCHEMA books GRANT SELECT ON TABLES TO {name}_reader;
"""


@pytest.fixture
def open_as(postgres_database: str) -> Iterator[Open]:
    """
    Open the database as the owner of the tables, the app or a reader; the owner has migrated.
    """
    name, engines = f"migr_{uuid.uuid4().hex[:8]}", [open_engine(postgres_database)]
    url = make_url(postgres_database).update_query_dict({"options": "-csearch_path=books"})

    def open_as(role: str) -> Engine:
        engines.append(open_engine(url.set(username=f"{name}_{role}", password="x")))
        return engines[-1]

    def run(*statements: str) -> None:
        with engines[0].begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    run(*filter(str.strip, ROLES.format(name=name).split(";")))
    tokenbudget_mw_alembic.upgrade(open_as("owner"))
    append_only = "tokenbudget_ledger, books.tokenbudget_corrections, books.tokenbudget_periods"
    run(f"REVOKE UPDATE, DELETE ON books.{append_only} FROM {name}_app")
    yield open_as
    for engine in engines[1:]:
        engine.dispose()
    for role in ("app", "reader", "owner"):
        run(f"DROP OWNED BY {name}_{role} CASCADE", f"DROP ROLE {name}_{role}")
    engines[0].dispose()


def test_the_app_needs_to_own_nothing(open_as: Open, record: MakeRecord) -> None:
    """
    Writing, posting, closing, purging and proving need no more than rows may need; the ledger may be append-only.
    """
    app = open_as("app")
    sink = DatabaseSink(app)

    added = sink.write([record(1), record(2)]), sink.write([record(2), record(3)])
    ledger.topup(app, "tenant:acme", 100, key="k")
    periods.close(app, "tenant:acme", datetime(2025, 10, 1, tzinfo=UTC), datetime(2025, 11, 1, tzinfo=UTC))
    purged = purge(app, before=datetime(2026, 1, 1, tzinfo=UTC)).rows

    assert (added, purged) == ((2, 1), 3)
    assert books.verify(app).verified
    assert tokenbudget_mw_alembic.current(app) == tokenbudget_mw_alembic.head()


def test_a_reader_reads(open_as: Open, record: MakeRecord) -> None:
    """
    It proves the books, and writes nothing.
    """
    DatabaseSink(open_as("app")).write([record(1)])
    reader = open_as("reader")

    assert books.verify(reader).verified
    with pytest.raises(ProgrammingError, match="permission denied"):
        DatabaseSink(reader).write([record(2)])
