"""
Opens what ends a stream early: by its format, known or detected, its framing, and its coding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from tokenbudget_mw.tapping import AUTO, FAMILIES
from tokenbudget_mw.tapping.array_framing import ArrayFraming
from tokenbudget_mw.tapping.base import CountText
from tokenbudget_mw.tapping.bounded import BoundedStream
from tokenbudget_mw.tapping.coded import CODINGS, CodedStream
from tokenbudget_mw.tapping.detection import PEEK, format_of
from tokenbudget_mw.tapping.framing import FRAMINGS, Framing
from tokenbudget_mw.tapping.last_words import LAST_WORDS

__all__ = ["Bounded", "Endable", "open_endable"]

ARRAYS = {"gemini": "application/json"}
"""Format -> content type of a stream that is one JSON array."""


class Endable(Protocol):
    """
    A stream that passes as far as its tokens are paid for; see `BoundedStream`, which is one.
    """

    def allow(self, tokens: int) -> None:
        """
        Let *tokens* more pass.
        """
        ...

    def split(self, chunk: bytes) -> tuple[bytes, bytes]:
        """
        Return what of *chunk* may pass, and the rest.
        """
        ...

    def flush(self) -> bytes:
        """
        Return what has passed, and did not go out yet.
        """
        ...

    def finish(self) -> bytes:
        """
        Return the regular end.
        """
        ...

    def fail(self, message: str) -> bytes:
        """
        Return the end by an error.
        """
        ...


class Bounded(Endable, Protocol):
    """
    One whose bytes are not coded.
    """

    def pass_over(self, data: bytes) -> None:
        """
        Count *data*, which has passed already or must pass.
        """
        ...


def open_endable(
    format: str,  # noqa: A002 - the settings' own word
    *,
    content_type: str,
    content_encoding: str,
    count_text: CountText,
    allowed: int,
) -> Endable | None:
    """
    Return what ends one response early; None where nothing can.

    Args:
        format: The route's format.

        content_type: The response's, without parameters.

        content_encoding: The response's.

        count_text: Tokens of a piece of text.

        allowed: Output tokens that may pass.
    """

    def open_stream(name: str) -> BoundedStream | None:
        framing = _framing(name, content_type)
        if framing is None or name not in LAST_WORDS:
            return None
        return BoundedStream(framing(), FAMILIES[name].stream().text, LAST_WORDS[name](), count_text, allowed)

    stream: Bounded | None
    if format == AUTO:
        known = content_type in FRAMINGS or content_type in ARRAYS.values()
        stream = _Detected(open_stream) if known else None
    else:
        stream = open_stream(format)
    if stream is None or content_encoding in {"", "identity"}:
        return stream
    return CodedStream(stream, content_encoding) if content_encoding in CODINGS else None


def _framing(name: str, content_type: str) -> Callable[[], Framing] | None:
    return ArrayFraming if ARRAYS.get(name) == content_type else FRAMINGS.get(content_type)


class _Detected:
    """
    A stream whose format its first bytes tell. They pass meanwhile, which are the first keys of the first event.

    Args:
        open_stream: Opens the stream of a format; None where such a one cannot be ended.
    """

    def __init__(self, open_stream: Callable[[str], BoundedStream | None]) -> None:
        self._open = open_stream
        self._head = b""
        self._is_open = False
        self._stream: BoundedStream | None = None

    def allow(self, tokens: int) -> None:
        if self._stream is not None:
            self._stream.allow(tokens)

    def split(self, chunk: bytes) -> tuple[bytes, bytes]:
        if not self._is_open:
            self._detect(chunk)
        return (chunk, b"") if self._stream is None else self._stream.split(chunk)

    def pass_over(self, data: bytes) -> None:
        if not self._is_open:
            self._detect(data)
        elif self._stream is not None:
            self._stream.pass_over(data)

    def flush(self) -> bytes:
        return b""

    def finish(self) -> bytes:
        return b"" if self._stream is None else self._stream.finish()

    def fail(self, message: str) -> bytes:
        return b"" if self._stream is None else self._stream.fail(message)

    def _detect(self, chunk: bytes) -> None:
        head = self._head + chunk[:PEEK]
        name = format_of(head)
        if name is not None:
            self._is_open, self._stream = True, self._open(name)
            if self._stream is not None:
                self._stream.pass_over(self._head)
        elif len(head) > PEEK:
            self._is_open = True
        self._head = b"" if self._is_open else head
