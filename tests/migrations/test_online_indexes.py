"""
Indexes on tables in use: made beside writers, mended where that was broken off, on partitions, too.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

import tokenbudget_mw_alembic
from tokenbudget_mw.cli import main
from tokenbudget_mw.database import tables
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.online_indexes import OnlineIndex, broken, create, mend, runner
from tokenbudget_mw.database.partitions.conversion import convert

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection, Engine

    Django = Callable[..., subprocess.CompletedProcess[str]]

NAME = "tokenbudget_usage_unpriced_ix"
INDEX = OnlineIndex("tokenbudget_usage_tenant_ix", "tokenbudget_usage", ("tenant_id", "created_at"), "tenant_id <> ''")


@pytest.fixture
def postgres(postgres_database: str) -> Iterator[Engine]:
    """
    Our tables on PostgreSQL.
    """
    engine = open_engine(postgres_database)
    tables.metadata.create_all(engine)
    yield engine
    engine.dispose()


def free(engine: Engine) -> Connection:
    return engine.connect().execution_options(isolation_level="AUTOCOMMIT")


def spoil(engine: Engine, name: str) -> None:
    """
    Leave the index as a CREATE INDEX CONCURRENTLY leaves it that was killed.
    """
    with engine.begin() as connection:
        sql = "UPDATE pg_index SET indisvalid = FALSE WHERE indexrelid = TO_REGCLASS(:name)"
        assert connection.execute(text(sql), {"name": name}).rowcount == 1


def is_valid(engine: Engine, name: str) -> bool | None:
    with engine.connect() as connection:
        sql = "SELECT indisvalid FROM pg_index WHERE indexrelid = TO_REGCLASS(:name)"
        found: bool | None = connection.execute(text(sql), {"name": name}).scalar()
        return found


@pytest.mark.parametrize("chain", ["alembic", "django"])
def test_a_migration_that_was_broken_off_is_run_again(
    postgres_database: str, django: Django, chain: str, request: pytest.FixtureRequest
) -> None:
    """
    An index that the last run has left invalid is made anew by the next one, in either chain.
    """
    engine = open_engine(postgres_database)
    if chain == "alembic":
        tokenbudget_mw_alembic.upgrade(engine, "0011")
    else:
        assert django("migrate", "tokenbudget_mw_django", "0011", "--verbosity=0").returncode == 0
    with engine.begin() as connection:
        connection.execute(text(f"CREATE INDEX {NAME} ON tokenbudget_usage (price_kind)"))
    spoil(engine, NAME)

    if chain == "alembic":
        tokenbudget_mw_alembic.upgrade(engine)
    else:
        done = django("migrate", "--verbosity=0")
        assert (done.returncode, done.stderr) == (0, "")

    with engine.connect() as connection:
        made = connection.execute(text(f"SELECT indexdef FROM pg_indexes WHERE indexname = '{NAME}'")).scalar_one()
    valid = is_valid(engine, NAME)
    engine.dispose()
    assert valid is True
    assert "(price_kind, created_at) WHERE" in made


@pytest.mark.parametrize("database", ["sqlite_database", "mysql_database"])
def test_an_index_whose_migration_was_broken_off_behind_it(database: str, request: pytest.FixtureRequest) -> None:
    """
    Where an index is made outside of a transaction, it may be there though the revision was not noted any more.
    """
    engine = open_engine(request.getfixturevalue(database))
    tokenbudget_mw_alembic.upgrade(engine, "0011")
    with engine.begin() as connection:
        connection.execute(text(f"CREATE INDEX {NAME} ON tokenbudget_usage (price_kind, created_at)"))

    tokenbudget_mw_alembic.upgrade(engine)

    found = tokenbudget_mw_alembic.current(engine)
    engine.dispose()
    assert found == tokenbudget_mw_alembic.head()


@pytest.fixture
def database_url(postgres_database: str) -> str:
    """
    Django's database here: the one on PostgreSQL.
    """
    return postgres_database


def test_a_transaction_keeps_it_waiting_and_nobody_else(postgres: Engine) -> None:
    """
    While somebody who writes has not ended, the index waits, and other writers pass.
    """
    import threading

    with postgres.begin() as slow, free(postgres) as connection:
        slow.execute(text("UPDATE tokenbudget_usage SET status = 200 WHERE id = 'y'"))
        thread = threading.Thread(target=create, args=(runner(connection), "postgresql", INDEX))
        thread.start()
        thread.join(0.3)
        waits = thread.is_alive()
        with postgres.begin() as writer:
            writer.execute(text("SET LOCAL lock_timeout = '1s'"))
            writer.execute(text("UPDATE tokenbudget_usage SET status = 200 WHERE id = 'x'"))
        slow.rollback()
        thread.join(30)

    assert waits
    assert is_valid(postgres, INDEX.name)


def test_an_index_that_is_there_is_left_alone(postgres: Engine) -> None:
    """
    Made twice, it is there once; the patience of the session is what it was.
    """
    with free(postgres) as connection:
        connection.execute(text("SET lock_timeout = '123ms'"))
        create(runner(connection), "postgresql", INDEX)
        create(runner(connection), "postgresql", INDEX)
        timeout = connection.execute(text("SHOW lock_timeout")).scalar_one()

    assert (is_valid(postgres, INDEX.name), timeout) == (True, "123ms")


def test_partitions_get_theirs_one_by_one(postgres: Engine) -> None:
    """
    Of a table of partitions each has its part, the whole is valid, and a run that was broken off is gone on with.
    """
    convert(postgres, "month", now=datetime(2026, 1, 15, tzinfo=UTC))
    with free(postgres) as connection:
        run = runner(connection)
        calls: list[str] = []

        def stops(sql: str) -> Any:
            calls.append(sql)
            if sum("CONCURRENTLY" in call for call in calls) == 2:
                raise KeyboardInterrupt
            return run(sql)

        with pytest.raises(KeyboardInterrupt):
            create(stops, "postgresql", INDEX)
        half = is_valid(postgres, INDEX.name)
        create(run, "postgresql", INDEX)

    assert (half, is_valid(postgres, INDEX.name)) == (False, True)


def test_doctor_tells_and_migrate_mends(
    postgres_database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    An invalid index is named with what to do; the command that is named makes it valid, and drops what a REINDEX has left.
    """
    engine = open_engine(postgres_database)
    tokenbudget_mw_alembic.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("CREATE INDEX tokenbudget_usage_key_ix_ccnew ON tokenbudget_usage (key_id)"))
    spoil(engine, "tokenbudget_usage_key_ix")
    spoil(engine, "tokenbudget_usage_key_ix_ccnew")

    main(["doctor", "--database", postgres_database])
    told = capsys.readouterr().out
    main(["migrate", "--database", postgres_database])
    capsys.readouterr()
    main(["doctor", "--database", postgres_database])
    told_after = capsys.readouterr().out

    after = is_valid(engine, "tokenbudget_usage_key_ix"), is_valid(engine, "tokenbudget_usage_key_ix_ccnew")
    with free(engine) as connection:
        left = broken(connection), mend(connection)
    engine.dispose()
    assert "index tokenbudget_usage_key_ix is invalid" in told
    assert "REINDEX INDEX CONCURRENTLY tokenbudget_usage_key_ix " in told
    assert "is invalid" not in told_after
    assert after == (True, None)
    assert left == ([], [])


@pytest.mark.parametrize("dialect", ["mysql", "mariadb", "sqlite"])
def test_other_databases_say_what_they_can(dialect: str) -> None:
    """
    Asked whether it is there, and without an answer, MySQL is told to keep nobody out, and SQLite takes the condition.
    """
    ran: list[str] = []

    create(lambda sql: ran.append(sql) or (), dialect, INDEX)  # type: ignore[func-returns-value]

    assert len(ran) == 2
    assert ("LOCK=NONE" in ran[1]) == (dialect != "sqlite")
    assert ("WHERE" in ran[1]) == (dialect == "sqlite")
