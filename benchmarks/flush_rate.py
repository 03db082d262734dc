"""
How many records a second are committed, with everything that belongs to them: rows, ledger, balances, rollups, latencies.

Wall time counts here, so the figure is that of a machine with nothing else to do; the baseline takes turns with ours.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median

import msgspec
from sqlalchemy import func, select
from sqlalchemy.engine import Engine
from sqlalchemy.exc import OperationalError

from benchmarks.accounting import make
from benchmarks.flushing import BATCH, POSTGRES, postgres
from benchmarks.harness import Result, Scale, UnavailableError
from benchmarks.orm import insert_orm
from tokenbudget_mw.calls.recording import new_id
from tokenbudget_mw.database import tables
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.writer import DatabaseSink
from tokenbudget_mw.values import UsageRecord

__all__ = ["flush_rate"]

PROCESSES = 4
START_US = 1_700_000_000_000_000
FLUSH_US = 250_000
"""Microseconds from one write of a flusher to the next."""


def flush_rate(scale: Scale) -> Result:
    """
    Records a second of one process on PostgreSQL, against the ORM; and of four processes on SQLite.
    """
    url = os.environ.get(POSTGRES)
    if not url:
        raise UnavailableError(f"needs PostgreSQL; set {POSTGRES}")
    batches = max(1, scale.calls(20_000) // BATCH)
    with postgres(url) as engine:
        tables.metadata.create_all(engine)
        sink, ours, orm = DatabaseSink(engine), [], []
        for _ in range(scale.rounds):
            ours.append(_rate(batches, sink.write))
            orm.append(_rate(1, lambda records: insert_orm(engine, records)))
    lite, locked, is_whole = _on_sqlite(batches)
    value = median(ours)
    return Result(
        value=value,
        unit="records/s (postgresql)",
        baseline="ORM, usage rows only, as large batches",
        baseline_value=median(orm),
        goal=">= 20,000; on SQLite with 4 processes >= 20,000 and no lock error",
        met=value >= 20_000 and lite >= 20_000 and not locked and is_whole,
        details={
            "sqlite_4_processes": lite,
            "sqlite_lost_no_record": 1 if is_whole else -1,
            "sqlite_unlocked": 1 - locked,
        },
    )


def _rate(batches: int, write: Callable[[list[UsageRecord]], object]) -> float:
    ready = [_records(turn) for turn in range(batches)]
    start = time.perf_counter()
    for records in ready:
        write(records)
    return batches * BATCH / (time.perf_counter() - start)


def _records(turn: int = 0) -> list[UsageRecord]:
    """
    Return a batch as a process leaves it that serves 4,000 requests a second: times and ids go on from *turn* to turn.
    """
    instance, begin = uuid.uuid4().hex, START_US + turn * FLUSH_US
    moments = range(begin, begin + FLUSH_US, FLUSH_US // BATCH)
    return [
        msgspec.structs.replace(make(instance, at), id=new_id(moment / 1e6), created_at_us=moment)
        for at, moment in enumerate(moments, 1)
    ]


# -- SQLite -----------------------------------------------------------------------------------------------------------


def _on_sqlite(batches: int) -> tuple[float, int, bool]:
    """
    Return records a second, lock errors, and whether all records are there.
    """
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'usage.db'}"
        engine = open_engine(url)
        tables.metadata.create_all(engine)
        context = multiprocessing.get_context("spawn")
        ready = context.Barrier(PROCESSES + 1)
        writers = [context.Process(target=_write, args=(url, batches, ready)) for _ in range(PROCESSES)]
        for writer in writers:
            writer.start()
        ready.wait(60)
        start = time.perf_counter()
        for writer in writers:
            writer.join()
        took = time.perf_counter() - start
        locked = sum(writer.exitcode or 0 for writer in writers)
        rows = _count(engine)
        engine.dispose()
    return PROCESSES * batches * BATCH / took, locked, rows == PROCESSES * (batches + 1) * BATCH


def _write(url: str, batches: int, ready: Barrier) -> None:
    """
    Write *batches* as soon as all are *ready*, and end with how often the database was locked.
    """
    engine, locked = open_engine(url), 0
    sink = DatabaseSink(engine)
    waiting = [_records(turn) for turn in range(1, batches + 1)]
    sink.write(_records())  # imports, connects
    ready.wait(60)
    for records in waiting:
        while True:
            try:
                sink.write(records)
            except OperationalError:
                locked += 1
            else:
                break
    engine.dispose()
    sys.exit(min(locked, 255))


def _count(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(tables.usage)).scalar_one()
