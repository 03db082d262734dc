"""
A table of the first version with many rows, and those who go on writing while it is upgraded.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import event, text

from tokenbudget_mw.accounting.flusher import Flusher
from tokenbudget_mw.accounting.spool import MemorySpool
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.writer import DatabaseSink
from tokenbudget_mw.values import UsageRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

__all__ = ["FlusherOfNow", "WriterOfThen", "fill_first_version", "impatient"]

# what the first version demands of a row
_ROWS = text("""
    INSERT INTO tokenbudget_usage (
        id, instance_id, sequence, created_at, method, path, duration_us, is_stream, access_source, purpose, origin,
        input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cache_write_1h_tokens, reasoning_tokens,
        usage_source, cost_pico, price_kind, decision, settle_reason, tags, write_id, route, response_model
    )
    SELECT
        :instance || n, :instance, n, TIMESTAMPTZ '2026-01-01Z' + n % 2592000 * INTERVAL '1 second', 'POST', '/', n % 1000000,
        FALSE, 'x', 'x', 'x', 10, 5, 0, 0, 0, 0, 'x', 0, 'known', 'admitted', 'complete', '{}', 'w',
        '/v1/' || n % 4, 'model-' || n % 20
    FROM GENERATE_SERIES(CAST(:first AS bigint), CAST(:last AS bigint)) AS n
""")


def fill_first_version(engine: Engine, rows: int) -> None:
    """
    Write *rows* as the first version wrote them.
    """
    with engine.begin() as connection:
        connection.execute(_ROWS, {"instance": "old", "first": 1, "last": rows})
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE tokenbudget_usage")


def impatient(url: str, most_ms: int) -> Engine:
    """
    Open the database for who does not wait longer than *most_ms* for any lock: waiting longer is an error.
    """
    engine = open_engine(url)

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: object) -> None:
        connection.execute(f"SET lock_timeout = {most_ms}")
        connection.commit()

    return engine


class WriterOfThen:
    """
    A process of the first version, which is still running: it writes ten rows after ten rows.

    Attributes:
        rows: How many it has written.

        slowest_s: Seconds that its slowest transaction took.

        failures: What went wrong.
    """

    def __init__(self, engine: Engine) -> None:
        self.rows = 0
        self.slowest_s = 0.0
        self.failures: list[Exception] = []
        self._engine = engine
        self._over = threading.Event()

    @contextmanager
    def running(self) -> Iterator[WriterOfThen]:
        """
        Write until the end of the block.
        """
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join(60)

    def _run(self) -> None:
        while not self._over.wait(0.005):
            start = time.perf_counter()
            try:
                with self._engine.begin() as connection:
                    span = {"first": self.rows + 1, "last": self.rows + 10}
                    connection.execute(_ROWS, {"instance": "then", **span})
            except Exception as exc:
                self.failures.append(exc)
            else:
                self.rows += 10
                self.slowest_s = max(self.slowest_s, time.perf_counter() - start)


class FlusherOfNow:
    """
    A process of this version, started before its tables are there: its records wait, and are written when they are.

    Attributes:
        rows: How many it was given.

        failures: Locks that it waited for too long.
    """

    def __init__(self, engine: Engine) -> None:
        self.rows = 0
        self.failures: list[str] = []
        self._spool = MemorySpool(1_000_000)
        self._flusher = Flusher(self._spool, DatabaseSink(engine), retry_cap=0.5)
        self._over = threading.Event()
        event.listen(engine, "handle_error", self._note)

    def _note(self, context: Any) -> None:
        if getattr(context.original_exception, "sqlstate", "") in {"55P03", "40P01"}:
            self.failures.append(str(context.original_exception))

    @contextmanager
    def running(self) -> Iterator[FlusherOfNow]:
        """
        Record until the end of the block, then write all that is left.
        """
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join(60)
            assert self._flusher.flush(120)
            self._flusher.close()

    def _run(self) -> None:
        while not self._over.wait(0.002):
            self.rows += 1
            fields = {"account": "tenant:acme", "input_tokens": 10, "cost_pico": self.rows}
            record = UsageRecord(
                id=f"now{self.rows}",
                instance_id=self._spool.instance_id,
                sequence=self._spool.next_sequence(),
                created_at_us=1_767_225_600_000_000 + self.rows,
                method="POST",
                path="/",
                **fields,
            )
            self._spool.put(record)
