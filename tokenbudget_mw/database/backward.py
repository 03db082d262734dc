"""
Migrations that go back: they stop before they delete what is nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tokenbudget_mw.errors import ConfigurationError

__all__ = ["refuse_loss"]


def refuse_loss(run: Callable[[str], Sequence[Any]], doomed: Mapping[str, str]) -> None:
    """
    Stop where a step back would delete rows, or values, that nothing can bring back.

    Args:
        run: Runs a statement and gives its rows.

        doomed: What it would delete: table -> the column of it that goes, or nothing where all of the table does.

    Raises:
        ConfigurationError: There is some. Nothing has been changed.
    """
    for table, column in doomed.items():
        where = f" WHERE {column} IS NOT NULL" if column else ""
        ((rows,),) = run(f"SELECT COUNT(*) FROM {table}{where}")  # noqa: S608 - names of our own
        if rows:
            way = f"UPDATE {table} SET {column} = NULL" if column else f"DELETE FROM {table}"  # noqa: S608 - likewise
            raise ConfigurationError(
                f"This step back would delete what is nowhere else: {f'{column} of ' if column else ''}{rows} rows of {table}. An older version runs on "
                f"newer tables, so there is no need to. If they may go all the same: {way}, and then again."
            )
