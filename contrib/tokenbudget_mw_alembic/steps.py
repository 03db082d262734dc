"""
Alembic's operations for our migrations, which can be begun again.

MySQL and MariaDB commit with every statement that changes the schema, so a migration that was killed leaves what it had made.
There, what is left is looked for and not made again; on the other databases a migration is done or not, as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

from tokenbudget_mw.database.backward import refuse_loss

__all__ = ["add_column", "create_index", "create_table", "keep_rows"]


def create_table(name: str, *items: sa.schema.SchemaItem, **options: Any) -> None:
    """
    Make a table, unless it is there with these columns. One with others is not ours: making it fails.
    """
    wanted = {item.name for item in items if isinstance(item, sa.Column)}
    if _columns(name) != wanted:
        op.create_table(name, *items, **options)


def create_index(name: str, table: str, columns: Sequence[str]) -> None:
    """
    Make an index, unless it is there.
    """
    if not _leaves_halves() or all(index["name"] != name for index in sa.inspect(op.get_bind()).get_indexes(table)):
        op.create_index(name, table, columns)


def add_column(table: str, column: sa.Column[Any]) -> None:
    """
    Add a column, unless it is there.
    """
    if column.name not in _columns(table):
        op.add_column(table, column)


def keep_rows(doomed: Mapping[str, str]) -> None:
    """
    Stop a way back that would delete *doomed*, see `refuse_loss`.
    """
    if not op.get_context().as_sql:
        refuse_loss(lambda sql: op.get_bind().exec_driver_sql(sql).all(), doomed)


def _leaves_halves() -> bool:
    context = op.get_context()
    return context.dialect.name in ("mysql", "mariadb") and not context.as_sql


def _columns(table: str) -> set[str]:
    """
    Return the columns of *table* that an earlier run may have left; none where it leaves nothing.
    """
    if not _leaves_halves():
        return set()
    inspector = sa.inspect(op.get_bind())
    return {column["name"] for column in inspector.get_columns(table)} if inspector.has_table(table) else set()
