"""
Opens the host's database, set up so that books stay exact: real transactions, no silent truncation, safe after a fork.
"""

from __future__ import annotations

import functools
import os
import sqlite3
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import QueuePool

from tokenbudget_mw.database.drivers import DRIVERS, PROBES, SILENCE, check_driver, missing_driver, set_up_driver
from tokenbudget_mw.database.faults import is_read_only
from tokenbudget_mw.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine
    from sqlalchemy.engine import ExceptionContext

__all__ = ["open_engine", "reader", "snapshot", "stay_open"]

_READING = "tokenbudget_reading"

# the server's own default; a shorter one is for the idle. What stands in the comment is MariaDB's alone, which reads it
_MYSQL_STAYS = (
    "SET SESSION wait_timeout = 28800 "
    "/*M!100300 , idle_transaction_timeout = 28800, idle_readonly_transaction_timeout = 28800 */"
)
_STAYING = {
    "postgresql": "SET LOCAL idle_in_transaction_session_timeout = 0",
    "mysql": _MYSQL_STAYS,
    "mariadb": _MYSQL_STAYS,
}

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def open_engine(url: str | URL) -> Engine:
    """
    Open the database at *url*. Connects at the first use, not here.

    Args:
        url: SQLAlchemy URL of SQLite, PostgreSQL (psycopg 3, or psycopg2), MySQL or MariaDB (PyMySQL, mysqldb or
            mysqlconnector); the first of these drivers where none is named. That of a server may set its pool:
            ``?pool_size=2&max_overflow=3&pool_timeout=5&pool_recycle=1800`` are the usual values, connections and seconds.

    Raises:
        ConfigurationError: The URL cannot be read, or names a database that is not supported. Shows no password.

        MissingExtraError: The driver is not installed.
    """
    parsed = _parse(url)
    options = _OPTIONS[parsed.get_backend_name()](parsed)
    try:
        engine = create_engine(parsed.difference_update_query(_POOL), hide_parameters=True, **options)
    except ModuleNotFoundError as exc:
        raise missing_driver(parsed, exc) from exc
    if engine.dialect.name == "sqlite":
        _set_up_sqlite(engine)
    else:
        set_up_driver(engine)
        _leave_what_only_reads(engine)
    _engines.add(engine)
    _watch_forks()
    return engine


def reader(engine: Engine) -> Engine:
    """
    Return *engine* for transactions that only read: on SQLite they then wait for no writer. The pool is shared.
    """
    return engine.execution_options(**{_READING: True})


def snapshot(engine: Engine) -> Connection:
    """
    Open a connection that sees the database as it is now, for as long as it is open.
    """
    connection = reader(engine).connect()
    if engine.dialect.name != "sqlite":  # where a read transaction is a snapshot anyway
        connection = connection.execution_options(isolation_level="REPEATABLE READ")
    try:
        stay_open(connection)
        if engine.dialect.name == "postgresql":
            # a partition that is dropped is gone for older snapshots, too; the lock comes before the snapshot (LOCK, Notes)
            connection.exec_driver_sql("LOCK TABLE tokenbudget_usage IN ACCESS SHARE MODE")
    except BaseException:
        connection.close()
        raise
    return connection


def stay_open(connection: Connection) -> None:
    """
    Keep the server from ending the transaction of *connection* because nothing is asked of it for a while.
    """
    sql = _STAYING.get(connection.dialect.name)
    if sql is not None:
        connection.exec_driver_sql(sql)


# -- the URL ----------------------------------------------------------------------------------------------------------


_UNREADABLE = (
    "The database URL cannot be read. It looks like 'postgresql+psycopg://user@host/name' or 'sqlite:///file.db'; special "
    "characters in a password are written as %40."
)


def _parse(url: str | URL) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # the text may hold a password, and so may the parser's message
        raise ConfigurationError(_UNREADABLE) from None
    if "@" in (parsed.host or ""):
        raise ConfigurationError(_UNREADABLE)  # half a password stands there, and drivers tell the host in their errors
    backend = parsed.get_backend_name()
    if backend == "postgres":
        parsed, backend = parsed.set(drivername="postgresql"), "postgresql"
    if backend not in DRIVERS:
        raise ConfigurationError(f"Unknown database {backend!r}. Known: {', '.join(DRIVERS)}.")
    if "+" not in parsed.drivername:
        parsed = parsed.set(drivername=f"{backend}+{DRIVERS[backend][0]}")
    check_driver(parsed)
    return parsed


# -- options a database -----------------------------------------------------------------------------------------------


class _Connection(sqlite3.Connection):
    """
    A connection that closes itself when it is collected, and so without the warning of Python 3.13: a pool is left to the
    garbage collector by whoever drops an app without ending it, as test suites do.
    """

    def __del__(self) -> None:
        with suppress(sqlite3.ProgrammingError):  # of one that could not be opened
            self.close()


def _sqlite(url: URL) -> dict[str, Any]:
    unknown = sorted(_POOL.keys() & url.query.keys())
    if unknown:
        raise ConfigurationError(f"`{unknown[0]}` is for database servers; SQLite opens what it needs.")
    if url.host or url.username or url.password or url.port:
        raise ConfigurationError(_UNREADABLE)  # a slash is missing
    options: dict[str, Any] = {"connect_args": {"check_same_thread": False, "timeout": 10.0, "factory": _Connection}}
    if url.database in {None, "", ":memory:"}:
        # every connection would be a database of its own
        options |= {"poolclass": QueuePool, "pool_size": 1, "max_overflow": 0}
    return options


_POOL = {"pool_size": 2, "max_overflow": 3, "pool_timeout": 5, "pool_recycle": 1800}
_LEAST = {"max_overflow": 0}


def _pool(url: URL) -> dict[str, int]:
    asked: dict[str, int] = {}
    for name in _POOL.keys() & url.query.keys():
        value, least = url.query[name], _LEAST.get(name, 1)
        if not isinstance(value, str) or not value.isdecimal() or int(value) < least:
            raise ConfigurationError(
                f"`{name}` in the database's URL is a whole number from {least} on, got {value!r}."
            )
        asked[name] = int(value)
    return _POOL | asked


def _server(url: URL, **connect_args: Any) -> dict[str, Any]:
    return {
        **_pool(url),
        "pool_pre_ping": True,
        "isolation_level": "READ COMMITTED",
        "connect_args": {name: value for name, value in connect_args.items() if name not in url.query},
    }


def _postgresql(url: URL) -> dict[str, Any]:
    if "prepare_threshold" in url.query:  # as a text, which the driver would compare with numbers
        raise ConfigurationError("`prepare_threshold` is not for the database's URL: no statement of ours is prepared.")
    # server-side prepared statements break behind a pooler that switches connections between transactions
    prepare = {"prepare_threshold": None} if url.get_driver_name() == "psycopg" else {}
    probes = {f"keepalives_{name}": value for name, value in PROBES.items()}
    # the database's own encoding may be none by which a driver reads text (SQL_ASCII)
    text = {"client_encoding": "utf8"}
    return _server(url, connect_timeout=5, tcp_user_timeout=SILENCE * 1_000, **text, **prepare, **probes)


def _mysql(url: URL) -> dict[str, Any]:
    return _server(url, charset="utf8mb4", connect_timeout=5)


_OPTIONS = {"sqlite": _sqlite, "postgresql": _postgresql, "mysql": _mysql, "mariadb": _mysql}


def _set_up_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself
        cursor = connection.cursor()
        cursor.execute("PRAGMA busy_timeout = 10000")
        if cursor.execute("PRAGMA journal_mode").fetchone()[0] == "delete":
            with suppress(sqlite3.OperationalError):  # a copy that can only be read is read as it is
                cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # a deferred transaction that reads first cannot wait for the write lock: it fails at once
        reading = connection.get_execution_options().get(_READING, False)
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _leave_what_only_reads(engine: Engine) -> None:
    @event.listens_for(engine, "handle_error")
    def handle_error(context: ExceptionContext) -> None:
        # behind the same name there may be another server that writes: only a new connection finds it
        if is_read_only(context.sqlalchemy_exception):
            context.is_disconnect = True


# -- after a fork -----------------------------------------------------------------------------------------------------


@functools.cache
def _watch_forks() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget_connections)


def _forget_connections() -> None:
    """
    Leave the parent's sockets to the parent: two processes on one connection mix their answers up.
    """
    for engine in list(_engines):
        engine.dispose(close=False)
