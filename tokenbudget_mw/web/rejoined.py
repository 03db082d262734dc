"""
A WSGI request's body of which the head is read ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any, NoReturn

from tokenbudget_mw.calls.bodies import length_of

__all__ = ["Broken", "Rejoined", "read_head", "watch_rest"]

PIECE = 65_536
"""Bytes that are asked for at once where all are wanted."""


def read_head(environ: dict[str, Any], most: int) -> tuple[bytes, bool]:
    """
    Read up to *most* bytes of the body in *environ*, and one more where its length is not told; leave it there as it was.

    Returns:
        The head, and whether it is all of the body. One that breaks off is none: who reads it then gets the server's error.
    """
    source = environ["wsgi.input"]
    length = length_of(environ.get("CONTENT_LENGTH"))
    if length is None and not environ.get("wsgi.input_terminated"):
        return b"", True
    wanted = most + 1 if length is None else min(length, most)
    try:
        head = source.read(wanted) if wanted else b""
    except OSError as error:
        environ["wsgi.input"] = Broken(error)
        return b"", False
    is_whole = (len(head) if length is None else length) <= most
    environ["wsgi.input"] = BytesIO(head) if is_whole else Rejoined(head, source)
    return head, is_whole


def watch_rest(body: object, watch: Callable[[bytes], object]) -> None:
    """
    Have *watch* called with each piece that the app reads of *body*, behind the head that was read ahead.
    """
    if isinstance(body, Rejoined):
        body.watch(watch)


class Broken:
    """
    A request body that could not be read, for the client went away in the middle of it: reading it raises the server's *error*.
    """

    def __init__(self, error: OSError) -> None:
        self._error = error

    def read(self, size: int | None = -1) -> NoReturn:
        """
        Raise the error.
        """
        del size
        raise self._error

    readline = readlines = read

    def __iter__(self) -> Iterator[bytes]:
        raise self._error

    def close(self) -> None:
        """
        Do nothing: the body is the server's. Django closes what it could not read.
        """


class Rejoined:
    """
    A request body whose head was read ahead: the head again, then the rest.
    """

    def __init__(self, head: bytes, rest: Any) -> None:
        self._head = BytesIO(head)
        self._rest = rest

    def watch(self, watch: Callable[[bytes], object]) -> None:
        """
        Have *watch* called with each piece that is read behind the head.
        """
        self._rest = _Watched(self._rest, watch)

    def read(self, size: int | None = -1) -> bytes:
        """
        Read up to *size* bytes, all of them by default.
        """
        head = self._head.read(size)
        if size is None or size < 0:
            # in pieces: granian 2.8 forgets what it holds when all is asked for behind a part
            return b"".join((head, *iter(lambda: bytes(self._rest.read(PIECE)), b"")))
        return head if len(head) == size else head + bytes(self._rest.read(size - len(head)))

    def readline(self, size: int | None = -1) -> bytes:
        """
        Read one line, of up to *size* bytes.
        """
        size = -1 if size is None else size
        head = self._head.readline(size)
        if head.endswith(b"\n") or (size >= 0 and len(head) == size):
            return head
        return head + bytes(self._rest.readline(size - len(head) if size >= 0 else -1))

    def readlines(self, hint: int = -1) -> list[bytes]:
        """
        Read all lines.
        """
        del hint
        return list(self)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")

    def close(self) -> None:
        """
        Do nothing: the body is the server's. Django closes what it has read.
        """


class _Watched:
    """
    A request body of which another gets all that is read.
    """

    def __init__(self, body: Any, watch: Callable[[bytes], object]) -> None:
        self._body = body
        self._watch = watch

    def read(self, size: int) -> bytes:
        return self._seen(self._body.read(size))

    def readline(self, size: int) -> bytes:
        return self._seen(self._body.readline(size))

    def _seen(self, piece: bytes) -> bytes:
        self._watch(bytes(piece))
        return piece
