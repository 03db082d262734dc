"""
The tap of a JSON body.
"""

from __future__ import annotations

from msgspec.structs import replace

from tokenbudget_mw.tapping.base import Answer, CountText, Family
from tokenbudget_mw.tapping.text import TAIL, TextMeter, endings
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
    """

    __slots__ = ("_count_text", "_family", "_head", "_size", "_tail")

    def __init__(self, family: Family, count_text: CountText | None) -> None:
        self._family = family
        self._count_text = count_text
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
        if answer is None:
            return self._counted(Answer(), complete=False)
        found = self._family.shape(answer.usage) if isinstance(answer.usage, dict) else None
        if found is None:
            return self._counted(answer, complete=answer.is_complete)
        return replace(
            found,
            model=_text(answer.model),
            service_tier=_text(answer.service_tier) or found.service_tier,
            complete=answer.is_complete,
        )

    def _read(self) -> Answer | None:
        if self._size <= HEAD:
            return self._decoded(self._head)
        return self._last()

    def _last(self) -> Answer | None:
        """
        Return what the kept end of the body says.
        """
        end = bytes((self._head + self._tail)[-TAIL:])
        found = next(filter(None, map(self._decoded, endings(end, self._family.mark))), None)
        if found is not None:
            found.model = found.model or _first_model(self._head)
        return found

    def _counted(self, answer: Answer, *, complete: bool) -> Usage:
        seen = len(self._head) + len(self._tail)
        text = TextMeter(self._count_text)
        text.add(self._family.body_text(bytes(self._head + self._tail)))
        return Usage(
            output_tokens=text.tokens() * self._size // seen if seen else 0,  # what was not kept is like the rest
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
