"""
A large set of books on PostgreSQL: how long a dashboard waits for its answers, and what retention costs.

How many rows there are is up to ``TOKENBUDGET_BENCH_ROWS``; wall time counts, because the database does the work.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from sqlalchemy import Column, func, select, text
from sqlalchemy.engine import Engine

from benchmarks.flushing import POSTGRES, postgres
from benchmarks.harness import Result, Scale, UnavailableError
from tokenbudget_mw.database import analytics, tables
from tokenbudget_mw.database.backfill import fill_rollups
from tokenbudget_mw.database.retention import purge

__all__ = ["analytics_10m", "retention"]

ROWS = "TOKENBUDGET_BENCH_ROWS"
END = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = 90

# 1,000 keys of 300 tenants, 20 models, 4 routes, spread evenly over 90 days; 8 processes that count from 1
_VALUES = {
    "id": "MD5(CAST(n AS text))",
    "instance_id": "'i' || n % 8",
    "sequence": "n / 8",
    "created_at": f"TIMESTAMPTZ '2026-01-01Z' - (:rows - n) * (INTERVAL '{DAYS} days' / CAST(:rows AS float))",
    "route": "'/v1/' || n % 4",
    "status": "CASE WHEN n % 50 = 0 THEN 500 ELSE 200 END",
    "response_model": "'model-' || (n / 7) % 20",
    "key_id": "'k' || (n * 7919) % 1000",
    "account": "'tenant:' || (n * 7919) % 1000 % 300",
    "is_stream": "false",
    "tags": "'{}'",
    "decision": "'admitted'",
}


def analytics_10m(scale: Scale) -> Result:
    """
    The slowest question of a dashboard, against one that reads the rows.
    """
    with _books(scale) as (engine, rows):
        turns = scale.calls(100)
        seen = {name: _p95_ms(lambda ask=ask: ask(engine), turns) for name, ask in _QUESTIONS.items()}
        baseline = _p95_ms(lambda: _from_rows(engine), min(turns, 10))
    slowest = max(seen, key=lambda name: seen[name])
    return Result(
        value=seen[slowest],
        unit="ms p95",
        baseline="cost by model of 30 days, from the rows",
        baseline_value=baseline,
        goal="< 10 ms, every question, at 10 M rows",
        met=seen[slowest] < 10 and rows >= 10_000_000,
        details={"rows": rows, "slowest": slowest, **{f"{name}_ms": value for name, value in seen.items()}},
    )


def retention(scale: Scale) -> Result:
    """
    Delete the oldest hundred thousand rows, against one DELETE of as many.
    """
    with _books(scale) as (engine, rows):
        count = min(100_000, rows // 3)
        share = timedelta(days=DAYS) * (count / rows)
        start = END - timedelta(days=DAYS)
        before = time.perf_counter()
        report = purge(engine, before=start + share)
        took = time.perf_counter() - before
        before = time.perf_counter()
        with engine.begin() as connection:
            connection.execute(tables.usage.delete().where(tables.usage.c.created_at < start + 2 * share))
        at_once = time.perf_counter() - before
    return Result(
        value=took,
        unit="s",
        baseline="one DELETE, which keeps nothing of them",
        baseline_value=at_once,
        goal="< 1 s for 100,000 rows of 10 M, no statement > 50 ms",
        met=took < 1 and report.slowest_s <= 0.05 and report.rows >= 99_000 and rows >= 10_000_000,
        details={"rows": rows, "deleted": report.rows, "batches": report.batches, "slowest_s": report.slowest_s},
    )


_MONTH = {"since": END - timedelta(days=30), "until": END}

_QUESTIONS: dict[str, Callable[[Engine], object]] = {
    "totals": lambda engine: analytics.totals(engine, **_MONTH),
    "model_by_day": lambda engine: analytics.usage_by(engine, "day", "model", **_MONTH),
    "account_by_model": lambda engine: analytics.usage_by(engine, "model", account="tenant:7", **_MONTH),
    "key_by_day": lambda engine: analytics.usage_by(engine, "day", key_id="k7", **_MONTH),
    "top_keys_of_a_day": lambda engine: analytics.top_keys(engine, since=END - timedelta(days=1), until=END),
    "endpoints": lambda engine: analytics.endpoints(engine, **_MONTH),
    "last_minute": lambda engine: analytics.last_seconds(engine, now=END),
    "log_of_a_key": lambda engine: analytics.log_page(engine, key_id="k7"),
    "deep_in_the_log": lambda engine: analytics.log_page(
        engine, account="tenant:7", after=analytics.Cursor(END - timedelta(days=60), "x")
    ),
    "month_to_date": lambda engine: analytics.month_to_date(engine, now=END, account="tenant:7"),
}


def _p95_ms(ask: Callable[[], object], turns: int) -> float:
    ask()
    times = []
    for _ in range(turns):
        start = time.perf_counter()
        ask()
        times.append((time.perf_counter() - start) * 1000)
    times.sort()
    return times[min(len(times) - 1, len(times) * 95 // 100)]


def _from_rows(engine: Engine) -> None:
    usage = tables.usage.c
    wanted = (
        select(usage.response_model, func.sum(usage.cost_pico))
        .where(usage.created_at >= _MONTH["since"])
        .group_by(usage.response_model)
    )
    with engine.connect() as connection:
        connection.execute(wanted).all()


@contextmanager
def _books(scale: Scale) -> Iterator[tuple[Engine, int]]:
    url = os.environ.get(POSTGRES)
    if not url:
        raise UnavailableError(f"needs PostgreSQL; set {POSTGRES}")
    rows = scale.calls(int(os.environ.get(ROWS, "1000000")))
    with postgres(url) as engine:
        tables.metadata.create_all(engine)
        with engine.begin() as connection:
            connection.execute(text(_fill()), {"rows": rows})
            for statement in fill_rollups("postgresql"):
                connection.exec_driver_sql(statement)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
        yield engine, rows


def _fill() -> str:
    columns = [column for column in tables.usage.columns if column.name in _VALUES or not column.nullable]
    names = ", ".join(column.name for column in columns)
    values = ", ".join(_VALUES.get(column.name) or _filler(column) for column in columns)
    return (
        f"INSERT INTO tokenbudget_usage ({names}) SELECT {values} FROM GENERATE_SERIES(1, CAST(:rows AS bigint)) AS n"
    )


def _filler(column: Column) -> str:
    return "1000 + n % 1000" if column.type.python_type is int else "'x'"
