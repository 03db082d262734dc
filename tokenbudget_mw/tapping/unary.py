"""
The tap of a JSON body.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from itertools import chain

from msgspec.structs import replace

from tokenbudget_mw.tapping.base import Answer, CountText, Family, Otherwise
from tokenbudget_mw.tapping.detection import PEEK
from tokenbudget_mw.tapping.json_values import ValueReader
from tokenbudget_mw.tapping.stream import StreamTap
from tokenbudget_mw.tapping.text import TAIL, TextMeter, all_text, endings
from tokenbudget_mw.values import Usage

__all__ = ["HEAD", "UnaryTap"]

HEAD = 1 << 20
"""Bytes of a body that are kept from its beginning; most bodies are shorter and are read whole."""


class UnaryTap:
    """
    Collects a body up to a bound and reads it when it has ended.

    Args:
        family: The format of the body.

        count_text: Counts the output text of a body without figures.

        otherwise: Tells the family of a body that *family* does not speak.
    """

    __slots__ = ("_count_text", "_family", "_head", "_otherwise", "_size", "_tail")

    def __init__(self, family: Family, count_text: CountText | None, otherwise: Otherwise | None = None) -> None:
        self._family = family
        self._count_text = count_text
        self._otherwise = otherwise
        self._head = bytearray()
        self._tail = bytearray()
        self._size = 0

    def feed(self, chunk: bytes) -> None:
        """
        Take the next piece of the body.
        """
        self._size += len(chunk)
        if self._size <= HEAD:
            self._head += chunk
            return
        if room := HEAD - len(self._head):
            self._head += chunk[:room]
            chunk = chunk[room:]
        if chunk:
            self._tail += chunk
            if len(self._tail) > 2 * TAIL:
                del self._tail[:-TAIL]

    def usage(self) -> Usage:
        """
        Read the body and return its usage.
        """
        answer = self._read()
        if answer is None and self._size <= TAIL and ValueReader().feed(bytes(self._head)):
            return self._lines()
        found = self._figures(answer)
        if answer is None or found is None:
            return self._foreign(answer) or self._counted(answer)
        return replace(
            found,
            model=found.model or _text(answer.model),
            service_tier=_text(answer.service_tier) or found.service_tier,
            complete=answer.is_complete,
            others=found.others + answer.others,
        )

    def _figures(self, answer: Answer | None) -> Usage | None:
        figures = None if answer is None else answer.usage
        return self._family.shape(figures) if isinstance(figures, Mapping) else None

    def _foreign(self, answer: Answer | None) -> Usage | None:
        """
        Return what another family finds in a body in which this one finds no figures; of one that nobody knows, whose text
        is all that it says, and None where this one knows better.
        """
        own, otherwise, self._otherwise = self._family, self._otherwise, None
        if otherwise is None or not self._head or (answer is not None and answer.error is not None):
            return None
        has_text = bool(own.body_text(bytes(self._head)))
        family = otherwise(bytes(self._head[:PEEK]))
        if family is None:
            if not has_text and own.is_worded:
                self._family = dataclasses.replace(own, body_text=all_text)
            return None
        self._family = family
        if family is not own and (not has_text or self._figures(self._read()) is not None):
            return self.usage()
        self._family = own
        return None

    def _read(self) -> Answer | None:
        whole = self._decoded(self._head) if self._size <= HEAD else None
        return whole or self._last()

    def _lines(self) -> Usage:
        """
        Return the usage of a stream of JSON that was taken for one body.
        """
        tap = StreamTap(self._family, self._count_text, ValueReader(), self._otherwise)
        tap.feed(bytes(self._head))
        return tap.usage()

    def _last(self) -> Answer | None:
        """
        Return what the kept end of the body says.
        """
        end = bytes((self._head + self._tail)[-TAIL:])
        marks = filter(None, (self._family.earlier, self._family.mark))
        found = next(filter(None, map(self._decoded, chain.from_iterable(endings(end, mark) for mark in marks))), None)
        if found is not None:
            found.model = found.model or _first_model(self._head)
        return found

    def _counted(self, answer: Answer | None) -> Usage:
        body = bytes(self._head + self._tail)
        text = TextMeter(self._count_text)
        text.add(self._family.body_text(body))
        complete = answer is not None and answer.is_complete
        answer = answer or Answer()
        return Usage(
            output_tokens=text.tokens() * self._size // len(body) if body else 0,  # what was not kept is like the rest
            model=_text(answer.model),
            provider=self._family.provider,
            service_tier=_text(answer.service_tier),
            source="counted" if self._family.has_text else "none",
            complete=complete,
        )

    def _decoded(self, body: bytes | bytearray) -> Answer | None:
        try:
            found: Answer = self._family.answer.decode(body)
        except (ValueError, RecursionError):
            return None
        return found


def _first_model(head: bytes | bytearray) -> str | None:
    """
    Return the ``model`` that stands before the answer's content at the beginning of a body too long to be kept.
    """
    before, key, after = bytes(head[:1024]).partition(b'"model"')
    if not key or b"[" in before or not after.lstrip().startswith(b":"):
        return None
    value, quote, _ = after.lstrip()[1:].lstrip().removeprefix(b'"').partition(b'"')
    return value.decode(errors="replace") if quote else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
