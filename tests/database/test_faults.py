"""
What a database error means.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from tokenbudget_mw.database.faults import (
    advice,
    is_deadlock,
    is_forbidden,
    is_full,
    is_locked,
    is_missing_schema,
    is_permanent,
    is_read_only,
    is_timeout,
    is_unopened,
)


class Driver(Exception):
    """
    A driver's error, with PostgreSQL's state or MySQL's number.
    """

    def __init__(self, *arguments: object, sqlstate: str | None = None) -> None:
        super().__init__(*arguments)
        self.sqlstate = sqlstate


def error(kind: type[DBAPIError], *arguments: object, sqlstate: str | None = None) -> DBAPIError:
    return kind("INSERT", {}, Driver(*arguments, sqlstate=sqlstate))


@pytest.mark.parametrize(
    "exc",
    [
        error(IntegrityError, sqlstate="23505"),
        error(DataError, sqlstate="22003"),
        error(OperationalError, sqlstate="54000"),
        error(OperationalError, 1366, "Incorrect string value"),
        error(OperationalError, 3819, "Check constraint is violated"),
        error(OperationalError, 4025, "CONSTRAINT failed"),
        OverflowError("Python int too large to convert to SQLite INTEGER"),
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
    ],
)
def test_what_can_never_be_stored_is_permanent(exc: Exception) -> None:
    """
    Values, constraints and sizes that the database refuses.
    """
    assert is_permanent(exc)
    assert not is_missing_schema(exc)


def test_a_deadlock_is_told_from_other_errors() -> None:
    """
    Each server has its own word for it.
    """
    assert is_deadlock(error(OperationalError, sqlstate="40P01"))
    assert is_deadlock(error(OperationalError, 1213, "Deadlock found"))
    assert not is_deadlock(error(OperationalError, 1205, "Lock wait timeout"))
    assert not is_deadlock(error(OperationalError, "database is locked"))


@pytest.mark.parametrize(
    "exc",
    [
        error(OperationalError, sqlstate="40P01"),
        error(OperationalError, sqlstate="40001"),
        error(OperationalError, sqlstate="53300"),
        error(OperationalError, sqlstate="53100"),
        error(OperationalError, sqlstate="57P01"),
        error(DBAPIError, sqlstate="25006"),
        error(OperationalError, 1213, "Deadlock found"),
        error(OperationalError, 1205, "Lock wait timeout"),
        error(OperationalError, 2013, "Lost connection"),
        error(OperationalError, "database is locked"),
        error(OperationalError, "disk I/O error"),
        PoolTimeoutError("QueuePool limit"),
    ],
)
def test_what_passes_is_neither_permanent_nor_a_missing_schema(exc: Exception) -> None:
    """
    Deadlocks, locks, lost connections, full disks, read-only replicas.
    """
    assert not is_permanent(exc)
    assert not is_missing_schema(exc)


@pytest.mark.parametrize(
    "exc",
    [
        error(ProgrammingError, sqlstate="42P01"),
        error(ProgrammingError, sqlstate="42703"),
        error(ProgrammingError, 1146, "Table 'x.tokenbudget_usage' doesn't exist"),
        error(OperationalError, 1054, "Unknown column"),
        error(OperationalError, "no such table: tokenbudget_usage"),
        error(OperationalError, "table tokenbudget_usage has no column named write_id"),
    ],
)
def test_a_missing_table_or_column_is_a_missing_schema(exc: Exception) -> None:
    """
    Records wait for the migration.
    """
    assert is_missing_schema(exc)
    assert not is_permanent(exc)


@pytest.mark.parametrize(
    ("is_it", "errors"),
    [
        (
            is_read_only,
            [
                error(DBAPIError, sqlstate="25006"),
                error(OperationalError, 1290, "running with the --read-only option"),
                error(OperationalError, 1836, "Running in read-only mode"),
                error(OperationalError, "attempt to write a readonly database"),
            ],
        ),
        (
            is_full,
            [
                error(OperationalError, sqlstate="53100"),
                error(OperationalError, 1021, "Disk full"),
                error(OperationalError, "database or disk is full"),
            ],
        ),
        (is_unopened, [error(OperationalError, "unable to open database file")]),
        (is_forbidden, [error(ProgrammingError, sqlstate="42501"), error(OperationalError, 1142, "command denied")]),
        (
            is_timeout,
            [
                error(OperationalError, sqlstate="57014"),
                error(OperationalError, 1969, "max_statement_time exceeded"),
                error(OperationalError, 3024, "maximum statement execution time exceeded"),
            ],
        ),
    ],
)
def test_what_passes_has_its_reason(is_it: Callable[[Exception], bool], errors: list[DBAPIError]) -> None:
    """
    A server that only reads, a role without the right, a statement that took too long, a full disk: each is told from the
    others, with what to do.
    """
    assert all(map(is_it, errors))
    assert not any(map(is_permanent, errors))
    assert len({advice(each) for each in errors}) == 1
    assert sum(each(errors[0]) for each in (is_read_only, is_forbidden, is_timeout, is_full, is_unopened)) == 1
    assert advice(error(OperationalError, "database is locked")) is None


@pytest.mark.parametrize("name", ["sqlstate", "pgcode"])
@pytest.mark.parametrize(("state", "expected"), [("55P03", True), ("40P01", True), ("42P01", False)])
def test_a_lock_that_others_hold_is_told_by_both_drivers(name: str, state: str, *, expected: bool) -> None:
    """
    Whether to step back from a table that is busy is read where psycopg says it, and where psycopg2 does.
    """
    cause = Exception("canceling statement due to lock timeout")
    setattr(cause, name, state)

    assert is_locked(OperationalError("ALTER TABLE", {}, cause)) is expected
