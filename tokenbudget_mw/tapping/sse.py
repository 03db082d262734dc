"""
Server-sent events, read piecewise (WHATWG HTML, 9.2.6 "Interpreting an event stream").
"""

from __future__ import annotations

from typing import ClassVar

from tokenbudget_mw.tapping.text import TAIL

__all__ = ["MAX_EVENT", "EventReader", "data_of"]

MAX_EVENT = 1 << 20
"""Longest event that is read, in bytes; of a longer one only the end is."""

_BOM = b"\xef\xbb\xbf"


class EventReader:
    """
    Cuts a stream into its events, however the stream itself was cut.

    Knows LF, CRLF and CR, several ``data`` lines an event, comments, other fields (ignored) and a byte order mark.

    Attributes:
        skipped: Events that were longer than the bound, and of which only the end was kept.
    """

    __slots__ = ("_fresh", "_limit", "_rest", "_skipping", "skipped")
    boundary: ClassVar[bytes] = b"\n\n"

    def __init__(self, *, max_event: int = MAX_EVENT) -> None:
        self.skipped = 0
        self._limit = max_event
        self._rest = b""
        self._fresh = True
        self._skipping = False

    def feed(self, data: bytes) -> list[bytes]:
        """
        Return the events that *data* completes; `data_of` reads one.
        """
        data = self._without_bom(self._rest + data)
        held = b"\r" if data.endswith(b"\r") else b""  # may be the first half of a CRLF
        if b"\r" in data:
            data = data.removesuffix(held).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        blocks = data.split(b"\n\n")
        self._rest = blocks.pop() + held
        if self._skipping and blocks:
            blocks[0] = b"data: " + blocks[0]
            self._skipping = False
        if len(self._rest) > self._limit:
            self._skip()
        return blocks

    def close(self) -> list[bytes]:
        """
        Return a last event that no blank line ended: many servers leave it out, and a cut stream has none.
        """
        block = b"" if self._skipping else self._rest.replace(b"\r", b"\n").strip(b"\n")
        self._rest = b""
        return [block] if block else []

    def data(self, event: bytes) -> bytes:
        """
        Return the data of *event*, its lines joined; empty where it has none (a comment, a ping).
        """
        return data_of(event)

    def _without_bom(self, data: bytes) -> bytes:
        if self._fresh and (len(data) >= len(_BOM) or not _BOM.startswith(data)):
            self._fresh = False
            return data.removeprefix(_BOM)
        return data

    def _skip(self) -> None:
        if not self._skipping:
            self._skipping = True
            self.skipped += 1
        self._rest = self._rest[
            -min(TAIL, self._limit) :
        ]  # figures stand there, and the blank line that ends it may have begun


def data_of(event: bytes) -> bytes:
    """
    Return the data of *event*, its lines joined; empty where it has none (a comment, a ping).
    """
    if event.startswith(b"data: ") and b"\n" not in event:
        return event[6:]
    return b"\n".join(line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:"))
