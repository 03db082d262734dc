"""
Who stands on the books.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.engine import reader
from tokenbudget_mw.values import Subject

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

__all__ = ["holders"]

_SCOPES = ("key", "user", "team", "project", "tenant")


def holders(engine: Engine) -> Iterator[Subject]:
    """
    Yield every subject that has a usage row, with the plan that it had. Reads all of them.
    """
    usage = tables.usage.c
    columns = [usage[f"{scope}_id"].label(scope) for scope in _SCOPES]
    wanted = select(*columns, usage.plan, usage.purpose, usage.access_source.label("source")).distinct()
    with reader(engine).connect() as connection:
        for row in connection.execute(wanted.order_by(*columns)).mappings():
            yield Subject(**row)
