"""
An open database with our tables in it, on each dialect in turn, and records to write.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from partition_rig import NOW, at

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.partitions.conversion import convert
from tokenbudget_mw.database.writer import DatabaseSink
from tokenbudget_mw.values import UsageRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Engine

DEFAULTS = {
    "instance_id": "0123456789abcdef0123456789abcdef",
    "created_at_us": 1_760_000_000_123_457,
    "method": "POST",
    "path": "/v1/chat/completions",
    "account": "tenant:acme",
    "input_tokens": 10,
    "output_tokens": 5,
    "cost_pico": 1_000_000_007,
}


@pytest.fixture
def record() -> Callable[..., UsageRecord]:
    """
    Make a record: sequence, and any field.
    """

    def make(sequence: int, **fields: object) -> UsageRecord:
        values = {**DEFAULTS, "id": f"{fields.get('instance_id', '')}r{sequence}"[:36], **fields}
        return UsageRecord(sequence=sequence, **values)

    return make


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """
    An engine on an empty database with our tables.
    """
    engine = open_engine(database_url)
    tables.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def sqlite_engine(sqlite_database: str) -> Iterator[Engine]:
    """
    The same, on SQLite only.
    """
    engine = open_engine(sqlite_database)
    tables.metadata.create_all(engine)
    yield engine
    engine.dispose()


class Clock:
    """
    A clock that moves when it is told to.
    """

    def __init__(self) -> None:
        self.now = 1_760_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """
    A clock that stands still.
    """
    return Clock()


@pytest.fixture
def postgres_engine(postgres_database: str) -> Iterator[Engine]:
    """
    Our tables on PostgreSQL.
    """
    engine = open_engine(postgres_database)
    tables.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def whole(postgres_engine: Engine, record: Callable[..., UsageRecord]) -> Engine:
    """
    Ten days of a row each, in the table as it is at first.
    """
    DatabaseSink(postgres_engine).write([record(n, cost_pico=n, **at(n)) for n in range(10)])
    return postgres_engine


@pytest.fixture
def parted(whole: Engine, record: Callable[..., UsageRecord]) -> Engine:
    """
    The same converted to days, and a row of each of the days 10 to 19 after.
    """
    convert(whole, "day", now=NOW)
    DatabaseSink(whole).write([record(n, cost_pico=n, **at(n)) for n in range(10, 20)])
    return whole
