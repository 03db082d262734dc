"""
Usage rows one after another, for other programs: oldest first, a page of an index's range at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, or_, select

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.engine import reader
from tokenbudget_mw.database.types import Pico

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Select

__all__ = ["COLUMNS", "OWNERS", "page", "rows_of"]

OWNERS = ("account", "key_id", "user_id", "team_id", "project_id", "tenant_id")
"""Columns by which rows may be chosen; the first two have an index of their own."""

COLUMNS = (*[column.name for column in tables.usage.columns if column.name != "write_id"], "corrected_pico")
"""What is told of a row: its columns, and what `rerating` has added to its cost since."""

PAGE = 1_000


def rows_of(engine: Engine, since: datetime, until: datetime, **owner: str) -> Iterator[dict[str, Any]]:
    """
    Yield the rows from *since* until just before *until*, the oldest first. No transaction is longer than a page.

    Rows of that time that are written meanwhile may or may not be among them.

    Args:
        engine: The host's database.

        since: First moment.

        until: First moment after.

        owner: Only rows with these values of `OWNERS`.
    """
    after: tuple[datetime, str] | None = None
    while True:
        with reader(engine).connect() as connection:
            rows = [dict(row) for row in connection.execute(page(since, until, owner, after)).mappings()]
            corrections = _corrections(connection, [row["id"] for row in rows])
        for row in rows:
            yield row | {"corrected_pico": corrections.get(row["id"], 0)}
        if len(rows) < PAGE:
            return
        after = rows[-1]["created_at"], rows[-1]["id"]


def page(
    since: datetime, until: datetime, owner: Mapping[str, str], after: tuple[datetime, str] | None = None
) -> Select[Any]:
    """
    Select the next `PAGE` rows, behind the one whose moment and id are *after*.
    """
    usage = tables.usage.c
    # the first condition is what an index can use
    wanted = select(*[usage[name] for name in COLUMNS[:-1]]).where(
        usage.created_at >= (since if after is None else after[0]),
        usage.created_at < until,
        *[usage[name] == value for name, value in owner.items()],
    )
    if after is not None:
        wanted = wanted.where(or_(usage.created_at > after[0], usage.id > after[1]))
    return wanted.order_by(usage.created_at, usage.id).limit(PAGE)


def _corrections(connection: Connection, ids: list[str]) -> dict[str, int]:
    corrections = tables.corrections.c
    change = func.sum(corrections.change_pico, type_=Pico)
    wanted = select(corrections.usage_id, change).where(corrections.usage_id.in_(ids)).group_by(corrections.usage_id)
    return {usage_id: int(changed) for usage_id, changed in connection.execute(wanted)}
