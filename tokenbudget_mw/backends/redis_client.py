"""
How we talk to Redis: never longer than a deadline, whatever Redis or the network does.

redis-py's own defaults hang for a minute; its ``socket_timeout`` bounds one read, not a reply that drips in. So the
options are ours, whatever the URL says, and threads read through a socket that knows the call's deadline.
"""

from __future__ import annotations

import inspect
import threading
import time
from typing import TYPE_CHECKING, Any

from redis import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import parse_url as async_parse_url
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection, parse_url
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from tokenbudget_mw.errors import BackendUnavailableError

if TYPE_CHECKING:
    import socket

__all__ = ["async_options", "deadline_options", "seconds_left", "start_deadline", "unavailable"]

_call = threading.local()

# Each name told to Redis costs a round trip of every new connection.
_NAMELESS: dict[str, None] = (
    {"driver_info": None}
    if "driver_info" in inspect.signature(AbstractConnection.__init__).parameters
    else {"lib_name": None, "lib_version": None}
)


def start_deadline(seconds: float) -> None:
    """
    Let what this thread does with Redis from now on take *seconds* at most.
    """
    _call.ends = time.monotonic() + seconds


def seconds_left() -> float:
    """
    Return what is left of this thread's deadline.

    Raises:
        TimeoutError: Nothing is left.
    """
    left: float = _call.ends - time.monotonic()
    if left <= 0:
        raise TimeoutError("The deadline has passed.")
    return left


class _DeadlineSocket:
    """
    A socket whose every operation ends at the thread's deadline.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def settimeout(self, _: float | None) -> None:
        """
        The deadline rules.
        """

    def recv(self, *args: Any) -> bytes:
        self._sock.settimeout(seconds_left())
        return self._sock.recv(*args)

    def recv_into(self, *args: Any) -> int:
        self._sock.settimeout(seconds_left())
        return self._sock.recv_into(*args)

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(seconds_left())
        self._sock.sendall(data)


class _DeadlineConnection(Connection):
    def _connect(self) -> Any:
        return _DeadlineSocket(super()._connect())  # type: ignore[no-untyped-call]


class _DeadlineSSLConnection(SSLConnection):
    def _connect(self) -> Any:
        return _DeadlineSocket(super()._connect())  # type: ignore[no-untyped-call]


class _DeadlineUnixConnection(UnixDomainSocketConnection):
    def _connect(self) -> Any:
        return _DeadlineSocket(super()._connect())  # type: ignore[no-untyped-call]


_DEADLINE_CLASSES: dict[type, type] = {
    Connection: _DeadlineConnection,
    SSLConnection: _DeadlineSSLConnection,
    UnixDomainSocketConnection: _DeadlineUnixConnection,
}


def deadline_options(url: str, deadline: float) -> dict[str, Any]:
    """
    Return the options of a pool for threads, whose connections keep to `start_deadline`.
    """
    options: dict[str, Any] = {**parse_url(url), **_ours(Retry)}  # type: ignore[no-untyped-call]
    options["socket_timeout"] = deadline
    options["socket_connect_timeout"] = deadline / 2
    options["connection_class"] = _DEADLINE_CLASSES[options.get("connection_class", Connection)]
    return options


def async_options(url: str) -> dict[str, Any]:
    """
    Return the options of a pool for an event loop, where a timeout of ours is around every call.
    """
    return {
        **async_parse_url(url),
        **_ours(AsyncRetry),
        "socket_timeout": None,
        "socket_connect_timeout": None,
    }


def _ours(retry: type[Retry | AsyncRetry]) -> dict[str, Any]:
    # These stand above the URL's: each of them can break the deadline.
    return {
        # A timeout leaves open whether the script ran, and a second try would come after the deadline anyway.
        "retry": retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        "retry_on_timeout": False,
        "retry_on_error": [],
        "health_check_interval": 0,
        "protocol": 2,
        "decode_responses": False,
        "max_connections": 1_000,  # ours to bound: a pool that is exhausted raises at once
        **_NAMELESS,
    }


def unavailable(exc: BaseException, deadline: float) -> BackendUnavailableError:
    """
    Return our error for a driver's. Only its class is named: a driver's text may hold what a URL holds.
    """
    return BackendUnavailableError(
        f"Redis did not answer within {deadline * 1000:.0f} ms, or answered with an error: {type(exc).__name__}."
    )
