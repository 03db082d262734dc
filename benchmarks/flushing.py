"""
Flushing: Python's share of writing a record to the database, in batches of 1,000.

Ours writes the usage row, the ledger entry, the balance and three rollups; the baseline only the row, by SQLAlchemy's own bulk insert; beside it the ORM.
On SQLite the database works inside the process, so its time is part of both figures.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.engine import Engine, make_url

from benchmarks.accounting import make
from benchmarks.harness import Contender, Result, Scale, compare, microseconds
from benchmarks.orm import insert_bulk, insert_orm
from tokenbudget_mw.database import tables
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.fitting import new_rows
from tokenbudget_mw.database.writer import DatabaseSink
from tokenbudget_mw.values import UsageRecord

__all__ = ["BATCH", "POSTGRES", "flush_python", "postgres"]

BATCH = 1_000
POSTGRES = "TOKENBUDGET_TEST_POSTGRES_URL"


def flush_python(scale: Scale) -> Result:
    """
    CPU of this process a record, against insertmanyvalues.
    """
    with _database() as engine:
        tables.metadata.create_all(engine)
        batches = _Batches()
        sink = DatabaseSink(engine)
        seen = compare(
            {
                "ours": Contender(
                    lambda calls: [sink.write(batches.next()) for _ in range(calls // BATCH)], batches.fill
                ),
                "rows": Contender(
                    lambda calls: [_convert(batches.next()) for _ in range(calls // BATCH)], batches.fill
                ),
                "bulk": Contender(
                    lambda calls: [insert_bulk(engine, batches.next()) for _ in range(calls // BATCH)], batches.fill
                ),
                "orm": Contender(
                    lambda calls: [insert_orm(engine, batches.next()) for _ in range(calls // BATCH)], batches.fill
                ),
            },
            scale,
            calls=10 * BATCH,
            measure=_whole_batches,
        )
        name = engine.dialect.name
    return Result(
        value=seen["ours"],
        unit=f"us CPU ({name})",
        baseline=f"insertmanyvalues, usage rows only ({name})",
        baseline_value=seen["bulk"],
        goal="<= 6 us on PostgreSQL",
        met=name == "postgresql" and seen["ours"] <= 6,
        details={"database": name, "make_rows_us": seen["rows"], "orm_us": seen["orm"]},
    )


class _Batches:
    """
    Fresh records, made while nobody looks at the clock.
    """

    def __init__(self) -> None:
        self._numbers = count(1)
        self._instance = uuid.uuid4().hex
        self._ready: list[list[UsageRecord]] = []
        self.fill()

    def fill(self) -> None:
        while len(self._ready) < 10:
            self._ready.append([make(self._instance, next(self._numbers)) for _ in range(BATCH)])

    def next(self) -> list[UsageRecord]:
        return self._ready.pop()


def _whole_batches(contender: Contender, calls: int) -> float:
    # whatever the scale: a batch of ten rows says nothing of one of a thousand
    return microseconds(contender, max(1, calls // BATCH) * BATCH)


def _convert(records: list[UsageRecord]) -> None:
    new_rows(records, "0" * 32)


@contextmanager
def _database() -> Iterator[Engine]:
    url = os.environ.get(POSTGRES)
    if url:
        with postgres(url) as engine:
            yield engine
        return
    with tempfile.TemporaryDirectory() as folder:
        engine = open_engine(f"sqlite:///{Path(folder) / 'usage.db'}")
        yield engine
        engine.dispose()


@contextmanager
def postgres(url: str) -> Iterator[Engine]:
    """
    A database of its own on the server at *url*, dropped afterwards.
    """
    name = f"tokenbudget_benchmark_{uuid.uuid4().hex[:12]}"
    server = create_engine(make_url(url), isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine = open_engine(make_url(url).set(database=name))
    try:
        yield engine
    finally:
        engine.dispose()
        with server.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name}"))
        server.dispose()
