"""
MySQL and MariaDB: executemany, a range read for what was new, sums in Python, ordered upserts.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy.dialects.mysql import insert as upsert

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.rows import COLUMNS
from tokenbudget_mw.database.writers.entries import new_postings, post, stored_rows, without_purged

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tokenbudget_mw.database.writers import Store, Write

__all__ = ["prepare"]

# INSERT IGNORE would also swallow values that do not fit; this keeps them errors and lets a known event be
_INSERT = (
    f"INSERT INTO {tables.usage.name} ({', '.join(COLUMNS)}) "  # noqa: S608 - names of our own tables
    f"VALUES ({', '.join(['%s'] * len(COLUMNS))}) ON DUPLICATE KEY UPDATE id = {tables.usage.name}.id"
)


def prepare(write: Write) -> Store:
    """
    See `Prepare`.
    """
    given = write.rows()
    expected = new_postings(given, write)

    def store(connection: Connection) -> int:
        connection.exec_driver_sql(_INSERT, given)
        rows = without_purged(connection, write, stored_rows(connection, write, given))
        postings = expected if len(rows) == len(given) else new_postings(rows, write)
        post(connection, postings, partial(_take, write))
        return len(rows)

    return store


def _take(write: Write, connection: Connection, totals: dict[str, int]) -> None:
    statement = upsert(tables.balances)
    lowered = tables.balances.c.balance_pico + statement.inserted.balance_pico
    connection.execute(
        statement.on_duplicate_key_update(balance_pico=lowered, updated_at=statement.inserted.updated_at),
        [{"account": account, "balance_pico": -amount, "updated_at": write.at} for account, amount in totals.items()],
    )
