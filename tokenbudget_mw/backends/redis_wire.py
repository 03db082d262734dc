"""
One connection of an event loop to Redis: frames go out without waiting, replies come back in the same order.

redis-py's own pipelines wait for one batch before they send the next. Here nothing waits: every call of a loop's tick
leaves in one write, while replies to earlier ones are still on their way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, cast

import hiredis
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ResponseError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["Wire", "ask", "connect", "frame"]


class Wire(asyncio.Protocol):
    """
    Writes frames, and hands each reply to whoever waits for it.

    Attributes:
        is_lost: Whether nothing can be sent any more.
    """

    def __init__(self) -> None:
        self.is_lost = False
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader(protocolError=InvalidResponse, replyError=ResponseError)
        self._waiting: deque[Callable[[Any], None]] = deque()
        self._closed = asyncio.get_running_loop().create_future()

    def __len__(self) -> int:
        """
        Return how many replies are on their way.
        """
        return len(self._waiting)

    def send(self, frames: Iterable[bytes], answers: Iterable[Callable[[Any], None]]) -> None:
        """
        Send *frames*; each of *answers* is called once, with the reply, a `ResponseError`, or why there is none.
        """
        self._waiting.extend(answers)
        if self._transport is not None:
            self._transport.write(b"".join(frames))

    def abort(self) -> None:
        """
        Drop the connection; whoever waits is told so.
        """
        if self._transport is not None:
            self._transport.abort()

    async def aclose(self) -> None:
        """
        Close the connection, and wait until it is closed.
        """
        if self._transport is not None:
            self._transport.close()
            await self._closed

    # -- asyncio.Protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """
        Begin.
        """
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """
        Hand over every reply that is complete.
        """
        try:
            self._reader.feed(data)
            reply = self._reader.gets()
            while reply is not False and self._waiting:
                self._waiting.popleft()(reply)
                reply = self._reader.gets()
        except InvalidResponse:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """
        Tell all who wait that no reply will come.
        """
        self.is_lost = True
        if not self._closed.done():
            self._closed.set_result(None)
        lost = RedisConnectionError("The connection was lost.")
        lost.__cause__ = exc
        while self._waiting:
            self._waiting.popleft()(lost)


def frame(*parts: bytes) -> bytes:
    r"""
    Return a command as it goes over the wire.

    >>> frame(b"GET", b"key")
    b'*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n'
    """
    packed: bytes = hiredis.pack_command(parts)  # type: ignore[arg-type]  # its stub knows tuples of one
    return packed


async def connect(options: Mapping[str, Any]) -> Wire:
    """
    Connect, authenticate and select the database.

    Args:
        options: As `redis_client.async_options` gives them.

    Raises:
        OSError: Nobody listens.

        RedisError: Redis refuses us.
    """
    loop = asyncio.get_running_loop()
    if issubclass(options.get("connection_class", object), UnixDomainSocketConnection):
        _, wire = await loop.create_unix_connection(Wire, options["path"])
    else:
        host, port = options.get("host", "localhost"), options.get("port", 6379)
        _, wire = await loop.create_connection(Wire, host, port, ssl=_tls(options))
    try:
        for greeting in _greetings(options):
            await ask(wire, greeting)
    except BaseException:
        wire.abort()
        raise
    return wire


def _greetings(options: Mapping[str, Any]) -> list[bytes]:
    greetings = []
    if options.get("password"):
        credentials = [options[name].encode() for name in ("username", "password") if options.get(name)]
        greetings.append(frame(b"AUTH", *credentials))
    if options.get("db"):
        greetings.append(frame(b"SELECT", str(options["db"]).encode()))
    return greetings


async def ask(wire: Wire, command: bytes) -> None:
    """
    Send *command*, and wait until it is answered.

    Raises:
        RedisError: The answer is an error, or the connection was lost.
    """
    answer = asyncio.get_running_loop().create_future()
    wire.send([command], [lambda reply: None if answer.done() else answer.set_result(reply)])
    reply = await answer
    if isinstance(reply, Exception):
        raise reply


def _tls(options: Mapping[str, Any]) -> Any:
    # redis-py knows how the URL's ssl_… options make a context.
    if not issubclass(options.get("connection_class", object), SSLConnection):
        return None
    return SSLConnection(**{name: options[name] for name in options if name.startswith("ssl_")}).ssl_context.get()
