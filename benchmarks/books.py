"""
A large set of books on PostgreSQL: how long a dashboard waits for its answers, and what retention costs.

There are ten million rows, or as many as ``TOKENBUDGET_BENCH_ROWS`` says: some 7 GB while it runs. Wall time counts, because
the database does the work.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.engine import Engine

from benchmarks.books_rows import END, fill
from benchmarks.flushing import POSTGRES, postgres
from benchmarks.harness import Result, Scale, UnavailableError
from tokenbudget_mw.database import analytics, tables
from tokenbudget_mw.database.retention import purge

__all__ = ["analytics_10m", "retention"]

ROWS = "TOKENBUDGET_BENCH_ROWS"
FULL, QUICK = 10_000_000, 10_000
SMALLER = (1_000, 100_000)
"""Sizes at which every question is asked before, to see how its time grows."""


def analytics_10m(scale: Scale) -> Result:
    """
    The slowest question of a dashboard, against one that reads the rows; before, the same of smaller books.
    """
    turns, full = scale.calls(100), _rows(scale)
    grown = {}
    for size in (size for size in SMALLER if size < full):
        with _books(size) as engine:
            grown[f"at_{size}_ms"] = _ask(engine, turns)
    with _books(full) as engine:
        seen = _ask(engine, turns)
        baseline = _baseline_ms(engine, min(turns, 10))
    slowest = max(seen, key=lambda name: seen[name])
    return Result(
        value=seen[slowest],
        unit="ms p95",
        baseline="cost by model of 30 days, from the rows",
        baseline_value=baseline,
        goal="< 10 ms, every question, at 10 M rows",
        met=seen[slowest] < 10 and full >= FULL,
        details={"rows": full, "slowest": slowest, f"at_{full}_ms": seen, **grown},
    )


def retention(scale: Scale) -> Result:
    """
    Delete the oldest hundred thousand rows, against one DELETE of as many.
    """
    full = _rows(scale)
    with _books(full) as engine:
        count = min(100_000, full // 3)
        first, second = _moment_of(engine, count), _moment_of(engine, 2 * count)
        before = time.perf_counter()
        report = purge(engine, before=first)
        took = time.perf_counter() - before
        before = time.perf_counter()
        with engine.begin() as connection:
            connection.execute(tables.usage.delete().where(tables.usage.c.created_at < second))
        at_once = time.perf_counter() - before
    return Result(
        value=took,
        unit="s",
        baseline="one DELETE, which keeps nothing of them",
        baseline_value=at_once,
        goal="< 1 s for 100,000 rows of 10 M, no statement > 50 ms",
        met=took < 1 and report.slowest_s <= 0.05 and report.rows == count and full >= FULL,
        details={"rows": full, "deleted": report.rows, "batches": report.batches, "slowest_s": report.slowest_s},
    )


_MONTH = {"since": END - timedelta(days=30), "until": END}
_LONG_AGO = analytics.Cursor(END - timedelta(days=60), "x")


def _nothing(engine: Engine) -> None:
    """
    Ask for a 1: what a question costs here that reads nothing.
    """
    with engine.connect() as connection:
        connection.execute(select(1)).scalar_one()


# of the subject that has most, and of one that has little
_QUESTIONS: dict[str, Callable[[Engine], object]] = {
    "nothing": _nothing,
    "totals": lambda engine: analytics.totals(engine, **_MONTH),
    "model_by_day": lambda engine: analytics.usage_by(engine, "day", "model", **_MONTH),
    "account_by_model": lambda engine: analytics.usage_by(engine, "model", account="tenant:0", **_MONTH),
    "key_by_day": lambda engine: analytics.usage_by(engine, "day", key_id="k0", **_MONTH),
    "top_keys_of_a_day": lambda engine: analytics.top_keys(engine, since=END - timedelta(days=1), until=END),
    "top_keys_of_an_account": lambda engine: analytics.top_keys(engine, account="tenant:0", **_MONTH),
    "endpoints": lambda engine: analytics.endpoints(engine, **_MONTH),
    "last_minute": lambda engine: analytics.last_seconds(engine, now=END),
    "last_minute_of_a_key": lambda engine: analytics.last_seconds(engine, now=END, key_id="k0"),
    "log": analytics.log_page,
    "log_of_a_key": lambda engine: analytics.log_page(engine, key_id="k7"),
    "deep_in_the_log": lambda engine: analytics.log_page(engine, after=_LONG_AGO),
    "deep_in_the_log_of_an_account": lambda engine: analytics.log_page(engine, account="tenant:0", after=_LONG_AGO),
    "deep_in_the_log_of_a_small_key": lambda engine: analytics.log_page(engine, key_id="k999", after=_LONG_AGO),
    "month_to_date": lambda engine: analytics.month_to_date(engine, now=END, account="tenant:0"),
}


def _ask(engine: Engine, turns: int) -> dict[str, float]:
    """
    Ask every question in every turn, so that what the machine does besides falls on all of them.
    """
    times: dict[str, list[float]] = {name: [] for name in _QUESTIONS}
    for turn in range(turns + 1):
        for name, ask in _QUESTIONS.items():
            start = time.perf_counter()
            ask(engine)
            if turn:  # the first one warms up
                times[name].append((time.perf_counter() - start) * 1000)
    return {name: _p95(seen) for name, seen in times.items()}


def _p95(times: list[float]) -> float:
    return sorted(times)[min(len(times) - 1, len(times) * 95 // 100)]


def _baseline_ms(engine: Engine, turns: int) -> float:
    times = []
    for _ in range(turns):
        start = time.perf_counter()
        _from_rows(engine)
        times.append((time.perf_counter() - start) * 1000)
    return _p95(times)


def _from_rows(engine: Engine) -> None:
    usage = tables.usage.c
    wanted = (
        select(usage.response_model, func.sum(usage.cost_pico))
        .where(usage.created_at >= _MONTH["since"])
        .group_by(usage.response_model)
    )
    with engine.connect() as connection:
        connection.execute(wanted).all()


def _moment_of(engine: Engine, number: int) -> datetime:
    created = tables.usage.c.created_at
    with engine.connect() as connection:
        return connection.execute(select(created).order_by(created).offset(number).limit(1)).scalar_one()


def _rows(scale: Scale) -> int:
    given = os.environ.get(ROWS)
    return int(given) if given else FULL if scale.share >= 1 else QUICK


@contextmanager
def _books(rows: int) -> Iterator[Engine]:
    url = os.environ.get(POSTGRES)
    if not url:
        raise UnavailableError(f"needs PostgreSQL; set {POSTGRES}")
    with postgres(url) as engine:
        fill(engine, rows)
        yield engine
