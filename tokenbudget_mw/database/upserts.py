"""
Adding to rows that may be there already, on every database.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import case, null
from sqlalchemy.dialects import mysql, postgresql, sqlite

from tokenbudget_mw.database.types import MAX_BIGINT

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Table

__all__ = ["Addition", "add_to"]


class Addition(NamedTuple):
    """
    What `add_to` adds.

    Attributes:
        table: With a unique constraint on *keys*.

        keys: Its columns.

        figures: Columns of whole numbers, none negative. A sum that the database cannot hold is an error.

        rows: Whole rows, in the order in which every writer locks.
    """

    table: Table
    keys: Sequence[str]
    figures: Sequence[str]
    rows: Sequence[dict[str, Any]]


def add_to(connection: Connection, addition: Addition) -> None:
    """
    Add rows to a table, inside a transaction: where a row with the same keys is there, add the figures to its own.
    """
    table, keys, figures, rows = addition
    if rows:
        connection.execute(_upsert(connection.dialect.name, table, keys, figures), rows)


def _upsert(dialect: str, table: Table, keys: Sequence[str], figures: Sequence[str]) -> Any:
    if dialect == "postgresql":
        into_postgresql = postgresql.insert(table)
        added = {name: table.c[name] + into_postgresql.excluded[name] for name in figures}
        return into_postgresql.on_conflict_do_update(index_elements=list(keys), set_=added)
    if dialect == "sqlite":
        into_sqlite = sqlite.insert(table)
        added = {name: _bounded(table.c[name], into_sqlite.excluded[name]) for name in figures}
        return into_sqlite.on_conflict_do_update(index_elements=list(keys), set_=added)
    into_mysql = mysql.insert(table)
    return into_mysql.on_duplicate_key_update({name: table.c[name] + into_mysql.inserted[name] for name in figures})


def _bounded(old: ColumnElement[Any], new: ColumnElement[Any]) -> ColumnElement[Any]:
    """
    Return the sum, or what NOT NULL refuses: beyond 64 bits, SQLite would turn it into a float.
    """
    return case((old > MAX_BIGINT - new, null()), else_=old + new)
