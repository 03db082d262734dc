"""
Where usage records end: rows, ledger entries and balances of a batch in one transaction, each record at most once ever.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from tokenbudget_mw.database.faults import advice, is_permanent, is_timeout
from tokenbudget_mw.database.rows import moment
from tokenbudget_mw.database.writers import Write, find_writer
from tokenbudget_mw.errors import ConfigurationError, PermanentSinkError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tokenbudget_mw.values import UsageRecord

__all__ = ["DatabaseSink"]

log = logging.getLogger("tokenbudget_mw")


class DatabaseSink:
    """
    A sink in the host's database.

    Args:
        engine: From `open_engine`, or the host's own. Whoever opened it closes it.

        clock: Epoch seconds, for the moments of ledger entries.
    """

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._clock = clock
        self._prepare = find_writer(engine.dialect.name)
        self._told: str | None = None

    def write(self, records: Sequence[UsageRecord]) -> int:
        """
        Store *records* with their ledger entries, balances and rollups in one transaction; in several smaller ones where the
        database has no time for one.

        Records that are there already, by instance and sequence or by id, change nothing. Any error but
        `PermanentSinkError` may pass: the same records can be written again.

        Returns:
            How many were new.

        Raises:
            PermanentSinkError: Some record can never be stored. Nothing of this batch was, unless it went in parts.
        """
        if not records:
            return 0
        try:
            added = self._store(records)
        except (SQLAlchemyError, ConfigurationError) as exc:
            if is_timeout(exc) and len(records) > 1:  # of two halves, each takes less
                middle = len(records) // 2
                return self.write(records[:middle]) + self.write(records[middle:])
            self._tell(exc)
            raise
        self._told = None
        return added

    def close(self) -> None:
        """
        Do nothing: between writes the sink holds no connection, and the engine belongs to whoever opened it.
        """

    def _store(self, records: Sequence[UsageRecord]) -> int:
        write = Write(uuid.uuid4().hex, moment(int(self._clock() * 1_000_000)), records)
        try:
            store = self._prepare(write)
            with self._engine.begin() as connection:
                return store(connection)
        except (SQLAlchemyError, OverflowError, UnicodeError) as exc:
            if not is_permanent(exc):
                raise
            raise PermanentSinkError(
                f"The database refuses {len(records)} usage records: {type(exc).__name__}."
            ) from exc

    def _tell(self, exc: Exception) -> None:
        told = str(exc) if isinstance(exc, ConfigurationError) else advice(exc)
        if told not in (None, self._told):
            log.error("Usage records wait. %s", told)
            self._told = told
