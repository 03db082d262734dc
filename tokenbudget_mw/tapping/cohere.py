"""
Cohere's version 2, chat and embed, and the chat of version 1. Its answers do not name the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from tokenbudget_mw.tapping import shapes
from tokenbudget_mw.tapping.base import Answer, Family
from tokenbudget_mw.tapping.text import joined, strings_of
from tokenbudget_mw.values import Usage

__all__ = ["COHERE", "CohereStream"]

_FAILURES = ("ERROR", "ERROR_TOXIC", "TIMEOUT")


class _Answer(Answer):
    meta: Any = None
    id: Any = None
    message: Any = None
    finish_reason: Any = None

    def __post_init__(self) -> None:
        self.usage = self.usage or self.meta  # embeddings

    @property
    def is_complete(self) -> bool:
        """
        Whether this is an answer: an error is a body whose ``message`` is a text.
        """
        return self.error is None and not isinstance(self.message, str) and self.finish_reason not in _FAILURES


class _Event(msgspec.Struct, gc=False):
    type: Any = None
    event_type: Any = None
    delta: _Answer | None = None
    response: _Answer | None = None
    finish_reason: Any = None

    @property
    def last(self) -> _Answer | None:
        """
        What it says of the answer if it ends one; in version 1 the whole answer stands in it.
        """
        if self.event_type == "stream-end" and self.response is not None:
            self.response.finish_reason = self.finish_reason
            return self.response
        return self.delta if self.type == "message-end" else None


class _Function(msgspec.Struct, gc=False):
    name: Any = None
    arguments: Any = None


class _Call(msgspec.Struct, gc=False):
    function: _Function | None = None


class _Part(msgspec.Struct, gc=False):
    text: Any = None
    thinking: Any = None


class _Piece(msgspec.Struct, gc=False):
    content: _Part | list[_Part] | None = None
    tool_plan: Any = None
    tool_calls: msgspec.Raw = msgspec.Raw(b"")


class _Message(msgspec.Struct, gc=False):
    message: _Piece | None = None


class _Texts(msgspec.Struct, gc=False):
    delta: _Message | None = None
    message: _Piece | None = None
    text: Any = None
    event_type: Any = None
    generation_id: Any = None


_answer = msgspec.json.Decoder(_Answer)
_event = msgspec.json.Decoder(_Event)
_texts = msgspec.json.Decoder(_Texts)
_call = msgspec.json.Decoder(_Call)
_calls = msgspec.json.Decoder(list[_Call])


class CohereStream:
    """
    A stream from ``message-start`` to ``message-end``, whose ``delta`` has the usage; in version 1 to ``stream-end``, whose
    ``response`` has it.
    """

    __slots__ = ("_ended", "_failed", "_usage", "settled")

    def __init__(self) -> None:
        self.settled = False
        self._usage: Usage | None = None
        self._ended = False
        self._failed = False

    def note(self, event: bytes) -> None:
        """
        Take the figures of *event*.
        """
        try:
            found = _event.decode(event)
        except (ValueError, RecursionError):
            return
        last = found.last
        if last is not None:
            self._ended = True
            self._failed = self._failed or not last.is_complete
            self._take(last.usage)

    def text(self, event: bytes) -> str:
        """
        Return the piece of text, of thinking, of a plan or of a tool's call in *event*.
        """
        return body_text(event)

    def usage(self, counted: int) -> Usage:
        """
        Return the usage of the end, or what was counted.
        """
        found = self._usage or Usage(output_tokens=counted, provider="cohere", source="counted")
        return replace(found, complete=self._ended and not self._failed)

    def _take(self, usage: object) -> None:
        found = shapes.cohere(usage) if isinstance(usage, Mapping) else None
        if found is not None:
            self._usage = found
            self.settled = True


def body_text(body: bytes) -> str:
    """
    Return the output text of an event or a body: text, thinking, plans and calls of tools.
    """
    try:
        found = _texts.decode(body)
    except (ValueError, RecursionError):
        return strings_of(body, "text", "thinking", "tool_plan", "name", "arguments")
    piece = found.delta.message if found.delta is not None else found.message
    if piece is not None:
        return joined(_pieces(piece))
    return joined((found.text,)) if found.event_type or found.generation_id else ""  # version 1


def _pieces(piece: _Piece) -> Iterator[object]:
    yield piece.tool_plan
    for part in piece.content if isinstance(piece.content, list) else (piece.content,):
        if part is not None:
            yield part.thinking
            yield part.text
    for call in _calls_of(piece.tool_calls):
        if call.function is not None:
            yield call.function.name
            yield call.function.arguments


def _calls_of(raw: msgspec.Raw) -> list[_Call]:
    """
    Return the calls of tools: one in an event, a list in a body.
    """
    if not raw:
        return []
    try:
        return _calls.decode(raw) if bytes(raw).startswith(b"[") else [_call.decode(raw)]
    except (ValueError, RecursionError):
        return []


COHERE = Family("cohere", shapes.cohere, CohereStream, body_text, _answer)
