"""
A stream that passes as far as its tokens are paid for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from tokenbudget_mw.tapping.base import CountText
from tokenbudget_mw.tapping.framing import Framing
from tokenbudget_mw.tapping.last_words import Event, LastWords

__all__ = ["FOREVER", "BoundedStream"]

PIECE = 16_384
"""Characters that are counted at a time: what the tokenizer counts exactly."""

FOREVER = 1 << 60
"""More tokens than pass."""

MOST_BYTES = 4
"""Bytes of a character in UTF-8. No text has more tokens than bytes."""

_encode = msgspec.json.encode


class BoundedStream:
    """
    Follows a stream event by event, and says where it goes over its allowance. Constant memory; never raises on any bytes.

    An event whose beginning has passed already passes whole; so one event is the most by which a stream may go over.

    Args:
        framing: Where its events end.

        text: The output text in an event's data.

        last_words: How it is ended early.

        count_text: Tokens of a piece of text.

        allowed: Output tokens that may pass.
    """

    def __init__(
        self,
        framing: Framing,
        text: Callable[[bytes], str],
        last_words: LastWords,
        count_text: CountText,
        allowed: int,
    ) -> None:
        self._framing = framing
        self._text = text
        self._last_words = last_words
        self._count_text = count_text
        self._allowed = allowed
        self._tokens = 0
        self._waiting: list[str] = []
        self._most = 0
        self._is_counted = False

    def allow(self, tokens: int) -> None:
        """
        Let *tokens* more pass.
        """
        self._allowed += tokens

    def split(self, chunk: bytes) -> tuple[bytes, bytes]:
        """
        Return what of *chunk* may pass, and the rest: from its first event on that goes over the allowance.
        """
        at = 0
        while at < len(chunk):
            is_new = self._framing.is_between
            if is_new and self._tokens > self._allowed:
                return chunk[:at], chunk[at:]
            data, end = self._framing.next(chunk, at)
            if data is None:
                break
            if data and not self._fits(data) and is_new:
                self._framing.back()
                self._is_counted = True
                return chunk[:at], chunk[at:]
            self._is_counted = False
            self._last_words.note(data)
            at = end
        return chunk, b""

    def pass_over(self, data: bytes) -> None:
        """
        Count *data*, which has passed already or must pass.
        """
        allowed, self._allowed = self._allowed, FOREVER
        self.split(data)
        self._allowed = allowed

    def flush(self) -> bytes:
        """
        Return nothing: what passes has gone out.
        """
        return b""

    def finish(self) -> bytes:
        """
        Return the events that end the stream as if its answer had reached its maximum.
        """
        self._fold()
        return self._put(self._last_words.finish(self._tokens))

    def fail(self, message: str) -> bytes:
        """
        Return the events that end the stream with an error.
        """
        return self._put(self._last_words.fail(message))

    def _put(self, events: Iterator[Event]) -> bytes:
        return b"".join(self._framing.put(name, _encode(data)) for name, data in events) + self._framing.end()

    def _fits(self, data: bytes) -> bool:
        """
        Count the text in *data*, and say whether all until now fits. Counts at last where it might not.
        """
        if not self._is_counted and (text := self._text(data)):
            self._waiting.append(text)
            self._most += len(text) if text.isascii() else MOST_BYTES * len(text)
        if self._tokens + self._most > self._allowed or self._most > PIECE:
            self._fold()
        return self._tokens <= self._allowed

    def _fold(self) -> None:
        text = "".join(self._waiting)
        self._waiting.clear()
        self._most = 0
        self._tokens += sum(self._count_text(text[at : at + PIECE]) for at in range(0, len(text), PIECE))
