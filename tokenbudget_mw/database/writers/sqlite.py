"""
SQLite: one write lock for the whole transaction (``BEGIN IMMEDIATE``), executemany, sums in Python.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.dialects.sqlite import insert as upsert

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.rows import COLUMNS
from tokenbudget_mw.database.turns import in_turns
from tokenbudget_mw.database.types import Moment
from tokenbudget_mw.database.writers.entries import new_postings, post, stored_rows, without_purged

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection

    from tokenbudget_mw.database.rows import Row
    from tokenbudget_mw.database.writers import Store, Write

__all__ = ["prepare"]

_INSERT = (
    f"INSERT INTO {tables.usage.name} ({', '.join(COLUMNS)}) "  # noqa: S608 - names of our own tables
    f"VALUES ({', '.join('?' * len(COLUMNS))}) ON CONFLICT DO NOTHING"
)
_MOST_PARAMETERS = 500
_MOMENTS = tuple(index for index, column in enumerate(tables.usage.columns) if isinstance(column.type, Moment))


def prepare(write: Write) -> Store:
    """
    See `Prepare`. Nothing is computed under the lock but what a batch is that was there before, in part.
    """
    given = write.rows()
    plain = [_plain(row) for some in in_turns(given) for row in some]
    expected = new_postings(given, write)

    def store(connection: Connection) -> int:
        added = connection.exec_driver_sql(_INSERT, plain).rowcount
        stored = given if added == len(given) else stored_rows(connection, write, given)
        rows = without_purged(connection, write, stored)
        postings = expected if len(rows) == len(given) else new_postings(rows, write)
        post(connection, postings, partial(_take, write))
        return len(rows)

    return store


def _plain(row: Row) -> Row:
    values = list(row)
    for index in _MOMENTS:
        values[index] = _iso(values[index])
    return tuple(values)


def _iso(value: datetime | None) -> str | None:
    return None if value is None else value.replace(tzinfo=None).isoformat(" ", "microseconds")


def _take(write: Write, connection: Connection, totals: dict[str, int]) -> None:
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
