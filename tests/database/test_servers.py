"""
Servers that are set up otherwise than those of the tests: nothing is lost, and the log says what to do.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from partition_rig import NOW
from sqlalchemy import Engine, event, make_url, select, text
from sqlalchemy.exc import DBAPIError

import tokenbudget_mw_alembic
from tokenbudget_mw.accounting.flusher import Flusher
from tokenbudget_mw.accounting.spool import MemorySpool
from tokenbudget_mw.cli import main
from tokenbudget_mw.database import books, repair, tables
from tokenbudget_mw.database.engine import open_engine, snapshot
from tokenbudget_mw.database.letters import LetterStore
from tokenbudget_mw.database.partitions.catalog import partitions
from tokenbudget_mw.database.partitions.conversion import convert
from tokenbudget_mw.database.writer import DatabaseSink

if TYPE_CHECKING:
    from tokenbudget_mw.values import UsageRecord

    MakeRecord = Callable[..., UsageRecord]


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


@contextmanager
def setting(engine: Engine, name: str, value: str) -> Iterator[Engine]:
    """
    Set *name* for every session of the database that begins from now on; give an engine with such sessions.
    """
    with engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {engine.url.database} SET {name} = {value}")
    changed = open_engine(engine.url)
    yield changed
    changed.dispose()


def test_a_failover_loses_nothing(
    postgres_engine: Engine, record: MakeRecord, caplog: pytest.LogCaptureFixture
) -> None:
    """
    While the server only reads, records wait, none is a dead letter, and it is said once; when it writes again, the same
    process writes them, each once.
    """
    spool = MemorySpool()
    with setting(postgres_engine, "default_transaction_read_only", "on") as engine:
        flusher = Flusher(spool, DatabaseSink(engine), threads=False, pause=lambda _: None)
        for number in range(3):
            spool.put(record(number + 1))
        assert not flusher.flush(0.2)
        with postgres_engine.begin() as connection:
            connection.exec_driver_sql(
                f"ALTER DATABASE {postgres_engine.url.database} SET default_transaction_read_only = off"
            )
        assert flusher.flush(5.0)

    stats = flusher.stats()
    assert (stats.flushed, stats.dead_letters, stats.retries > 0) == (3, 0, True)
    assert ["only reads at present" in line for line in told(caplog)] == [True]
    assert books.verify(postgres_engine).verified


def test_a_role_without_rights_is_told(
    postgres_engine: Engine, record: MakeRecord, caplog: pytest.LogCaptureFixture
) -> None:
    """
    A role that may not write keeps its records, the log says what to grant, and nothing of a password.
    """
    role = f"{postgres_engine.url.database}_role"
    with postgres_engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN PASSWORD 's3cret'")
    engine = open_engine(make_url(postgres_engine.url).set(username=role, password="s3cret"))
    sink = DatabaseSink(engine)
    try:
        for _ in range(2):
            with pytest.raises(DBAPIError, match="permission denied"):
                sink.write([record(1)])
        with postgres_engine.begin() as connection:
            connection.exec_driver_sql(f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {role}")
        added = sink.write([record(1)])
    finally:
        engine.dispose()
        with postgres_engine.begin() as connection:
            connection.exec_driver_sql(f"DROP OWNED BY {role}")
            connection.exec_driver_sql(f"DROP ROLE {role}")

    assert added == 1
    assert ["needs SELECT, INSERT" in line for line in told(caplog)] == [True]
    assert "s3cret" not in caplog.text


def with_encoding(url: str, encoding: str) -> Engine:
    """
    Make the empty database at *url* anew, with *encoding*.
    """
    name = make_url(url).database
    server = open_engine(make_url(url).set(database="postgres")).execution_options(isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name}")
        connection.exec_driver_sql(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
        )
    server.dispose()
    return open_engine(url)


def test_a_database_without_an_encoding_keeps_text(postgres_database: str, record: MakeRecord) -> None:
    """
    In a database of `SQL_ASCII`, which leaves bytes as they are, text of any kind is written and read as it is.
    """
    engine = with_encoding(postgres_database, "SQL_ASCII")
    tables.metadata.create_all(engine)

    DatabaseSink(engine).write([record(1, path="/été/\N{GRINNING FACE}", account="user:Zoë")])
    with engine.connect() as connection:
        found = connection.execute(select(tables.usage.c.path, tables.usage.c.account)).one()
    verified = books.verify(engine).verified
    engine.dispose()

    assert tuple(found) == ("/été/\N{GRINNING FACE}", "user:Zoë")
    assert verified


def test_doctor_tells_of_an_encoding_that_does_not_hold_every_text(
    postgres_database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    In a database of `LATIN1` some usage can never be stored, and doctor says so before it happens.
    """
    with_encoding(postgres_database, "LATIN1").dispose()

    main(["doctor", "--database", postgres_database])

    assert "its encoding is LATIN1" in capsys.readouterr().out


def test_partitions_are_made_where_backslashes_are_escapes(whole: Engine) -> None:
    """
    With `standard_conforming_strings` off, as old hosts have it, a conversion sees where the first partition ends.
    """
    with setting(whole, "standard_conforming_strings", "off") as engine:
        done = convert(engine, "day", now=NOW)
        with engine.connect() as connection:
            spans = [part.span for part in partitions(connection) if part.span is not None]

    assert spans[0].start == done.until


def test_a_batch_that_takes_too_long_goes_in_parts(
    postgres_engine: Engine, record: MakeRecord, caplog: pytest.LogCaptureFixture
) -> None:
    """
    Where the role's `statement_timeout` ends a batch, smaller ones get through; one row that does not is told, and waits.
    """
    with postgres_engine.begin() as connection:
        connection.execute(
            text(
                "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS "
                "$$BEGIN PERFORM pg_sleep(NEW.status / 1000.0); RETURN NEW; END$$"
            )
        )
        connection.exec_driver_sql(
            "CREATE TRIGGER slowly BEFORE INSERT ON tokenbudget_usage FOR EACH ROW EXECUTE FUNCTION slowly()"
        )
    with setting(postgres_engine, "statement_timeout", "'600ms'") as engine:
        sink = DatabaseSink(engine)

        added = sink.write([record(number + 1, status=200) for number in range(4)])
        with pytest.raises(DBAPIError, match="statement timeout"):
            sink.write([record(9, status=900)])

    assert added == 4
    assert ["statement_timeout" in line for line in told(caplog)] == [True]
    assert books.verify(postgres_engine).verified


IDLE = {
    "postgresql": ("SET idle_in_transaction_session_timeout = '100ms'", "SELECT pg_sleep(0.4)"),
    "mysql": ("SET SESSION wait_timeout = 1 /*M!100300 , idle_transaction_timeout = 1 */", "SELECT SLEEP(1.6)"),
}
"""How a session is told to end when it is idle, and what takes longer than that."""


FIXTURES = {"postgresql": "postgres_database", "mysql": "mysql_database"}


@pytest.fixture(params=["postgresql", "mysql"])
def impatient(request: pytest.FixtureRequest) -> Iterator[tuple[Engine, Callable[[], object]]]:
    """
    An engine whose server ends what is idle, and what waits for so long.
    """
    engine = open_engine(request.getfixturevalue(FIXTURES[request.param]))
    other = open_engine(engine.url)
    tables.metadata.create_all(other)
    ends, asleep = IDLE[request.param]

    @event.listens_for(engine, "connect")
    def hurry(connection: Any, _record: Any) -> None:
        connection.cursor().execute(ends)
        connection.commit()

    def wait() -> None:
        with other.connect() as connection:
            connection.exec_driver_sql(asleep)

    yield engine, wait
    engine.dispose()
    other.dispose()


def test_a_repair_stays_alone_on_a_server_that_ends_the_idle(impatient: tuple[Engine, Callable[[], object]]) -> None:
    """
    The connection that keeps other repairs out has nothing to do meanwhile, and is not ended for it.
    """
    engine, wait = impatient
    taken = {
        "postgresql": f"SELECT pg_try_advisory_xact_lock({repair._LOCK_NUMBER})::int",
        "mysql": f"SELECT GET_LOCK('{repair._LOCK_NAME}', 0)",
    }[engine.dialect.name]

    with repair._alone(engine):
        wait()
        with engine.connect() as another:
            assert another.exec_driver_sql(taken).scalar_one() == 0


def test_a_snapshot_lasts_on_a_server_that_ends_the_idle(impatient: tuple[Engine, Callable[[], object]]) -> None:
    """
    Whoever works on what it has read so far may take longer than a session may be idle.
    """
    engine, wait = impatient

    with snapshot(engine) as connection:
        connection.exec_driver_sql("SELECT COUNT(*) FROM tokenbudget_usage")
        wait()
        rows = connection.exec_driver_sql("SELECT COUNT(*) FROM tokenbudget_usage").scalar_one()

    assert rows == 0


def test_a_read_only_file_answers_doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    A copy of an SQLite file that can only be read is looked at as a whole, and who writes to it is told what it is.
    """
    whole = f"sqlite:///{tmp_path}/books.db"
    assert main(["migrate", "--database", whole]) == 0
    with closing(sqlite3.connect(tmp_path / "books.db")) as plain:
        plain.execute("PRAGMA journal_mode = DELETE")
    copy = f"sqlite:///file:{tmp_path}/books.db?mode=ro&uri=true"
    capsys.readouterr()

    assert main(["doctor", "--database", copy]) == 0
    assert "the schema is at" in capsys.readouterr().out
    assert main(["dead-letters", "list", "--database", copy]) == 0
    assert main(["tariffs", "add", "a/b", "--input", "1", "--output", "1", "--database", copy]) == 2
    assert "The database only reads at present" in capsys.readouterr().err


def test_looking_waits_for_no_writer(sqlite_engine: Engine) -> None:
    """
    While the host holds the write lock of an SQLite file, dead letters and the schema's version are read.
    """
    with sqlite_engine.begin() as writer:
        writer.exec_driver_sql("SELECT 1")

        assert LetterStore(sqlite_engine).find() == []
        assert tokenbudget_mw_alembic.current(sqlite_engine) is None
