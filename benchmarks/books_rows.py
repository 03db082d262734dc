"""
Rows for large books: ninety days of traffic as a service that grows has it, made by the database itself.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Column, text
from sqlalchemy.engine import Engine

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.backfill import fill_rollups

__all__ = ["DAYS", "END", "fill"]

END = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = 90


def _few(count: int, prime: int, power: float) -> str:
    """
    Return SQL for a number below *count*, low ones more often: number 0 has the share ``count ** (-1 / power)``.
    """
    return f"FLOOR({count} * POWER((n * {prime} % 1000003) / 1000003.0::float, {power}))::int"


# 1,000 keys of 300 tenants, of which the first key has 6 % of all rows; 20 models, the first 22 %; 4 routes, the first 50 %.
# Each day has its rhythm, each is busier than the one before, and the last hour has 3.6 %: 100 a second of ten million.
# Eight processes count from 1.
_KEY = _few(1000, 7919, 2.5)
_GROWN = "POWER(n / CAST(:rows * 0.964 AS float), 0.7)"
_VALUES = {
    "id": "MD5(CAST(n AS text))",
    "instance_id": "'i' || n % 8",
    "sequence": "n / 8",
    "created_at": f"""CASE WHEN n > :rows * 0.964
        THEN TIMESTAMPTZ '2026-01-01Z' - (:rows - n) / (:rows * 0.036) * INTERVAL '1 hour'
        ELSE TIMESTAMPTZ '2026-01-01Z' - INTERVAL '{DAYS} days 1 hour'
            + ({_GROWN} + 0.8 * SIN(2 * PI() * {DAYS} * {_GROWN}) / (2 * PI() * {DAYS})) * INTERVAL '{DAYS} days' END""",
    "route": f"'/v1/' || {_few(4, 104729, 2)}",
    "status": "CASE WHEN n % 50 = 0 THEN 500 ELSE 200 END",
    "duration_us": "(20000 * EXP(6 * ((n * 15485863) % 1000003) / 1000003.0::float))::bigint",
    "response_model": f"'model-' || {_few(20, 31337, 2)}",
    "key_id": f"'k' || {_KEY}",
    "account": f"'tenant:' || {_KEY} % 300",
    "is_stream": "false",
    "tags": "'{}'",
    "decision": "'admitted'",
    "price_kind": "CASE WHEN n % 1000 = 0 THEN 'ceiling' ELSE 'known' END",
}


def fill(engine: Engine, rows: int) -> None:
    """
    Make the tables in the empty database of *engine*, with *rows* of usage and the rollups of them.
    """
    tables.metadata.create_all(engine)
    indexes = sorted(tables.usage.indexes, key=lambda index: str(index.name))
    with engine.begin() as connection:
        for setting in ("synchronous_commit = off", "maintenance_work_mem = '512MB'", "work_mem = '256MB'"):
            connection.exec_driver_sql(f"SET LOCAL {setting}")
        for index in indexes:  # made at once afterwards, in a quarter of the time
            index.drop(connection)
        connection.execute(text(_insert()), {"rows": rows})
        for index in indexes:
            index.create(connection)
        for statement in fill_rollups("postgresql"):
            connection.exec_driver_sql(statement)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")


def _insert() -> str:
    columns = [column for column in tables.usage.columns if column.name in _VALUES or not column.nullable]
    names = ", ".join(column.name for column in columns)
    values = ", ".join(_VALUES.get(column.name) or _filler(column) for column in columns)
    return (
        f"INSERT INTO tokenbudget_usage ({names}) SELECT {values} FROM GENERATE_SERIES(1, CAST(:rows AS bigint)) AS n"
    )


def _filler(column: Column) -> str:
    return "1000 + n % 1000" if column.type.python_type is int else "'x'"
