"""
The engine: what URLs mean, and how each database is set up.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import make_url, select, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.engine import open_engine, reader
from tokenbudget_mw.errors import ConfigurationError, MissingExtraError

if TYPE_CHECKING:
    from sqlalchemy import Engine

ISOLATION = {"sqlite": "SERIALIZABLE", "postgresql": "READ COMMITTED", "mysql": "READ COMMITTED"}


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("sqlite:///x.db", "sqlite+pysqlite"),
        ("postgresql://localhost/x", "postgresql+psycopg"),
        ("postgres://localhost/x", "postgresql+psycopg"),
        ("mysql://localhost/x", "mysql+pymysql"),
        ("mariadb://localhost/x", "mariadb+pymysql"),
    ],
)
def test_a_plain_scheme_takes_our_driver(url: str, driver: str) -> None:
    """
    A URL without a driver gets the one that our extras install.
    """
    engine = open_engine(url)

    assert engine.url.drivername == driver


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("not a url", "cannot be read"),
        ("postgresql://u:s3cret@host:port/x", "cannot be read"),
        ("postgresql://u:p@s3cret@host/x", "written as %40"),
        ("sqlite://u:s3cret@host/x", "cannot be read"),
        ("sqlite://books.db", "cannot be read"),
        ("mysql://u:s3cret@host/x?ssl-mode=REQUIRED", "Unknown option in the database's URL: ssl-mode"),
        ("mysql://u:s3cret@host/x?charset=utf8", "holds every text, got 'utf8'. Leave it out."),
        ("postgresql://u:s3cret@host/x?client_encoding=latin1", "`client_encoding` in the database's URL is utf8"),
        ("postgresql://u:s3cret@host/x?pgbouncer=true", "Unknown option in the database's URL: pgbouncer."),
        ("oracle://u:s3cret@host/x", "Unknown database 'oracle'. Known: sqlite, postgresql, mysql, mariadb."),
        ("postgresql+asyncpg://u:s3cret@host/x", "Use 'postgresql+psycopg://'"),
        ("sqlite+aiosqlite:///x.db", "Use 'sqlite+pysqlite://'"),
        ("postgresql+nothing://u:s3cret@host/x", "Unknown database driver 'postgresql+nothing'"),
        ("postgresql+pg8000://u:s3cret@host/x", "'postgresql+pg8000' is not supported. Use 'postgresql+psycopg://'"),
        ("mariadb+mariadbconnector://u:s3cret@host/x", "Use 'mariadb+pymysql://'. Known for mariadb: pymysql, mysqldb"),
        ("sqlite+pysqlcipher:///x.db", "Use 'sqlite+pysqlite://'"),
        (
            "postgresql://u:s3cret@host/x?pool_size=0",
            "`pool_size` in the database's URL is a whole number from 1 on, got '0'",
        ),
        (
            "mysql://u:s3cret@host/x?max_overflow=many",
            "`max_overflow` in the database's URL is a whole number from 0 on",
        ),
        ("postgresql://u:s3cret@host/x?prepare_threshold=5", "`prepare_threshold` is not for the database's URL"),
        ("sqlite:///x.db?pool_size=5", "`pool_size` is for database servers"),
    ],
)
def test_a_bad_url_is_explained_without_its_password(url: str, says: str) -> None:
    """
    A URL that cannot be used says what to write instead, and the password is nowhere in the chain of errors.
    """
    with pytest.raises(ConfigurationError) as caught:
        open_engine(url)

    assert says in str(caught.value)
    error: BaseException | None = caught.value
    while error is not None:
        assert "s3cret" not in str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


@pytest.mark.parametrize(
    ("url", "module", "says"),
    [
        (
            "postgresql+psycopg://localhost/x",
            "psycopg",
            "postgresql+psycopg:// needs 'psycopg': pip install 'tokenbudget-mw[postgresql]'",
        ),
        ("mysql://localhost/x", "pymysql", "mysql+pymysql:// needs 'pymysql': pip install 'tokenbudget-mw[mysql]'"),
        (
            "postgresql+psycopg2://h/x",
            "psycopg2",
            "postgresql+psycopg2:// needs 'psycopg2': pip install psycopg2-binary",
        ),
        ("mysql+mysqldb://h/x", "MySQLdb", "mysql+mysqldb:// needs 'MySQLdb': pip install mysqlclient"),
        (
            "mysql+mysqlconnector://h/x",
            "mysql",
            "mysql+mysqlconnector:// needs 'mysql': pip install mysql-connector-python",
        ),
    ],
)
def test_a_missing_driver_names_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, url: str, module: str, says: str
) -> None:
    """
    Without the driver, the error is the pip command, which brings this driver and no other.
    """
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(MissingExtraError) as caught:
        open_engine(url)

    assert str(caught.value) == says


def test_the_url_sets_the_pool(postgres_database: str) -> None:
    """
    The pool's options are the engine's and no driver's; who finds all connections busy waits as long as the URL says.
    """
    joint = "&" if "?" in postgres_database else "?"
    engine = open_engine(f"{postgres_database}{joint}pool_size=1&max_overflow=0&pool_timeout=1&pool_recycle=60")

    with engine.connect() as only:
        assert only.scalar(text("SELECT 1")) == 1
        with pytest.raises(PoolTimeoutError, match=r"size 1 overflow 0 .* timeout 1\.00"):
            engine.connect()
    engine.dispose()


def test_errors_do_not_show_the_values_of_a_statement(sqlite_database: str) -> None:
    """
    What a row holds is not repeated in a database error.
    """
    engine = open_engine(sqlite_database)

    with engine.connect() as connection, pytest.raises(OperationalError) as caught:
        connection.execute(text("SELECT * FROM nowhere WHERE name = :name"), {"name": "canary"})

    engine.dispose()
    assert "canary" not in str(caught.value)


def test_sqlite_readers_wait_for_no_writer(sqlite_database: str) -> None:
    """
    In WAL mode a reader sees the last commit while a writer is at work.
    """
    engine = open_engine(sqlite_database)
    with engine.begin() as setup:
        setup.execute(text("CREATE TABLE t (x INTEGER)"))

    with engine.begin() as writer:
        writer.execute(text("INSERT INTO t VALUES (1)"))
        with reader(engine).connect() as connection:
            seen = connection.scalar(text("SELECT COUNT(*) FROM t"))

    engine.dispose()
    assert seen == 0


def test_sqlite_takes_the_write_lock_at_begin(sqlite_database: str) -> None:
    """
    A second writer fails at BEGIN, not in the middle of its transaction.
    """
    engine = open_engine(sqlite_database)

    with engine.connect() as first, engine.connect() as second:
        first.execute(text("SELECT 1"))
        second.connection.dbapi_connection.execute("PRAGMA busy_timeout = 0")
        with pytest.raises(OperationalError, match="locked"):
            second.execute(text("SELECT 1"))
        second.invalidate()

    engine.dispose()


def test_a_file_that_cannot_be_opened_leaves_nothing_to_be_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Where SQLite's file cannot be opened, the error says so, and nothing is printed behind it.
    """
    printed: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", printed.append)

    with pytest.raises(OperationalError, match="unable to open database file"):
        open_engine(f"sqlite:///{tmp_path}/nowhere/x.db").connect()
    gc.collect()

    assert printed == []


def test_memory_database_is_one_for_all_connections() -> None:
    """
    ``sqlite://`` keeps its tables from one connection to the next.
    """
    engine = open_engine("sqlite://")

    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (x INTEGER)"))
    with engine.connect() as connection:
        seen = connection.scalar(text("SELECT COUNT(*) FROM t"))

    engine.dispose()
    assert seen == 0


def test_servers_are_strict_and_read_committed(engine: Engine) -> None:
    """
    No database cuts a value that is too long, and none runs at an isolation level that fails under contention.
    """
    with engine.connect() as connection:
        assert connection.get_isolation_level() == ISOLATION[engine.dialect.name]
        if engine.dialect.name == "mysql":
            assert "STRICT_ALL_TABLES" in connection.scalar(text("SELECT @@sql_mode"))


def test_a_forked_child_leaves_the_parents_connections_alone(postgres_database: str) -> None:
    """
    After a fork the child opens a connection of its own, and the parent's still works.
    """
    engine = open_engine(postgres_database)
    backend = text("SELECT pg_backend_pid()")
    with engine.connect() as connection:
        before = connection.scalar(backend)

    child = os.fork()
    if child == 0:
        with engine.connect() as connection:
            os._exit(0 if connection.scalar(backend) != before else 1)
    _, status = os.waitpid(child, 0)
    with engine.connect() as connection:
        after = connection.scalar(backend)

    engine.dispose()
    assert os.waitstatus_to_exitcode(status) == 0
    assert after == before


def test_a_copy_that_can_only_be_read_is_read(tmp_path: Path) -> None:
    """
    A copy of the books on a read-only medium is not asked to change its journal, and answers.
    """
    import sqlite3

    with sqlite3.connect(tmp_path / "copy.db") as copy:
        copy.execute("CREATE TABLE a (b)")
    copy.close()
    engine = open_engine(f"sqlite:///file:{tmp_path}/copy.db?mode=ro&uri=true")

    with reader(engine).connect() as connection:
        rows = connection.exec_driver_sql("SELECT COUNT(*) FROM a").scalar_one()
    engine.dispose()

    assert rows == 0


def test_moments_are_read_whatever_the_servers_style_is(postgres_database: str) -> None:
    """
    Where dates are written the German way, in a zone of the host's own, a moment is the same moment, and SQL of ours sees UTC.
    """
    moment = datetime(2025, 10, 26, 1, 30, 0, 7, tzinfo=UTC)  # in the hour that Berlin has twice
    plain = open_engine(postgres_database)
    with plain.begin() as connection:
        name = connection.engine.url.database
        connection.exec_driver_sql(f"ALTER DATABASE {name} SET DateStyle = 'German'")
        connection.exec_driver_sql(f"ALTER DATABASE {name} SET TimeZone = 'Europe/Berlin'")
    plain.dispose()
    engine = open_engine(postgres_database)
    tables.metadata.create_all(engine, [tables.balances])

    with engine.begin() as connection:
        connection.execute(tables.balances.insert(), {"account": "a", "balance_pico": 1, "updated_at": moment})
    with engine.connect() as connection:
        found = connection.scalar(select(tables.balances.c.updated_at))
    engine.dispose()

    assert (found, found.tzinfo) == (moment, UTC)


def test_a_server_that_only_reads_is_looked_for_anew(postgres_database: str) -> None:
    """
    After a failover the pool holds connections to what is a replica now: the first refusal lets go of them.
    """
    engine, other = open_engine(postgres_database), open_engine(postgres_database)
    name, only_read = engine.url.database, "ALTER DATABASE {} SET default_transaction_read_only = {}"
    with other.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (x INTEGER)")
        connection.exec_driver_sql(only_read.format(name, "on"))
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1")
    with other.begin() as connection:
        connection.exec_driver_sql(only_read.format(name, "off"))

    with pytest.raises(DBAPIError, match="read-only"), engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO t VALUES (1)")
    with engine.begin() as connection:
        added = connection.exec_driver_sql("INSERT INTO t VALUES (1)").rowcount

    for each in (engine, other):
        each.dispose()
    assert added == 1


@pytest.mark.skipif(sys.platform != "linux", reason="the names of Linux's options")
@pytest.mark.parametrize(
    ("server", "said", "expected"),
    [
        ("postgres", {}, [1, 10, 5, 3, 25_000]),
        ("postgres", {"keepalives_idle": "60", "tcp_user_timeout": "5000"}, [1, 60, 5, 3, 5_000]),
        ("mysql", {}, [1, 10, 5, 3, 25_000]),
    ],
)
def test_a_server_that_is_gone_without_a_word_is_given_up(
    server: str, said: dict[str, str], expected: list[int], request: pytest.FixtureRequest
) -> None:
    """
    Whoever waits for a host that acknowledges nothing any more hears of it in half a minute, and not after hours; or when the
    URL says.
    """
    engine = open_engine(make_url(request.getfixturevalue(f"{server}_database")).update_query_dict(said))
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        number = driver.fileno() if server == "postgres" else driver._sock.fileno()
        with socket.socket(fileno=os.dup(number)) as way:
            if way.family == socket.AF_UNIX:
                pytest.skip("a server of this machine, whose connections have no such options")
            names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
            found = [way.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)]
            found += [way.getsockopt(socket.IPPROTO_TCP, name) for name in names]
    engine.dispose()

    assert found == expected
