"""
MySQL and MariaDB: executemany, a range read for what was new, sums in Python, ordered upserts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import insert
from sqlalchemy.dialects.mysql import insert as upsert

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.rows import COLUMNS
from tokenbudget_mw.database.writers.entries import (
    add_to_rollups,
    debits,
    new_entries,
    stored_rows,
    without_purged,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tokenbudget_mw.database.writers import Write

__all__ = ["write_rows"]

# INSERT IGNORE would also swallow values that do not fit; this keeps them errors and lets a known event be
_INSERT = (
    f"INSERT INTO {tables.usage.name} ({', '.join(COLUMNS)}) "  # noqa: S608 - names of our own tables
    f"VALUES ({', '.join(['%s'] * len(COLUMNS))}) ON DUPLICATE KEY UPDATE id = {tables.usage.name}.id"
)


def write_rows(connection: Connection, write: Write) -> int:
    """
    Store *write* inside the caller's transaction and return how many rows were new.
    """
    given = write.rows()
    connection.exec_driver_sql(_INSERT, given)
    rows = without_purged(connection, write, stored_rows(connection, write, given))
    entries = new_entries(rows, write)
    if entries:
        connection.execute(insert(tables.ledger), entries)
        _take(connection, debits(entries), write)
    add_to_rollups(connection, rows)
    return len(rows)


def _take(connection: Connection, totals: dict[str, int], write: Write) -> None:
    statement = upsert(tables.balances)
    lowered = tables.balances.c.balance_pico + statement.inserted.balance_pico
    connection.execute(
        statement.on_duplicate_key_update(balance_pico=lowered, updated_at=statement.inserted.updated_at),
        [{"account": account, "balance_pico": -amount, "updated_at": write.at} for account, amount in totals.items()],
    )
