"""
Streams of JSON, a value a line (NDJSON, JSON Lines).
"""

from __future__ import annotations

from typing import ClassVar

from tokenbudget_mw.tapping.sse import MAX_EVENT
from tokenbudget_mw.tapping.text import TAIL

__all__ = ["LineReader"]


class LineReader:
    """
    Cuts a stream into its lines, empty ones left out. Of a line that is too long, the end is kept.
    """

    __slots__ = ("_limit", "_rest")
    boundary: ClassVar[bytes] = b"\n"

    def __init__(self, *, max_event: int = MAX_EVENT) -> None:
        self._limit = max_event
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """
        Return the lines that *data* completes.
        """
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > self._limit:
            self._rest = self._rest[-min(TAIL, self._limit) :]
        return [line for line in lines if line and not line.isspace()]

    def close(self) -> list[bytes]:
        """
        Return a last line that nothing ended.
        """
        rest, self._rest = self._rest, b""
        return [rest] if rest.strip() else []

    def data(self, event: bytes) -> bytes:
        """
        Return the line.
        """
        return event
