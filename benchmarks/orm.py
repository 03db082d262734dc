"""
What a host would write by itself: usage rows through SQLAlchemy's ORM, and through its bulk insert.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import insert
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session, registry

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.fitting import new_rows
from tokenbudget_mw.database.rows import COLUMNS
from tokenbudget_mw.values import UsageRecord

__all__ = ["insert_bulk", "insert_orm"]


def insert_orm(engine: Engine, records: list[UsageRecord]) -> None:
    """
    Add a mapped object a record, and commit them together.
    """
    with Session(engine) as session:
        session.add_all([_mapped()(**row) for row in _rows(records)])
        session.commit()


def insert_bulk(engine: Engine, records: list[UsageRecord]) -> None:
    """
    Insert all of them by one `insert`, which SQLAlchemy sends by insertmanyvalues.
    """
    with engine.begin() as connection:
        connection.execute(insert(tables.usage), _rows(records))


def _rows(records: list[UsageRecord]) -> list[dict[str, Any]]:
    return [dict(zip(COLUMNS, row, strict=True)) for row in new_rows(records, "0" * 32)]


@cache
def _mapped() -> type[Any]:
    class Usage:
        pass

    registry().map_imperatively(Usage, tables.usage)
    return Usage
