"""
Where the objects of a stream that is one JSON array end: Gemini's, without ``alt=sse``.
"""

from __future__ import annotations

import re

from tokenbudget_mw.tapping.sse import MAX_EVENT

__all__ = ["ArrayFraming"]

_STRUCTURE = re.compile(rb'["{}\[\],]')
_IN_STRING = re.compile(rb'["\\]')


class ArrayFraming:
    """
    A `Framing` of the objects in an array. What is no array passes as one event that never ends.
    """

    def __init__(self) -> None:
        self.is_between = True
        self._depth = 0
        self._is_in_string = self._is_escaped = False
        self._rest = b""
        # what has passed: the opening bracket, an object, a comma behind the last one
        self._opened = self._begun = self._parted = False
        self._before = (False, False, False)

    def next(self, chunk: bytes, at: int) -> tuple[bytes | None, int]:
        """
        Return the object that ends first in *chunk* from *at* on, and where; None and its length if none does.
        """
        if self.is_between:
            self._before = (self._opened, self._begun, self._parted)
        start = at
        while at < len(chunk):
            at, mark = self._step(chunk, at)
            if mark == b"{" and self._depth == 1:
                start, self.is_between = at - 1, False
            elif mark == b"}" and not self._depth and not self.is_between:
                event = self._rest + chunk[start:at]
                self._rest, self.is_between = b"", True
                self._begun, self._parted = True, False
                return event, at
        if not self.is_between:
            rest = self._rest + chunk[start:]
            self._rest = rest if len(rest) <= MAX_EVENT else b""
        return None, len(chunk)

    def back(self) -> None:
        """
        Forget the object that `next` has returned.
        """
        self.is_between, self._rest, self._depth = True, b"", 0
        self._opened, self._begun, self._parted = self._before

    def put(self, name: str, data: bytes) -> bytes:
        """
        Return *data* as the next object of the array.
        """
        del name
        before = b"" if self._parted else b",\n" if self._begun else b"" if self._opened else b"["
        self._opened, self._begun, self._parted = True, True, False
        return before + data

    def end(self) -> bytes:
        """
        Return the array's end.
        """
        return b"\n]\n"

    def _step(self, chunk: bytes, at: int) -> tuple[int, bytes]:
        """
        Go to behind the next mark in *chunk* from *at* on; return where that is, and the mark.
        """
        if self._is_escaped:
            self._is_escaped = False
            return at + 1, b""
        found = (_IN_STRING if self._is_in_string else _STRUCTURE).search(chunk, at)
        if found is None:
            return len(chunk), b""
        mark = found[0]
        if mark == b'"':
            self._is_in_string = not self._is_in_string
        elif mark == b"\\":
            self._is_escaped = True
        else:
            self._take(mark)
        return found.end(), mark

    def _take(self, mark: bytes) -> None:
        if mark in b"{[":
            if self._depth or self._opened:
                self._depth += 1
            elif mark == b"[":
                self._opened = True
            else:
                self._give_up()
        elif mark == b",":
            self._parted = self._parted or not self._depth
        elif self._depth:
            self._depth -= 1
        else:
            self._give_up()

    def _give_up(self) -> None:
        # no array, or one that has been closed: nothing can be put behind what passes
        self.is_between, self._depth = False, 1 << 60
