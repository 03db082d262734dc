"""
SQLite: one write lock for the whole transaction (``BEGIN IMMEDIATE``), executemany, sums in Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select
from sqlalchemy.dialects.sqlite import insert as upsert

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.rows import COLUMNS
from tokenbudget_mw.database.types import Moment
from tokenbudget_mw.database.writers.entries import (
    add_to_rollups,
    debits,
    new_entries,
    stored_rows,
    without_purged,
)

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection

    from tokenbudget_mw.database.rows import Row
    from tokenbudget_mw.database.writers import Write

__all__ = ["write_rows"]

_INSERT = (
    f"INSERT INTO {tables.usage.name} ({', '.join(COLUMNS)}) "  # noqa: S608 - names of our own tables
    f"VALUES ({', '.join('?' * len(COLUMNS))}) ON CONFLICT DO NOTHING"
)
_MOST_PARAMETERS = 500
_MOMENTS = tuple(index for index, column in enumerate(tables.usage.columns) if isinstance(column.type, Moment))


def write_rows(connection: Connection, write: Write) -> int:
    """
    Store *write* inside the caller's transaction and return how many rows were new.
    """
    given = write.rows()
    added = connection.exec_driver_sql(_INSERT, [_plain(row) for row in given]).rowcount
    stored = given if added == len(given) else stored_rows(connection, write, given)
    rows = without_purged(connection, write, stored)
    entries = new_entries(rows, write)
    if entries:
        connection.execute(insert(tables.ledger), entries)
        _take(connection, debits(entries), write)
    add_to_rollups(connection, rows)
    return len(rows)


def _plain(row: Row) -> Row:
    values = list(row)
    for index in _MOMENTS:
        values[index] = _iso(values[index])
    return tuple(values)


def _iso(value: datetime | None) -> str | None:
    return None if value is None else value.replace(tzinfo=None).isoformat(" ", "microseconds")


def _take(connection: Connection, totals: dict[str, int], write: Write) -> None:
    """
    Lower the balances in Python: SQLite turns an integer sum that overflows into a float without a word.
    """
    known = _balances(connection, list(totals))
    changed: list[dict[str, Any]] = [
        {"account": name, "balance_pico": known.get(name, 0) - amount, "updated_at": write.at}
        for name, amount in totals.items()
    ]
    statement = upsert(tables.balances)
    kept = {"balance_pico": statement.excluded.balance_pico, "updated_at": statement.excluded.updated_at}
    connection.execute(statement.on_conflict_do_update(index_elements=["account"], set_=kept), changed)


def _balances(connection: Connection, names: list[str]) -> dict[str, int]:
    account, balance = tables.balances.c.account, tables.balances.c.balance_pico
    known: dict[str, int] = {}
    for start in range(0, len(names), _MOST_PARAMETERS):
        some = names[start : start + _MOST_PARAMETERS]
        known.update((row[0], row[1]) for row in connection.execute(select(account, balance).where(account.in_(some))))
    return known
