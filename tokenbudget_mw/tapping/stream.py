"""
The tap of an event stream.
"""

from __future__ import annotations

from tokenbudget_mw.tapping.base import CountText, Family
from tokenbudget_mw.tapping.sse import EventReader
from tokenbudget_mw.tapping.text import TextMeter
from tokenbudget_mw.values import Usage

__all__ = ["BATCH", "StreamTap", "may_matter"]

BATCH = 1 << 16
"""Bytes that are held before they are read: most streams are shorter, and are read once, when their usage is known."""

_SHORT = 48
"""Events up to this size, in bytes, may be the end of a stream: ``[DONE]``, ``{"type": "message_stop"}``."""


class StreamTap:
    """
    Reads server-sent events in batches: taking a chunk costs an append, and text is looked at only where figures lack.

    Args:
        family: The format of the stream.

        count_text: Counts the output text of a stream without figures.
    """

    __slots__ = ("_held", "_reader", "_stream", "_text")

    def __init__(self, family: Family, count_text: CountText | None) -> None:
        self._stream = family.stream()
        self._reader = EventReader()
        self._text = TextMeter(count_text)
        self._held = bytearray()

    def feed(self, chunk: bytes) -> None:
        """
        Take the next piece of the stream.
        """
        self._held += chunk
        if len(self._held) >= BATCH:
            events = self._events()
            self._note(events)
            self._add_text(events)

    def usage(self) -> Usage:
        """
        Read the rest and return the usage.
        """
        events = self._events() + self._reader.close()
        self._note(events)
        if self._stream.settled:
            return self._stream.usage(0)
        self._add_text(events)
        return self._stream.usage(self._text.tokens())

    def _events(self) -> list[bytes]:
        data = bytes(self._held)
        self._held.clear()
        return self._reader.feed(data)

    def _note(self, events: list[bytes]) -> None:
        for event in events:
            if may_matter(event):
                self._stream.note(event)

    def _add_text(self, events: list[bytes]) -> None:
        for event in events:
            self._text.add(self._stream.text(event))


def may_matter(event: bytes) -> bool:
    """
    Say whether *event* may hold figures, an end or an error; most events hold text only and are not parsed for them.
    """
    if b'"usage"' in event:
        return b'"usage":null' not in event
    return len(event) <= _SHORT or b'"error"' in event
