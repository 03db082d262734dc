"""
One connection of an event loop to Redis: frames go out without waiting, replies come back in the same order.

redis-py's own pipelines wait for one batch before they send the next. Here nothing waits: every call of a loop's tick
leaves in one write, while replies to earlier ones are still on their way.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError, ResponseError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Sequence

    from tokenbudget_mw.backends.redis.topology import Inquiry
    from tokenbudget_mw.backends.redis.url import Credentials, Deployment, Place

__all__ = ["Wire", "ask", "connect", "frame", "greetings", "inquire", "keep_alive", "raise_first", "words_of"]

T = TypeVar("T")


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


def keep_alive(sock: Any) -> None:
    """
    Let the system ask for the other side of *sock* while nothing is said: balancers forget connections that are silent, and
    tell nobody.
    """
    options = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}  # seconds, seconds, times
    with suppress(OSError):  # some systems, and some sockets that look like one, have none of it
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in options.items():
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def greetings(words: Sequence[str], db: int = 0) -> list[bytes]:
    """
    Return what a new connection says at first: AUTH *words* where there are any, SELECT *db* where it is not the first.
    """
    said = [frame(b"AUTH", *[word.encode() for word in words])] if words else []
    if db:
        said.append(frame(b"SELECT", b"%d" % db))
    return said


async def words_of(credentials: Credentials) -> tuple[str, ...]:
    """
    Read *credentials*, in a thread where that may take its time.
    """
    return await asyncio.to_thread(credentials.read) if credentials.is_slow else credentials.read()


async def connect(place: Place, tls: ssl.SSLContext | None, hello: Sequence[bytes]) -> Wire:
    """
    Connect to *place*, and say *hello*.

    Raises:
        OSError: Nobody listens.

        RedisError: Redis refuses us.
    """
    loop = asyncio.get_running_loop()
    if place.port:
        transport, wire = await loop.create_connection(Wire, place.host, place.port, ssl=tls)
        keep_alive(transport.get_extra_info("socket"))
    else:
        _, wire = await loop.create_unix_connection(Wire, place.host)
    try:
        await ask(wire, *hello)
    except BaseException:
        wire.abort()
        raise
    return wire


async def ask(wire: Wire, *commands: bytes) -> list[Any]:
    """
    Send *commands* in one write, and wait until all are answered.

    Raises:
        RedisError: An answer is an error, or the connection was lost.
    """
    loop = asyncio.get_running_loop()
    answers = [loop.create_future() for _ in commands]
    wire.send(commands, [partial(_hear, answer) for answer in answers])
    replies = [await answer for answer in answers]
    raise_first(replies)
    return replies


def raise_first(replies: Iterable[Any]) -> None:
    """
    Raise the first of *replies* that is an error.
    """
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply


def _hear(answer: asyncio.Future[Any], reply: Any) -> None:
    if not answer.done():
        answer.set_result(reply)


async def inquire(inquiry: Inquiry[T], deployment: Deployment, seconds: float) -> T:
    """
    Return the first answer to *inquiry*, of which each place may take *seconds*.

    Raises:
        OSError: Nobody answered.

        RedisError: Nobody gave an answer.
    """
    fault: Exception = RedisConnectionError("There is nobody to ask.")
    for place in inquiry.places:
        try:
            async with asyncio.timeout(seconds):
                answer = inquiry.read(await _ask_place(place, inquiry, deployment), place)
        except (RedisError, OSError) as exc:
            fault = exc
            continue
        inquiry.places.prefer(place)
        return answer
    raise fault


async def _ask_place(place: Place, inquiry: Inquiry[Any], deployment: Deployment) -> Any:
    wire = await connect(place, deployment.tls, greetings(await words_of(inquiry.credentials)))
    try:
        (reply,) = await ask(wire, frame(*inquiry.command))
    finally:
        wire.abort()
    return reply
