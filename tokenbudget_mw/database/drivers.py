"""
What is of a database's driver and not of the database: which ones are known, their options, and what each is told or asked.
"""

from __future__ import annotations

import inspect
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.exc import NoSuchModuleError

from tokenbudget_mw.errors import ConfigurationError, MissingExtraError

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.engine import URL, Dialect

__all__ = ["DRIVERS", "LIBPQ", "PROBES", "SILENCE", "check_driver", "missing_driver", "set_up_driver"]

_MYSQL = ("pymysql", "mysqldb", "mysqlconnector")

LIBPQ = ("psycopg", "psycopg2")
"""Drivers that hand their options to PostgreSQL's own library."""

DRIVERS = {"sqlite": ("pysqlite",), "postgresql": LIBPQ, "mysql": _MYSQL, "mariadb": _MYSQL}
"""By database; the first is the usual one. Others have other options, and errors by which ours are not told from passing ones."""

_EXTRAS = {"psycopg": "postgresql", "pymysql": "mysql"}
_PACKAGES = {"psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient", "mysql": "mysql-connector-python"}

SILENCE = 25
"""Seconds after which a server is given up whose host acknowledges nothing any more: it, or the way to it, is gone without a
word. Systems wait a quarter of an hour by themselves, or two hours where only an answer is waited for."""

PROBES = {"idle": 10, "interval": 5, "count": 3}
"""Seconds of silence before the first probe, and between probes; probes without an answer."""


def check_driver(url: URL) -> None:
    """
    Refuse a driver of which we do not know that the books are right with it.

    Args:
        url: Of a known database, with a driver.

    Raises:
        ConfigurationError: There is no such driver, or it is none of ours.
    """
    backend = url.get_backend_name()
    known = DRIVERS[backend]
    hint = f"Use '{backend}+{known[0]}://'."
    try:
        dialect = url.get_dialect()
    except NoSuchModuleError as exc:
        raise ConfigurationError(f"Unknown database driver {url.drivername!r}. {hint}") from exc
    if dialect.is_async:
        raise ConfigurationError(
            f"{url.drivername!r} is an asyncio driver; the books are written by a thread of their own. {hint}"
        )
    if dialect.driver not in known:
        raise ConfigurationError(
            f"The database driver {url.drivername!r} is not supported. {hint} Known for {backend}: {', '.join(known)}."
        )


def missing_driver(url: URL, exc: ModuleNotFoundError) -> MissingExtraError:
    """
    Return the error that says what to install for *url*.
    """
    name = (exc.name or "").partition(".")[0]
    extra = _EXTRAS.get(name)
    package = f"'tokenbudget-mw[{extra}]'" if extra else _PACKAGES.get(name, name)
    return MissingExtraError(f"{url.drivername}:// needs {name!r}: pip install {package}")


def set_up_driver(engine: Engine) -> None:
    """
    Check the options in the URL of *engine*, and have each connection to its server set up as the books need it.

    Raises:
        ConfigurationError: The driver does not know an option, or text would not be kept as it is.
    """
    if engine.dialect.name == "postgresql":
        _check_charset(engine.url, "client_encoding", "utf8")
    else:
        _check_charset(engine.url, "charset", "utf8mb4")
        _be_strict(engine)
    for act in _ACTS.get(engine.dialect.driver, ()):
        act(engine)
    _tell_own_errors(engine)


# -- options ----------------------------------------------------------------------------------------------------------


def _check_charset(url: URL, name: str, needed: str) -> None:
    # in MySQL's `utf8`, which is a part of it, a path with an emoji is a row that can never be stored
    charset = url.query.get(name, needed)
    if not isinstance(charset, str) or charset.lower().replace("-", "") != needed:
        raise ConfigurationError(
            f"`{name}` in the database's URL is {needed}, the only one that holds every text, got {charset!r}. Leave it out."
        )


def _check_pymysql(engine: Engine) -> None:
    _, options = engine.dialect.create_connect_args(engine.url)
    known = inspect.signature(engine.dialect.loaded_dbapi.connections.Connection.__init__).parameters
    unknown = sorted(options.keys() - known.keys())
    if unknown:
        raise ConfigurationError(
            f"Unknown option in the database's URL: {unknown[0]}. PyMySQL takes ssl_ca, charset and others."
        )


def _check_libpq(engine: Engine) -> None:
    dbapi: Any = engine.dialect.loaded_dbapi
    read = dbapi.conninfo.make_conninfo if engine.dialect.driver == "psycopg" else dbapi.extensions.make_dsn
    for name in sorted(engine.url.query):
        try:
            read(**{name: "1"})
        except dbapi.ProgrammingError:
            raise ConfigurationError(
                f"Unknown option in the database's URL: {name}. PostgreSQL's library takes sslmode, options and others."
            ) from None


# -- connections ------------------------------------------------------------------------------------------------------


def _be_strict(engine: Engine) -> None:
    """
    Make a value that does not fit an error, never cut, whatever the server and the URL's `init_command` say.
    """

    # before SQLAlchemy looks which quotes the server takes
    @event.listens_for(engine, "connect", insert=True)
    def connect(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("SET SESSION sql_mode = 'TRADITIONAL'")
        cursor.close()


def _probe_pymysql(engine: Engine) -> None:
    """
    Set for the driver, which lets nobody say it in the URL, what libpq is told by options.
    """
    names = {"TCP_KEEPIDLE": PROBES["idle"], "TCP_KEEPINTVL": PROBES["interval"], "TCP_KEEPCNT": PROBES["count"]}
    names["TCP_USER_TIMEOUT"] = SILENCE * 1_000
    options = {getattr(socket, name): value for name, value in names.items() if hasattr(socket, name)}

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: Any) -> None:
        way = getattr(connection, "_sock", None)
        if isinstance(way, socket.socket) and way.family in (socket.AF_INET, socket.AF_INET6):
            for option, value in options.items():
                way.setsockopt(socket.IPPROTO_TCP, option, value)


def _read_moments(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: Any) -> None:
        style = connection.info.parameter_status("DateStyle") or ""
        if not style.startswith("ISO"):  # psycopg reads no other; a pooler keeps this setting for its client
            connection.execute("SET DateStyle = 'ISO'")
            connection.commit()


def _tell_own_errors(engine: Engine) -> None:
    """
    Say in our words what drivers raise, instead of an error of a database, where they cannot even try to connect.
    """

    @event.listens_for(engine, "do_connect")
    def do_connect(dialect: Dialect, _record: Any, args: Any, options: Any) -> Any:
        try:
            return dialect.connect(*args, **options)
        except RuntimeError as exc:
            if "cryptography" not in str(exc):
                raise
            raise MissingExtraError(
                "PyMySQL needs 'cryptography' for how this server asks for the password (caching_sha2_password): "
                "pip install 'tokenbudget-mw[mysql]'"
            ) from exc
        except (AttributeError, TypeError) as exc:  # of an option whose name or value they do not know
            raise ConfigurationError(f"The driver {dialect.driver} cannot use the database's URL: {exc}.") from exc


_ACTS: dict[str, tuple[Callable[[Engine], None], ...]] = {
    "psycopg": (_check_libpq, _read_moments),
    "psycopg2": (_check_libpq,),
    "pymysql": (_check_pymysql, _probe_pymysql),
}
