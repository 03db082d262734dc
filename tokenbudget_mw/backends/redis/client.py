"""
One connection of a thread to Redis: never longer than a deadline, whatever Redis or the network does.

redis-py's own connections hang for a minute where its defaults are kept, and its ``socket_timeout`` bounds one read, not
a reply that drips in. So the socket is ours, and each of its operations knows when the call has to end.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any, TypeVar

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError, ResponseError

from tokenbudget_mw.backends.circuits import MomentaryError
from tokenbudget_mw.backends.redis.topology import code_of
from tokenbudget_mw.backends.redis.wire import frame, greetings, keep_alive, raise_first
from tokenbudget_mw.errors import BackendUnavailableError

if TYPE_CHECKING:
    import ssl

    from tokenbudget_mw.backends.redis.topology import Inquiry
    from tokenbudget_mw.backends.redis.url import Deployment, Place

__all__ = ["CONNECT_SECONDS", "INQUIRY_SECONDS", "BlockingWire", "connect", "inquire", "unavailable"]

CONNECT_SECONDS = 0.5
"""How long a connection may take to open, in seconds: nobody waits for it longer than its own call's deadline."""

INQUIRY_SECONDS = 0.25
"""How long one sentinel, or one node that is asked for the slots, may take, in seconds."""

LAST_LOOK = 0.001
"""A thread that was kept from running until its deadline had passed may still read what has arrived, in seconds."""

T = TypeVar("T")

_HINTS = {
    "MOVED": "This is a node of a cluster: use redis+cluster://.",
    "NOAUTH": "It wants a password.",
    "NOPERM": "The user's rights do not suffice; the documentation lists those that it needs.",
    "WRONGPASS": "User or password are wrong.",
    "OOM": "Its memory is full.",
    "READONLY": "It is a replica.",
}


class BlockingWire:
    """
    Sends frames and reads replies, until a moment.

    Args:
        sock: A connected socket.

    Attributes:
        home: Whose it is.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.home: object = None
        self._sock = sock
        self._reader = hiredis.Reader(protocolError=InvalidResponse, replyError=ResponseError)

    def ask(self, frames: bytes, count: int, ends: float) -> list[Any]:
        """
        Send *frames*, and read *count* replies; one that is an error is a `ResponseError` among them.

        A connection that has raised is of no use any more: what it says next may belong to this call.

        Args:
            frames: Commands.

            count: How many.

            ends: When the time is over, by `time.monotonic`.

        Raises:
            TimeoutError: The time is over.

            RedisError: The connection was lost, or speaks something else.
        """
        try:
            self._sock.settimeout(_left(ends))
            self._sock.sendall(frames)
            return [self._reply(ends) for _ in range(count)]
        except TimeoutError:
            raise
        except OSError as exc:
            raise RedisConnectionError("The connection was lost.") from exc

    def close(self) -> None:
        """
        Close the connection.
        """
        self._sock.close()

    def _reply(self, ends: float) -> Any:
        reply = self._reader.gets()
        is_late = False
        while reply is False:
            left = ends - time.monotonic()
            if left <= 0 and is_late:
                raise TimeoutError("The deadline has passed.")
            is_late = left <= 0
            self._sock.settimeout(LAST_LOOK if is_late else left)
            data = self._sock.recv(65_536)
            if not data:
                raise RedisConnectionError("Redis closed the connection.")
            self._reader.feed(data)
            reply = self._reader.gets()
        return reply


def _left(ends: float) -> float:
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError("The deadline has passed.")
    return left


def connect(place: Place, tls: ssl.SSLContext | None, hello: list[bytes], seconds: float) -> BlockingWire:
    """
    Connect to *place*, and say *hello*.

    Raises:
        OSError: Nobody listens, or not in time.

        RedisError: Redis refuses us.
    """
    ends = time.monotonic() + seconds
    sock = _open(place, ends)
    try:
        if tls is not None:
            sock.settimeout(_left(ends))
            sock = tls.wrap_socket(sock, server_hostname=place.host)
        wire = BlockingWire(sock)
        raise_first(wire.ask(b"".join(hello), len(hello), ends))
    except BaseException:
        sock.close()
        raise
    return wire


def _open(place: Place, ends: float) -> socket.socket:
    if place.port:
        sock = socket.create_connection(place, _left(ends))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keep_alive(sock)
        return sock
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(_left(ends))
    try:
        sock.connect(place.host)
    except OSError:
        sock.close()
        raise
    return sock


def inquire(inquiry: Inquiry[T], deployment: Deployment) -> T:
    """
    Return the first answer to *inquiry*.

    Raises:
        OSError: Nobody answered.

        RedisError: Nobody gave an answer.
    """
    fault: Exception = RedisConnectionError("There is nobody to ask.")
    for place in inquiry.places:
        try:
            wire = connect(place, deployment.tls, greetings(inquiry.credentials.read()), INQUIRY_SECONDS)
            try:
                replies = wire.ask(frame(*inquiry.command), 1, time.monotonic() + INQUIRY_SECONDS)
            finally:
                wire.close()
            raise_first(replies)
            answer = inquiry.read(replies[0], place)
        except (RedisError, OSError) as exc:
            fault = exc
            continue
        inquiry.places.prefer(place)
        return answer
    raise fault


def unavailable(exc: Exception, deadline: float) -> BackendUnavailableError:
    """
    Return our error for a driver's. Only its class and its code are named: a text may hold what a URL holds.
    """
    root = exc
    while isinstance(root.__cause__, RedisError | OSError):
        root = root.__cause__
    code = code_of(root)
    what = f"{type(root).__name__} {code}. {_HINTS.get(code, '')}" if code else f"{type(root).__name__}."
    text = f"Redis did not answer within {deadline * 1000:.0f} ms, or answered with an error: {what}".rstrip()
    return MomentaryError(text) if code == "TRYAGAIN" else BackendUnavailableError(text)
