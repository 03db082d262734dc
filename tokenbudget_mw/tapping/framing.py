"""
Where events of a stream end, so that one may be put behind them: found while it passes, nothing is held back.
"""

from __future__ import annotations

import re
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

from tokenbudget_mw.tapping.eventstream import FrameReader, frame
from tokenbudget_mw.tapping.sse import MAX_EVENT, data_of

__all__ = ["FRAMINGS", "Framing"]

_LINE_END = rb"(?:\r\n|\n|\r(?!\n))"
# not {2}, which `re` would try at every byte: this way it skips to the first that may begin one
_BLANK = re.compile(_LINE_END + _LINE_END)
_LONGEST_BLANK = 4
_LENGTH = struct.Struct(">I")
_LEAST_FRAME = 16


class Framing(Protocol):
    """
    Follows one stream from event to event, in constant memory. Never raises on any bytes.

    Attributes:
        is_between: Whether the last byte that was seen ended an event, or none was seen.
    """

    is_between: bool

    def next(self, chunk: bytes, at: int) -> tuple[bytes | None, int]:
        """
        Return the data of the event that ends first in *chunk* from *at* on, and where; None and its length if none does.
        """
        ...

    def back(self) -> None:
        """
        Forget the event that `next` has returned: it has not passed, and will be seen again.
        """
        ...

    def put(self, name: str, data: bytes) -> bytes:
        """
        Return the event of this *name* with this *data*; an empty name is none.
        """
        ...

    def end(self) -> bytes:
        """
        Return what stands behind the last event.
        """
        ...


class _Text(ABC):
    """
    What events and lines have in common.

    Args:
        boundary: What ends an event.
    """

    def __init__(self, boundary: re.Pattern[bytes]) -> None:
        self.is_between = True
        self._boundary = boundary
        self._rest = b""

    def next(self, chunk: bytes, at: int) -> tuple[bytes | None, int]:
        rest = self._rest
        buffer = rest + chunk[at:]
        found = self._boundary.search(buffer, max(0, len(rest) - _LONGEST_BLANK))
        if found is None:
            # of an event that is too long the end is kept, which has no text that could be read
            self._rest = buffer if len(buffer) <= MAX_EVENT else buffer[-_LONGEST_BLANK:]
            self.is_between = False
            return None, len(chunk)
        self.back()
        return self._data(buffer[: found.start()]), at + found.end() - len(rest)

    def back(self) -> None:
        self._rest, self.is_between = b"", True

    def end(self) -> bytes:
        return b""

    @abstractmethod
    def _data(self, event: bytes) -> bytes: ...


class _Events(_Text):
    """
    Server-sent events.
    """

    def __init__(self) -> None:
        super().__init__(_BLANK)

    def _data(self, event: bytes) -> bytes:
        if b"\r" in event:
            event = event.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return data_of(event.lstrip(b"\n"))

    def put(self, name: str, data: bytes) -> bytes:
        return (f"event: {name}\n".encode() if name else b"") + b"data: " + data + b"\n\n"


class _Lines(_Text):
    """
    A JSON value a line.
    """

    def __init__(self) -> None:
        super().__init__(re.compile(rb"\n"))

    def _data(self, event: bytes) -> bytes:
        return event

    def put(self, name: str, data: bytes) -> bytes:
        del name
        return data + b"\n"


class _Frames:
    """
    Amazon's binary messages.
    """

    def __init__(self) -> None:
        self.is_between = True
        self._rest = b""
        self._left = 0
        self._reader = FrameReader()

    def next(self, chunk: bytes, at: int) -> tuple[bytes | None, int]:
        if self.is_between:
            self._rest, self._left = b"", _LENGTH.size
        self.is_between = False
        while at < len(chunk):
            piece = chunk[at : at + self._left]
            self._rest = (self._rest + piece)[: MAX_EVENT + 1]
            self._left -= len(piece)
            at += len(piece)
            if self._left:
                break
            length = _LENGTH.unpack_from(self._rest)[0]
            if len(self._rest) == _LENGTH.size:
                self._left = max(length, _LEAST_FRAME) - _LENGTH.size
            else:
                self.is_between = True
                return self._data(), at
        return None, len(chunk)

    def back(self) -> None:
        self.is_between = True

    def put(self, name: str, data: bytes) -> bytes:
        return frame(name, data)

    def end(self) -> bytes:
        return b""

    def _data(self) -> bytes:
        found = FrameReader().feed(self._rest)
        return self._reader.data(found[0]) if found else b""


FRAMINGS: dict[str, Callable[[], Framing]] = {
    "text/event-stream": _Events,
    "application/x-ndjson": _Lines,
    "application/jsonl": _Lines,
    "application/vnd.amazon.eventstream": _Frames,
}
"""Content type -> what follows such a stream."""
