"""
The tap of an event stream.
"""

from __future__ import annotations

from tokenbudget_mw.tapping.base import CountText, Family, Reader
from tokenbudget_mw.tapping.text import TextMeter
from tokenbudget_mw.values import Usage

__all__ = ["BATCH", "StreamTap"]

BATCH = 1 << 15
"""Bytes that are held before they are read: most streams are shorter, and are read once, when their usage is known."""

_FIRST, _LAST = 2, 3
"""Events at the beginning and the end of a batch that are always read: ``message_start``, the usage, ``[DONE]``."""


class StreamTap:
    """
    Reads events in batches: taking a chunk costs an append, and text is looked at only where figures lack.

    Args:
        family: The format of the stream.

        count_text: Counts the output text of a stream without figures.

        reader: Cuts the stream into events.
    """

    __slots__ = ("_held", "_mark", "_reader", "_stream", "_text")

    def __init__(self, family: Family, count_text: CountText | None, reader: Reader) -> None:
        self._stream = family.stream()
        self._mark = family.mark
        self._reader = reader
        self._text = TextMeter(count_text)
        self._held = bytearray()

    def feed(self, chunk: bytes) -> None:
        """
        Take the next piece of the stream.
        """
        self._held += chunk
        if len(self._held) >= BATCH:
            data, events = self._read()
            self._note(data, events)
            self._add_text(events)

    def usage(self) -> Usage:
        """
        Read the rest and return the usage.
        """
        self._skim()
        if not self._stream.settled:
            self._finish()
        return self._stream.usage(0 if self._stream.settled else self._text.tokens())

    def _finish(self) -> None:
        data, events = self._read()
        events += self._reader.close()
        self._note(data, events)
        if not self._stream.settled:
            self._add_text(events)

    def _skim(self) -> None:
        """
        Note the events at both ends of what is held, without cutting out those between.
        """
        held, boundary = self._held, self._reader.boundary
        if not boundary or boundary not in held:
            self._finish()  # it is little, and may end in another way: the end of the stream may be all of it
            return
        begun = self._begin(held, boundary)
        at = len(held)
        for _ in range(_LAST + 1):  # the last one has a boundary behind it, as a rule
            at = max(0, held.rfind(boundary, 0, at))
        for event in begun + bytes(held[at:]).split(boundary):
            if data := self._reader.data(event):
                self._stream.note(data)
        if not self._stream.settled:
            self._add_text(begun)

    def _begin(self, held: bytearray, boundary: bytes) -> list[bytes]:
        """
        Cut the events up to the first one that has data out of *held*: comments may keep a slow stream alive until then.
        """
        begun: list[bytes] = []
        has_data = False
        while not has_data and (end := held.find(boundary)) >= 0:
            end += len(boundary)
            events = self._reader.feed(bytes(held[:end]))
            del held[:end]
            has_data = any(map(self._reader.data, events))
            begun += events
        return begun

    def _read(self) -> tuple[bytes, list[bytes]]:
        data = bytes(self._held)
        self._held.clear()
        return data, self._reader.feed(data)

    def _note(self, data: bytes, events: list[bytes]) -> None:
        """
        Note the events at both ends of a batch, where figures stand; all of them only if those did not tell.
        """
        at_ends = events if len(events) <= _FIRST + _LAST else events[:_FIRST] + events[-_LAST:]
        for event in at_ends:
            self._stream.note(self._reader.data(event))
        if not self._stream.settled and len(at_ends) < len(events) and self._may_tell(data):
            for event in events:
                if self._may_tell(event):
                    self._stream.note(self._reader.data(event))

    def _add_text(self, events: list[bytes]) -> None:
        texts = [self._stream.text(data) for data in map(self._reader.data, events) if data]
        # joined at once: a text an event takes far more room than the batch
        self._text.add("".join(texts))

    def _may_tell(self, data: bytes) -> bool:
        """
        Say whether *data* may hold figures or an error: most events hold text and, where usage is asked for, a null.
        """
        mark = self._mark
        nulls = data.count(mark + b":null") + data.count(mark + b": null")
        return data.count(mark) > nulls or b'"error"' in data
