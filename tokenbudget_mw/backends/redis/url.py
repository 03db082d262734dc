"""
Which Redis a backend's URL means: one server, the master that sentinels know of, or a cluster; and how to be let in.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

from redis.asyncio.connection import SSLConnection as AsyncSSLConnection
from redis.connection import AbstractConnection, Connection, SSLConnection, parse_url
from redis.exceptions import RedisError

from tokenbudget_mw.errors import ConfigurationError

if TYPE_CHECKING:
    import ssl

__all__ = ["Credentials", "Deployment", "Place", "read_url"]

REDIS_PORT, SENTINEL_PORT = 6379, 26379

Kind = Literal["server", "sentinel", "cluster"]

_OURS = frozenset({"credentials", "password_file", "sentinel_password", "sentinel_username"})
_POOLS = frozenset({"max_connections", "timeout"})
_AUTHORITY = re.compile(r"[^/?#]*")


class Place(NamedTuple):
    """
    Where a server listens.

    Attributes:
        host: Name or address; the path of a Unix socket where *port* is 0.

        port: TCP port.
    """

    host: str
    port: int


class Credentials:
    """
    User and password, read anew for each connection: what is changed holds for the next one.

    Args:
        username: Empty for Redis's default user.

        password: Empty for none.

        password_file: File that holds the password instead.

        provider: Returns (username, password) instead of all of these.
    """

    def __init__(
        self,
        username: str = "",
        password: str = "",
        *,
        password_file: str = "",
        provider: Callable[[], tuple[str, str]] | None = None,
    ) -> None:
        self._username = username
        self._password = password
        self._file = password_file
        self._provider = provider

    @property
    def is_slow(self) -> bool:
        """
        Whether reading them may take its time.
        """
        return bool(self._file) or self._provider is not None

    def read(self) -> tuple[str, ...]:
        """
        Return the words after AUTH; none where nothing is to be said.

        Raises:
            OSError: They cannot be read.
        """
        username, password = self._username, self._password
        if self._provider is not None:
            username, password = self._ask_provider(self._provider)
        elif self._file:
            password = Path(self._file).read_text(encoding="utf-8").strip()
        if not password:
            return ()
        return (username, password) if username else (password,)

    @staticmethod
    def _ask_provider(provider: Callable[[], tuple[str, str]]) -> tuple[str, str]:
        # Foreign code, in the way of a request: whatever goes wrong in it, there is no connection.
        try:
            username, password = provider()
        except Exception as exc:
            raise PermissionError(f"The backend's credentials raised {type(exc).__name__}.") from exc
        return username, password


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Deployment:
    """
    A Redis, as the URL has it. It has no repr: it knows passwords.

    Attributes:
        kind: ``server``, ``sentinel`` or ``cluster``.

        places: The server; or sentinels, or nodes of the cluster, to ask at first.

        credentials: For servers.

        sentinel_credentials: For sentinels.

        service: What sentinels call the master.

        db: Number of the database.

        tls: How connections are encrypted; None for plain ones.
    """

    kind: Kind
    places: tuple[Place, ...]
    credentials: Credentials
    sentinel_credentials: Credentials
    service: str = ""
    db: int = 0
    tls: ssl.SSLContext | None = None


def read_url(url: str) -> Deployment:
    """
    Read ``redis://``, ``rediss://`` or ``unix://``, or ``redis+sentinel://`` or ``redis+cluster://`` (also with
    ``rediss``), which name several hosts with commas between.

    Raises:
        ConfigurationError: It makes no sense.

        ValueError: It cannot be read at all.
    """
    scheme, _, rest = url.partition("://")
    base, _, given = scheme.partition("+")
    kind: Kind = "sentinel" if given == "sentinel" else "cluster" if given == "cluster" else "server"
    found = _AUTHORITY.match(rest)
    authority, tail = (found.group(), rest[found.end() :]) if found else ("", rest)
    users, at, hosts = authority.rpartition("@")
    service = ""
    if kind == "sentinel":
        service, tail = _split_service(tail)
    options = parse_url(f"{base}://{users}{at}{hosts.split(',')[0]}{tail}")  # type: ignore[no-untyped-call]
    _refuse_unknown(options)
    if base == "unix":
        places = [Place(str(options.get("path", "")), 0)]
    else:
        port = SENTINEL_PORT if kind == "sentinel" else REDIS_PORT
        places = [_place(host, port, is_alone=kind == "server") for host in hosts.split(",")]
        _refuse_path(tail)
    db = int(options.get("db") or 0)
    if kind == "cluster" and db:
        raise ConfigurationError(f"A Redis cluster has one database, 0; the backend's URL asks for {db}.")
    return Deployment(
        kind, tuple(places), _credentials(options), _sentinel_credentials(options), service, db, _tls(options)
    )


def _refuse_path(tail: str) -> None:
    # redis-py passes over what is no number, and takes database 0
    path = tail.partition("?")[0].strip("/")
    if path and not path.isdecimal():
        raise ConfigurationError(f"The database in the backend's URL is a number such as 0, not {path!r}.")


def _split_service(tail: str) -> tuple[str, str]:
    path, mark, query = tail.partition("?")
    service, _, db = path.strip("/").partition("/")
    if not service:
        raise ConfigurationError(
            "A sentinel's URL names the service that it watches: redis+sentinel://host:26379,host:26379/mymaster/0."
        )
    return unquote(service), f"/{db}{mark}{query}"


def _place(host: str, port: int, *, is_alone: bool) -> Place:
    read = urlsplit(f"//{host}")
    if not read.hostname and not is_alone:
        raise ConfigurationError("A host is missing in the backend's URL: redis+cluster://host:6379,host:6379/.")
    return Place(unquote(read.hostname or "localhost"), read.port or port)


def _credentials(options: dict[str, Any]) -> Credentials:
    provider = options.get("credentials")
    return Credentials(
        options.get("username") or "",
        options.get("password") or "",
        password_file=options.get("password_file") or "",
        provider=_provider(provider) if provider else None,
    )


def _sentinel_credentials(options: dict[str, Any]) -> Credentials:
    return Credentials(options.get("sentinel_username") or "", options.get("sentinel_password") or "")


def _provider(path: str) -> Callable[[], tuple[str, str]]:
    module, _, name = path.replace(":", ".").rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as exc:
        message = f"The backend's `credentials` cannot be imported: {path!r} ({exc}). Give package.module.function."
        raise ConfigurationError(message) from exc
    if not callable(found):
        raise ConfigurationError(f"The backend's `credentials` {path!r} are not callable.")
    return found  # type: ignore[no-any-return]


def _refuse_unknown(options: dict[str, Any]) -> None:
    known = set(_OURS | _POOLS)
    for cls in (AbstractConnection, Connection, SSLConnection):
        known |= set(inspect.signature(cls.__init__).parameters)
    unknown = sorted(set(options) - known - {"connection_class", "path"})
    if unknown:
        raise ConfigurationError(f"Unknown option in the backend's URL: {', '.join(unknown)}.")


def _tls(options: dict[str, Any]) -> ssl.SSLContext | None:
    # redis-py knows how the URL's ssl_… options make a context. Made once: loading certificates takes its time.
    if not issubclass(options.get("connection_class", object), SSLConnection):
        return None
    chosen: dict[str, Any] = {"ssl_check_hostname": True} | {
        name: options[name] for name in options if name.startswith("ssl_")
    }
    try:
        return AsyncSSLConnection(**chosen).ssl_context.get()
    except (OSError, RedisError, TypeError) as exc:
        raise ConfigurationError(f"The ssl_… options of the backend's URL are of no use: {exc}.") from exc
