"""
One strategy a dialect: how a batch of usage rows, its ledger entries and the balances get into one transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from typing import TYPE_CHECKING

from tokenbudget_mw.database.fitting import new_rows
from tokenbudget_mw.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tokenbudget_mw.database.rows import Row
    from tokenbudget_mw.values import UsageRecord

__all__ = ["Prepare", "Store", "Write", "find_writer"]


@dataclass(frozen=True, slots=True)
class Write:
    """
    One transaction's rows.

    Attributes:
        id: New for every attempt; stored on each row, so the rows that carry it are those that this write added.

        at: When it happens.

        records: What to store.
    """

    id: str
    at: datetime
    records: Sequence[UsageRecord]

    def rows(self) -> list[Row]:
        """
        Return the records as rows, in the order of `rows.COLUMNS`, sorted by instance and sequence.

        Raises:
            PermanentSinkError: A value does not fit its column.
        """
        return new_rows(self.records, self.id)


Store = Callable[["Connection"], int]
"""Stores a write inside the caller's transaction, any number of times, and returns how many rows were new."""

Prepare = Callable[[Write], Store]
"""
Does all of a write that needs no transaction, so that nobody waits for it. Raises `PermanentSinkError` where a value does not
fit its column.
"""

_WRITERS = {"sqlite": "sqlite", "postgresql": "postgresql", "mysql": "mysql", "mariadb": "mysql"}


def find_writer(dialect: str) -> Prepare:
    """
    Return the strategy for *dialect*, a SQLAlchemy dialect name.
    """
    if dialect not in _WRITERS:
        raise ConfigurationError(f"No usage writer for the database {dialect!r}. Known: {', '.join(_WRITERS)}.")
    prepare: Prepare = import_module(f"{__name__}.{_WRITERS[dialect]}").prepare
    return prepare
