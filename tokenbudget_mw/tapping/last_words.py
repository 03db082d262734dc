"""
How a stream is ended early, in its own format: the regular end of an answer that became too long, or an error.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Protocol

import msgspec

__all__ = ["LAST_WORDS", "LastWords"]

Event = tuple[str, object]
"""Name and data of an event; without a name, an empty one."""

MOST_CHOICES = 128
MOST_RESPONSE = 1 << 16
"""Longest ``response`` object that is kept, in bytes, to be sent again in the last event."""

_DONE = msgspec.Raw(b"[DONE]")
_RAW = msgspec.Raw(b"")


class LastWords(Protocol):
    """
    Notes of a stream what its last event must repeat, in constant memory. Never raises on any data.
    """

    def note(self, data: bytes) -> None:
        """
        Take the data of an event that passes.
        """
        ...

    def finish(self, tokens: int) -> Iterator[Event]:
        """
        Yield the regular end of an answer of *tokens* tokens that was cut at its maximum.
        """
        ...

    def fail(self, message: str) -> Iterator[Event]:
        """
        Yield an error, with a *message* for people.
        """
        ...


class _Noting(ABC):
    """
    Decodes events into *kind*, and takes those that can be read.
    """

    kind: type[msgspec.Struct]

    def __init__(self) -> None:
        self._decoder = _DECODERS[self.kind]

    def note(self, data: bytes) -> None:
        try:
            found = self._decoder.decode(data)
        except (ValueError, RecursionError):
            return
        self.take(found)

    @abstractmethod
    def take(self, found: Any) -> None: ...


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    finish_reason: Any = None
    finishReason: Any = None  # noqa: N815 - the wire's own word


class _Chunk(msgspec.Struct, gc=False):
    id: Any = None
    object: Any = None
    created: Any = None
    model: Any = None
    choices: list[_Choice] | None = None


class _Chat(_Noting):
    """
    OpenAI's chunks: every choice that is open ends with ``length``.
    """

    kind = _Chunk
    empty: tuple[str, object] = ("delta", {})

    def __init__(self) -> None:
        super().__init__()
        self._head: dict[str, Any] = {}
        self._is_open: dict[int, bool] = {}

    def take(self, found: Any) -> None:
        if not self._head.get("id") and found.id is not None:  # Azure's first chunk has an empty one
            self._head |= {"id": found.id, "object": found.object, "created": found.created}
        if found.model:
            self._head["model"] = found.model
        _note_open(self._is_open, ((each.index, each.finish_reason) for each in found.choices or ()))

    def finish(self, tokens: int) -> Iterator[Event]:
        del tokens
        name, value = self.empty
        choices = [
            {"index": index, name: value, "logprobs": None, "finish_reason": "length"} for index in _open(self._is_open)
        ]
        yield "", {**self._head, "choices": choices}
        yield "", _DONE

    def fail(self, message: str) -> Iterator[Event]:
        yield "", {"error": _openai_error(message)}
        yield "", _DONE


class _Completion(_Chat):
    """
    OpenAI's older completions.
    """

    empty = ("text", "")


class _Response(msgspec.Struct, gc=False):
    type: Any = None
    sequence_number: Any = None
    response: msgspec.Raw = _RAW


class _Responses(_Noting):
    """
    OpenAI's Responses: the response that the first event announced, incomplete.
    """

    kind = _Response

    def __init__(self) -> None:
        super().__init__()
        self._number = -1
        self._response = b"{}"

    def take(self, found: Any) -> None:
        if type(found.sequence_number) is int:
            self._number = found.sequence_number
        if found.type == "response.created" and 0 < len(bytes(found.response)) <= MOST_RESPONSE:
            self._response = bytes(found.response)

    def finish(self, tokens: int) -> Iterator[Event]:
        del tokens
        response = msgspec.json.decode(self._response)
        response = response if isinstance(response, dict) else {}
        response |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
        kind = "response.incomplete"
        yield kind, {"type": kind, "sequence_number": self._number + 1, "response": response}

    def fail(self, message: str) -> Iterator[Event]:
        error = {"code": "budget_exceeded", "message": message, "param": None}
        yield "error", {"type": "error", **error, "sequence_number": self._number + 1}


class _Block(msgspec.Struct, gc=False):
    type: Any = None
    index: Any = None


class _Messages(_Noting):
    """
    Anthropic's messages: the block that is open is closed, and the message stops at its maximum.
    """

    kind = _Block

    def __init__(self) -> None:
        super().__init__()
        self._block: int | None = None

    def take(self, found: Any) -> None:
        if found.type == "content_block_start" and type(found.index) is int:
            self._block = found.index
        elif found.type == "content_block_stop":
            self._block = None

    def finish(self, tokens: int) -> Iterator[Event]:
        if self._block is not None:
            yield "content_block_stop", {"type": "content_block_stop", "index": self._block}
        delta = {"stop_reason": "max_tokens", "stop_sequence": None}
        yield "message_delta", {"type": "message_delta", "delta": delta, "usage": {"output_tokens": tokens}}
        yield "message_stop", {"type": "message_stop"}

    def fail(self, message: str) -> Iterator[Event]:
        yield "error", {"type": "error", "error": {"type": "rate_limit_error", "message": message}}


class _Candidates(msgspec.Struct, gc=False):
    candidates: list[_Choice] | None = None
    modelVersion: Any = None  # noqa: N815 - the wire's own word
    responseId: Any = None  # noqa: N815 - the wire's own word


class _Gemini(_Noting):
    """
    Gemini's responses: every candidate that is open finishes at ``MAX_TOKENS``.
    """

    kind = _Candidates

    def __init__(self) -> None:
        super().__init__()
        self._head: dict[str, Any] = {}
        self._is_open: dict[int, bool] = {}

    def take(self, found: Any) -> None:
        head = {"modelVersion": found.modelVersion, "responseId": found.responseId}
        self._head |= {name: value for name, value in head.items() if isinstance(value, str)}
        _note_open(self._is_open, ((each.index, each.finishReason) for each in found.candidates or ()))

    def finish(self, tokens: int) -> Iterator[Event]:
        del tokens
        content = {"parts": [{"text": ""}], "role": "model"}
        ended = [{"content": content, "finishReason": "MAX_TOKENS", "index": index} for index in _open(self._is_open)]
        yield "", {"candidates": ended, **self._head}

    def fail(self, message: str) -> Iterator[Event]:
        yield "", {"error": {"code": 429, "message": message, "status": "RESOURCE_EXHAUSTED"}}


class _Step(msgspec.Struct, gc=False):
    event_type: Any = None
    index: Any = None
    interaction: msgspec.Raw = _RAW


class _Interaction(_Noting):
    """
    Gemini's interactions: the step that is open stops, and the interaction that the first event announced is incomplete.
    """

    kind = _Step

    def __init__(self) -> None:
        super().__init__()
        self._index: int | None = None
        self._interaction = b"{}"

    def take(self, found: Any) -> None:
        if found.event_type in ("step.start", "step.delta") and type(found.index) is int:
            self._index = found.index
        elif found.event_type == "step.stop":
            self._index = None
        elif found.event_type == "interaction.created" and 0 < len(bytes(found.interaction)) <= MOST_RESPONSE:
            self._interaction = bytes(found.interaction)

    def finish(self, tokens: int) -> Iterator[Event]:
        del tokens
        if self._index is not None:
            yield "step.stop", {"event_type": "step.stop", "index": self._index}
        interaction = msgspec.json.decode(self._interaction)
        interaction = (interaction if isinstance(interaction, dict) else {}) | {"status": "incomplete"}
        kind = "interaction.completed"
        yield kind, {"event_type": kind, "interaction": interaction}

    def fail(self, message: str) -> Iterator[Event]:
        yield "error", {"event_type": "error", "error": {"code": "budget_exceeded", "message": message}}


class _Line(msgspec.Struct, gc=False):
    model: Any = None
    created_at: Any = None
    response: msgspec.Raw = _RAW


class _Ollama(_Noting):
    """
    Ollama's lines: one more that is done.
    """

    kind = _Line

    def __init__(self) -> None:
        super().__init__()
        self._head: dict[str, Any] = {}
        self._is_generate = False

    def take(self, found: Any) -> None:
        self._head = {"model": found.model, "created_at": found.created_at}
        self._is_generate = bool(found.response)

    def finish(self, tokens: int) -> Iterator[Event]:
        empty = {"response": ""} if self._is_generate else {"message": {"role": "assistant", "content": ""}}
        yield "", {**self._head, **empty, "done_reason": "length", "done": True, "eval_count": tokens}

    def fail(self, message: str) -> Iterator[Event]:
        yield "", {"error": message}


class _Cohere(_Noting):
    """
    Cohere's events: the content that is open ends, and the message.
    """

    kind = _Block

    def __init__(self) -> None:
        super().__init__()
        self._content: int | None = None

    def take(self, found: Any) -> None:
        if found.type == "content-start" and type(found.index) is int:
            self._content = found.index
        elif found.type == "content-end":
            self._content = None

    def finish(self, tokens: int) -> Iterator[Event]:
        del tokens
        if self._content is not None:
            yield "content-end", {"type": "content-end", "index": self._content}
        yield "message-end", {"type": "message-end", "delta": {"finish_reason": "MAX_TOKENS"}}

    def fail(self, message: str) -> Iterator[Event]:
        yield "message-end", {"type": "message-end", "delta": {"finish_reason": "ERROR", "error": message}}


class _Index(msgspec.Struct, gc=False):
    contentBlockIndex: Any = None  # noqa: N815 - the wire's own word


class _Event(msgspec.Struct, gc=False):
    contentBlockStart: _Index | None = None  # noqa: N815 - the wire's own word
    contentBlockDelta: _Index | None = None  # noqa: N815 - the wire's own word
    contentBlockStop: _Index | None = None  # noqa: N815 - the wire's own word


class _Converse(_Noting):
    """
    Bedrock's messages: the block that is open is closed, and the message stops at its maximum. The figures, which come last,
    are not known.
    """

    kind = _Event

    def __init__(self) -> None:
        super().__init__()
        self._block: int | None = None

    def take(self, found: Any) -> None:
        begun = found.contentBlockStart or found.contentBlockDelta
        if begun is not None and type(begun.contentBlockIndex) is int:
            self._block = begun.contentBlockIndex
        elif found.contentBlockStop is not None:
            self._block = None

    def finish(self, tokens: int) -> Iterator[Event]:
        del tokens
        if self._block is not None:
            yield "contentBlockStop", {"contentBlockIndex": self._block}
        yield "messageStop", {"stopReason": "max_tokens"}
        yield "metadata", {}

    def fail(self, message: str) -> Iterator[Event]:
        yield "throttlingException", {"message": message}


def _note_open(is_open: dict[int, bool], seen: Iterator[tuple[int, object]]) -> None:
    for index, reason in seen:
        if index in is_open or len(is_open) < MOST_CHOICES:
            is_open[index] = reason is None


def _open(is_open: dict[int, bool]) -> list[int]:
    return [index for index, still in is_open.items() if still] or [0]


def _openai_error(message: str) -> dict[str, Any]:
    return {"message": message, "type": "rate_limit_error", "param": None, "code": "budget_exceeded"}


_DECODERS: dict[type[msgspec.Struct], msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind) for kind in (_Chunk, _Response, _Block, _Candidates, _Step, _Line, _Event)
}

LAST_WORDS: dict[str, type[LastWords]] = {
    "openai.chat": _Chat,
    "openai.completions": _Completion,
    "openai.responses": _Responses,
    "anthropic.messages": _Messages,
    "bedrock.converse": _Converse,
    "cohere": _Cohere,
    "gemini": _Gemini,
    "gemini.interactions": _Interaction,
    "ollama": _Ollama,
}
"""Format -> how its streams are ended early. Those that are not here have no streams of text."""
