"""
Streams of JSON objects that no line end tells apart: in an array, one after the other, over several lines.
"""

from __future__ import annotations

import re
from typing import ClassVar

from tokenbudget_mw.tapping.sse import MAX_EVENT
from tokenbudget_mw.tapping.text import TAIL

__all__ = ["ValueReader"]

# a string is one token, so that brackets within it are none; possessive: linear on any bytes
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+(?P<end>")?|[{}\[\]]', re.DOTALL)
_REST_OF_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+(?P<end>")?', re.DOTALL)


class ValueReader:
    """
    Cuts a stream into its outermost objects; an array around them, commas and white space are passed over.

    Of an object that is too long, the end is kept.
    """

    __slots__ = ("_at", "_depth", "_is_in_string", "_limit", "_rest", "_start")
    boundary: ClassVar[bytes] = b""

    def __init__(self, *, max_event: int = MAX_EVENT) -> None:
        self._limit = max_event
        self._rest = b""
        self._at = 0
        self._start = 0
        self._depth = 0
        self._is_in_string = False

    def feed(self, data: bytes) -> list[bytes]:
        """
        Return the objects that *data* completes.
        """
        self._rest += data
        found = []
        self._end_string()
        if not self._is_in_string:
            for token in _TOKEN.finditer(self._rest, self._at):
                self._at = token.end()
                if token[0][:1] == b'"':
                    self._is_in_string = token["end"] is None  # which is so for the last token only
                elif self._step(token[0]):
                    found.append(self._rest[self._start : self._at])
                    self._start = self._at
        self._forget()
        return found

    def close(self) -> list[bytes]:
        """
        Return an object that was cut off.
        """
        rest, self._rest = self._rest, b""
        return [rest] if self._depth and rest.strip() else []

    def data(self, event: bytes) -> bytes:
        """
        Return the object.
        """
        return event.lstrip(b"[, \t\r\n")

    def _end_string(self) -> None:
        """
        Read on in a string that the last piece did not end.
        """
        if self._is_in_string and (rest := _REST_OF_STRING.match(self._rest, self._at)):
            self._at = rest.end()
            self._is_in_string = rest["end"] is None

    def _step(self, bracket: bytes) -> bool:
        """
        Go one bracket on; return whether it ends an outermost object.
        """
        if bracket in b"{[":
            self._depth += bracket == b"{" or self._depth > 0
            return False
        was_within = self._depth > 0
        self._depth -= was_within
        return was_within and self._depth == 0

    def _forget(self) -> None:
        """
        Drop what was read, and the beginning of what is too long.
        """
        keep = self._start if self._depth else self._at
        if len(self._rest) - keep > self._limit:
            keep = len(self._rest) - min(TAIL, self._limit)
        self._rest = self._rest[keep:]
        self._at = max(self._at - keep, 0)
        self._start = 0
