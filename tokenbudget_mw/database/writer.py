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

from tokenbudget_mw.database.faults import is_missing_schema, is_permanent
from tokenbudget_mw.database.rows import moment
from tokenbudget_mw.database.writers import Write, find_writer
from tokenbudget_mw.errors import PermanentSinkError

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
        self._has_schema = True

    def write(self, records: Sequence[UsageRecord]) -> int:
        """
        Store *records* with their ledger entries, balances and rollups in one transaction.

        Records that are there already, by instance and sequence or by id, change nothing. Any error but
        `PermanentSinkError` may pass: the same records can be written again.

        Returns:
            How many were new.

        Raises:
            PermanentSinkError: Some record can never be stored. Nothing of this batch was.
        """
        if not records:
            return 0
        write = Write(uuid.uuid4().hex, moment(int(self._clock() * 1_000_000)), records)
        try:
            store = self._prepare(write)
            with self._engine.begin() as connection:
                added = store(connection)
        except (SQLAlchemyError, OverflowError, UnicodeError) as exc:
            if is_permanent(exc):
                raise PermanentSinkError(
                    f"The database refuses {len(records)} usage records: {type(exc).__name__}."
                ) from exc
            self._tell_missing_schema(exc)
            raise
        self._has_schema = True
        return added

    def close(self) -> None:
        """
        Do nothing: between writes the sink holds no connection, and the engine belongs to whoever opened it.
        """

    def _tell_missing_schema(self, exc: Exception) -> None:
        if self._has_schema and is_missing_schema(exc):
            self._has_schema = False
            log.error(
                "The usage tables are missing or older than this version; records wait until they are there. "
                "Run `tokenbudget-mw migrate` (Django: `manage.py migrate tokenbudget_mw_django`)."
            )
