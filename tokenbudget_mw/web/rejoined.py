"""
A WSGI request's body of which the head was read ahead.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Any

__all__ = ["Rejoined"]

PIECE = 65_536
"""Bytes that are asked for at once where all are wanted."""


class Rejoined:
    """
    A request body whose head was read ahead: the head again, then the rest.
    """

    def __init__(self, head: bytes, rest: Any) -> None:
        self._head = BytesIO(head)
        self._rest = rest

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
