"""
The tap of a response whose content type does not tell how it is framed.
"""

from __future__ import annotations

from tokenbudget_mw.tapping.base import CountText, Family, Otherwise, Tap
from tokenbudget_mw.tapping.eventstream import FrameReader
from tokenbudget_mw.tapping.json_values import ValueReader
from tokenbudget_mw.tapping.ndjson import LineReader
from tokenbudget_mw.tapping.sse import EventReader
from tokenbudget_mw.tapping.stream import BLANK, FIELDS, StreamTap
from tokenbudget_mw.tapping.unary import UnaryTap
from tokenbudget_mw.values import Usage

__all__ = ["SniffingTap"]


class SniffingTap:
    """
    Tells a JSON body from a stream by the first byte that is no white space and no byte order mark.

    ``{`` begins a body (or a line of a stream, in a family that has lines), ``[`` a stream in a JSON array, NUL a binary
    frame (its length), the first letter of a field an event stream, and anything else lines of text.

    Args:
        family: The format of the response.

        count_text: Counts the output text of a response without figures.

        otherwise: Tells the family of a response that this one does not speak.
    """

    __slots__ = ("_count_text", "_family", "_otherwise", "_tap")

    def __init__(self, family: Family, count_text: CountText | None, otherwise: Otherwise | None = None) -> None:
        self._family = family
        self._count_text = count_text
        self._otherwise = otherwise
        self._tap: Tap | None = None

    def feed(self, chunk: bytes) -> None:
        """
        Take the next piece of the body.
        """
        if self._tap is None:
            chunk = chunk.lstrip(BLANK)
            if not chunk:
                return
            self._tap = self._open(chunk[:1])
        self._tap.feed(chunk)

    def usage(self) -> Usage:
        """
        Return what was read; of an empty body, that nothing was.
        """
        return (self._tap or self._open(b"")).usage()

    def _open(self, first: bytes) -> Tap:
        family, count, otherwise = self._family, self._count_text, self._otherwise
        if first == b"{" and not family.is_lines:
            return UnaryTap(family, count, otherwise)
        if first in (b"{", b"["):
            return StreamTap(family, count, ValueReader(), otherwise)
        if first == b"\0":
            return StreamTap(family, count, FrameReader(), otherwise)
        return StreamTap(family, count, EventReader() if first in FIELDS else LineReader(), otherwise)
