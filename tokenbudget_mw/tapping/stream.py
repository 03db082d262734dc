"""
The tap of an event stream.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable

from tokenbudget_mw.tapping.base import CountText, Family, Otherwise, Reader
from tokenbudget_mw.tapping.detection import PEEK
from tokenbudget_mw.tapping.json_values import ValueReader
from tokenbudget_mw.tapping.ndjson import LineReader
from tokenbudget_mw.tapping.sse import EventReader
from tokenbudget_mw.tapping.text import TextMeter, all_text
from tokenbudget_mw.values import Usage

__all__ = ["BATCH", "BLANK", "FIELDS", "StreamTap"]

BLANK = b"\xef\xbb\xbf \t\r\n"
"""What may stand before a body and is none of it: white space, a byte order mark."""

BATCH = 1 << 15
"""Bytes that are held before they are read: most streams are shorter, and are read once, when their usage is known."""

FIELDS = b"deir:"
"""First letters of an event stream's fields (``data``, ``event``, ``id``, ``retry``), and of its comments."""

_utf8 = codecs.getincrementaldecoder("utf-8")
_FAILED = re.compile(rb'"error"\s*:\s*[{"]')

_BOM = b"\xef\xbb\xbf"

_HEAD = 64
"""Bytes in which the first one is looked for that is no white space."""

_FIRST, _LAST = 2, 3
"""Events at the beginning and the end of a batch that are always read: ``message_start``, the usage, ``[DONE]``."""


class StreamTap:
    """
    Reads events in batches: taking a chunk costs an append, and text is looked at only where figures lack.

    Args:
        family: The format of the stream.

        count_text: Counts the output text of a stream without figures.

        reader: Cuts the stream into events; another does where the first byte denies that it can.

        otherwise: Tells the family of a stream that *family* does not speak.
    """

    __slots__ = ("_begun", "_family", "_held", "_is_begun", "_otherwise", "_reader", "_stream", "_text", "_text_of")

    def __init__(
        self, family: Family, count_text: CountText | None, reader: Reader, otherwise: Otherwise | None = None
    ) -> None:
        self._family = family
        self._stream = family.stream()
        self._text_of: Callable[[bytes], str] = self._stream.text
        self._reader = reader
        self._otherwise = otherwise
        self._text = TextMeter(count_text)
        self._held = bytearray()
        self._begun: list[bytes] = []
        self._is_begun = False

    def feed(self, chunk: bytes) -> None:
        """
        Take the next piece of the stream.
        """
        self._held += chunk
        if len(self._held) >= BATCH:
            self._begin()
            data, events = self._read()
            self._note(data, events)
            self._add_text(events)

    def usage(self) -> Usage:
        """
        Read the rest and return the usage.
        """
        self._begin()
        self._skim()
        if not self._stream.settled:
            self._finish()
        return self._stream.usage(0 if self._stream.settled else self._text.tokens())

    def _begin(self) -> None:
        """
        Take another reader where the first byte says that the content type is wrong.
        """
        if self._is_begun:
            return
        self._is_begun = True
        first = bytes(self._held[:_HEAD]).lstrip(BLANK)[:1]
        if self._held.startswith(_BOM):
            del self._held[: len(_BOM)]
        if isinstance(self._reader, EventReader) and first in (b"{", b"["):
            self._reader = ValueReader()
        elif isinstance(self._reader, LineReader) and first and first in FIELDS:
            self._reader = EventReader()

    def _finish(self) -> None:
        data, events = self._read()
        events += self._reader.close()
        self._note(data, events)
        if not self._stream.settled:
            self._add_text(self._begun + events)

    def _skim(self) -> None:
        """
        Note the events at both ends of what is held, without cutting out those between.
        """
        held, boundary = self._held, self._reader.boundary
        if not boundary or boundary not in held:
            self._finish()  # it is little, and may end in another way: the end of the stream may be all of it
            return
        begun = self._cut_begun(held, boundary)
        at = len(held)
        for _ in range(_LAST + 1):  # the last one has a boundary behind it, as a rule
            at = max(0, held.rfind(boundary, 0, at))
        for event in begun + bytes(held[at:]).split(boundary):
            if data := self._reader.data(event):
                self._stream.note(data)
        self._begun = begun

    def _cut_begun(self, held: bytearray, boundary: bytes) -> list[bytes]:
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
        found = [data for data in map(self._reader.data, events) if data]
        if self._text_of is all_text and any(map(self._stream.text, found[:_FIRST])):
            self._text_of = self._stream.text  # what came first was the app's own, such as its sources
        texts = list(map(self._text_of, found))
        if self._otherwise is not None and found:
            otherwise, self._otherwise = self._otherwise, None
            if not any(texts) and self._is_foreign(found, otherwise):
                texts = list(map(self._text_of, found))
        # joined at once: a text an event takes far more room than the batch
        self._text.add("".join(texts))

    def _is_foreign(self, found: list[bytes], otherwise: Otherwise) -> bool:
        """
        Say whether the first batch, in which this family *found* neither text nor figures, is another's, which takes over then,
        or nobody's, whose text is all that the events say.
        """
        head = b"\n".join(found)[:PEEK]
        family = otherwise(head)
        if self._stream.settled or family is self._family or _FAILED.search(head):
            return False
        if family is None:
            is_text = self._family.is_worded and _is_text(head)
            if is_text:
                self._text_of = all_text
            return is_text
        self._family, self._stream = family, family.stream()
        self._text_of = self._stream.text
        for data in found:
            self._stream.note(data)
        return True

    def _may_tell(self, data: bytes) -> bool:
        """
        Say whether *data* may hold figures or an error: most events hold text and, where usage is asked for, a null.
        """
        mark = self._family.mark
        nulls = data.count(mark + b":null") + data.count(mark + b": null")
        return data.count(mark) > nulls or b'"error"' in data


def _is_text(head: bytes) -> bool:
    """
    Say whether *head*, which may end within a character, is text rather than a picture or an archive.
    """
    try:
        return "\0" not in _utf8().decode(head)
    except UnicodeDecodeError:
        return False
