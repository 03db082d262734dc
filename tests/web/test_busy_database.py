"""
T15: what a request has to do with the database: it reads a key that is not remembered, and writes nothing.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from keyed_app import aserve, serve, settings_of
from sqlalchemy import Engine, event, text

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.engine import open_engine, reader
from tokenbudget_mw.wiring import open_keys, wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tokenbudget_mw.core import Core

    Opened = Callable[[str], tuple[Core, list[str]]]

MOST_SECONDS = 2.0
"""For a request. It takes some milliseconds; who waits for SQLite's lock waits for ten seconds."""


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """
    Open an app on a database, with the texts of four keys.
    """
    cores: list[Core] = []

    def open_core(url: str) -> tuple[Core, list[str]]:
        engine = open_engine(url)
        tables.metadata.create_all(engine)
        cores.append(wire(settings_of(url, spool="kill_safe", spool_dir=str(tmp_path / "spool"))))
        store = open_keys(cores[-1].settings, engine)
        keys = [store.create(tenant=f"tenant-{number}").text for number in range(4)]
        engine.dispose()
        return cores[-1], keys

    yield open_core
    for core in cores:
        core.close()


@pytest.fixture
def statements() -> Iterator[list[tuple[str, str]]]:
    """
    The thread and the first word of each statement, on any engine.
    """
    seen: list[tuple[str, str]] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append((threading.current_thread().name, statement.split(None, 1)[0].upper()))

    event.listen(Engine, "before_cursor_execute", note)
    yield seen
    event.remove(Engine, "before_cursor_execute", note)


@pytest.mark.parametrize("ask", [serve, aserve])
def test_t15_no_request_writes_to_the_database(
    opened: Opened, database_url: str, statements: list[tuple[str, str]], ask: Callable[[Core, str], tuple[int, str]]
) -> None:
    """
    Keys are looked up once each; rows are written by the flusher's thread, and by no other.
    """
    core, keys = opened(database_url)
    statements.clear()
    answers = [ask(core, key) for key in keys * 3]
    assert core.flush()

    ours = [words for words in statements if words[0] == "tokenbudget-flusher"]
    others = {word for thread, word in statements if thread != "tokenbudget-flusher"}
    assert answers == [(200, "")] * 12
    assert {"INSERT", "WITH"} & {word for _, word in ours}
    assert others <= {"SELECT", "BEGIN", "SET", "SHOW"}


@pytest.mark.parametrize("ask", [serve, aserve])
def test_t15_a_busy_sqlite_blocks_no_request(
    opened: Opened, sqlite_database: str, ask: Callable[[Core, str], tuple[int, str]]
) -> None:
    """
    While somebody else holds the lock, keys that are remembered and keys that are not are served at once; rows come after.
    """
    core, keys = opened(sqlite_database)
    ask(core, keys[0])
    assert core.flush()
    busy = open_engine(sqlite_database)
    took = []
    with busy.begin() as holder:
        holder.execute(text("UPDATE tokenbudget_keys SET name = 'busy'"))
        for key in keys:
            begun = time.monotonic()
            assert ask(core, key) == (200, "")
            took.append(time.monotonic() - begun)
    assert core.flush()

    with reader(busy).connect() as connection:
        assert connection.scalar(text("SELECT COUNT(*) FROM tokenbudget_usage")) == 5
    assert max(took) < MOST_SECONDS
