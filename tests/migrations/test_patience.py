"""
A migration that needs a table for itself lets everybody pass until the table is free.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import event, text

import tokenbudget_mw_alembic
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.partitions import patience
from tokenbudget_mw.database.partitions.patience import BusyTableError, again

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine


@pytest.fixture
def old(postgres_database: str) -> Iterator[Engine]:
    """
    A database before the migration that adds columns to the usage table.
    """
    engine = open_engine(postgres_database)
    tokenbudget_mw_alembic.upgrade(engine, "0008")
    yield engine
    engine.dispose()


def test_writers_pass_while_a_migration_waits_for_a_reader(old: Engine) -> None:
    """
    Somebody reads for long, the migration tries and steps back, writers are held up no longer than it waits, and then it runs.
    """
    thread = threading.Thread(target=tokenbudget_mw_alembic.upgrade, args=(old,))
    with old.connect() as reader:
        reader.execute(text("SELECT COUNT(*) FROM tokenbudget_usage"))
        thread.start()
        for _ in range(20):
            with old.begin() as writer:
                writer.execute(text("SET LOCAL lock_timeout = '500ms'"))
                writer.execute(text("UPDATE tokenbudget_usage SET status = 200 WHERE id = 'x'"))
            thread.join(0.02)
        waits = thread.is_alive(), tokenbudget_mw_alembic.current(old)
        reader.rollback()
    thread.join(60)

    assert waits[0] is True
    assert str(waits[1]) <= "0008"
    assert tokenbudget_mw_alembic.current(old) == tokenbudget_mw_alembic.head()


def test_a_migration_gives_up_at_last(old: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    If the reader never ends, the migration says so, and has changed nothing of what it could not finish.
    """
    monkeypatch.setattr(tokenbudget_mw_alembic.chain, "again", lambda do: again(do, patience=0.0))
    with old.connect() as reader:
        reader.execute(text("SELECT COUNT(*) FROM tokenbudget_usage"))

        with pytest.raises(BusyTableError, match="pg_stat_activity"):
            tokenbudget_mw_alembic.upgrade(old)

    with old.connect() as connection:
        timeout = connection.execute(text("SHOW lock_timeout")).scalar_one()
    assert tokenbudget_mw_alembic.current(old) == "0008"
    assert timeout == "0"
    assert patience.LOCK_MS < 50


def test_a_migration_leaves_nothing_in_sessions(old: Engine) -> None:
    """
    Behind a pooler a session is somebody else's in the next transaction, so each transaction has its patience for itself.
    """
    said: list[str] = []
    event.listen(old, "before_cursor_execute", lambda *given: said.append(given[2]))

    tokenbudget_mw_alembic.upgrade(old)

    assert "SET LOCAL lock_timeout = '40ms'" in said
    assert [text for text in said if text.startswith(("SET lock", "SET statement", "RESET", "SET SESSION"))] == []


def test_a_role_with_timeouts_migrates(old: Engine) -> None:
    """
    Filling a table and making an index may take longer than the role's statements may, and its waits.
    """
    with old.begin() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION slowly() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(0.3); END$$"
        )
        connection.exec_driver_sql(
            "CREATE EVENT TRIGGER slowly ON ddl_command_start WHEN TAG IN ('CREATE TABLE', 'CREATE INDEX') "
            "EXECUTE FUNCTION slowly()"
        )
        for name in ("statement_timeout", "lock_timeout"):
            connection.exec_driver_sql(f"ALTER DATABASE {connection.engine.url.database} SET {name} = '200ms'")
    engine = open_engine(old.url)

    tokenbudget_mw_alembic.upgrade(engine)
    with engine.connect() as connection:
        timeouts = [connection.exec_driver_sql(f"SHOW {name}_timeout").scalar_one() for name in ("statement", "lock")]

    engine.dispose()
    assert tokenbudget_mw_alembic.current(old) == tokenbudget_mw_alembic.head()
    assert timeouts == ["200ms", "200ms"]
