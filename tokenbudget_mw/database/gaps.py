"""
What of our tables a database does not have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import inspect

from tokenbudget_mw.database.tables import metadata

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

__all__ = ["gaps", "lost"]


def gaps(connection: Connection) -> list[str]:
    """
    Return the names of tables that are not there, and of columns (``table.column``) that are not in those which are.

    Tables are looked for where their names lead, which on PostgreSQL is the whole ``search_path``.
    """
    found = {
        name: {column["name"] for column in columns}
        for (_schema, name), columns in inspect(connection)
        .get_multi_columns(filter_names=list(metadata.tables))
        .items()
    }
    missing = []
    for name, table in sorted(metadata.tables.items()):
        if name not in found:
            missing.append(name)
        else:
            missing += [f"{name}.{column.name}" for column in table.columns if column.name not in found[name]]
    return missing


def lost(names: Sequence[str], version: str) -> str:
    """
    Say what to do where the tables or columns *names* are gone though every migration up to *version* has run.
    """
    verb = "is" if len(names) == 1 else "are"
    return (
        f"{', '.join(names)} {verb} not in the database, though it is at {version}: somebody has dropped what no migration makes "
        "again. Restore it from a backup; `tokenbudget-mw migrate --sql` prints how it is made empty."
    )
