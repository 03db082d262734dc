"""
A usage table of ten days in the tests of partitions, and what is asked about it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import text

from tokenbudget_mw.database.partitions.catalog import partitions
from tokenbudget_mw.database.partitions.spans import span_of

if TYPE_CHECKING:
    from sqlalchemy import Engine

__all__ = ["NOW", "START", "at", "count", "day", "names"]

START = datetime(2025, 1, 1, tzinfo=UTC)
NOW = START + timedelta(days=9, hours=12)


def at(day: float) -> dict[str, int]:
    return {"created_at_us": int((START + timedelta(days=day)).timestamp() * 10**6)}


def names(engine: Engine, *, attached: bool = True) -> list[str]:
    with engine.connect() as connection:
        return [part.name for part in partitions(connection) if part.is_attached == attached]


def count(engine: Engine, table: str = "tokenbudget_usage") -> int:
    with engine.connect() as connection:
        return int(connection.execute(text(f"SELECT COUNT(*) FROM {table}")).scalar_one())


def day(number: int) -> str:
    return span_of(START + timedelta(days=number), "day").name
