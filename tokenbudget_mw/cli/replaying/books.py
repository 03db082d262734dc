"""
The database of a replay: a temporary file, or one that is named.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import func, inspect, select

from tokenbudget_mw.database.engine import open_engine, reader
from tokenbudget_mw.database.tables import metadata, usage

if TYPE_CHECKING:
    from sqlalchemy import Engine

__all__ = ["open_books", "written"]


@contextmanager
def open_books(url: str | None) -> Iterator[Engine]:
    """
    Open the database at *url*, and make our tables where there are none; None makes a temporary SQLite file.
    """
    with tempfile.TemporaryDirectory(prefix="tokenbudget-") as folder:
        engine = open_engine(url or f"sqlite:///{Path(folder) / 'books.db'}")
        try:
            if url is None:
                metadata.create_all(engine)
            elif not inspect(engine).has_table(usage.name):
                from tokenbudget_mw_alembic import upgrade

                upgrade(engine)
            yield engine
        finally:
            engine.dispose()


def written(engine: Engine, instance_id: str) -> dict[str, int]:
    """
    Read back what the database holds of the process *instance_id*.
    """
    columns = {
        "rows": func.count(),
        "input_tokens": func.sum(usage.c.input_tokens),
        "output_tokens": func.sum(usage.c.output_tokens),
        "cost_pico": func.sum(usage.c.cost_pico),
    }
    with reader(engine).connect() as connection:
        found = connection.execute(select(*columns.values()).where(usage.c.instance_id == instance_id)).one()
    return {name: int(value or 0) for name, value in zip(columns, found, strict=True)}
