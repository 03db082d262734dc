"""
A migration that needs a table for itself lets everybody pass until the table is free.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

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
