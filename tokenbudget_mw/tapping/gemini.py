"""
Google's Gemini: ``generateContent``, and ``streamGenerateContent`` as events or as a JSON array.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from tokenbudget_mw.tapping import shapes
from tokenbudget_mw.tapping.base import Answer, Family
from tokenbudget_mw.tapping.text import TAIL, endings, joined, strings_of
from tokenbudget_mw.values import Usage

__all__ = ["GEMINI", "GeminiStream"]

_MARK = b'"usageMetadata"'


class _Answer(Answer):
    model: Any = msgspec.field(default=None, name="modelVersion")
    usage: Any = msgspec.field(default=None, name="usageMetadata")


class _End(msgspec.Struct, gc=False):
    finishReason: Any = None  # noqa: N815 - the wire's own word


class _Feedback(msgspec.Struct, gc=False):
    blockReason: Any = None  # noqa: N815 - the wire's own word


class _Chunk(_Answer):
    candidates: list[_End] | None = None
    promptFeedback: _Feedback | None = None  # noqa: N815 - the wire's own word

    @property
    def is_last(self) -> bool:
        """
        Whether it ends the answer, or says that there will be none.
        """
        blocked = self.promptFeedback is not None and self.promptFeedback.blockReason is not None
        return blocked or any(end.finishReason is not None for end in self.candidates or ())


class _Code(msgspec.Struct, gc=False):
    code: Any = None


class _Call(msgspec.Struct, gc=False):
    name: Any = None
    args: msgspec.Raw = msgspec.Raw(b"")


class _Part(msgspec.Struct, gc=False):
    text: Any = None
    functionCall: _Call | None = None  # noqa: N815 - the wire's own word
    executableCode: _Code | None = None  # noqa: N815 - the wire's own word


class _Content(msgspec.Struct, gc=False):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct, gc=False):
    content: _Content | None = None


class _Texts(msgspec.Struct, gc=False):
    candidates: list[_Candidate] | None = None


_answer = msgspec.json.Decoder(_Answer)
_chunk = msgspec.json.Decoder(_Chunk)
_texts = msgspec.json.Decoder(_Texts)


class GeminiStream:
    """
    A stream of responses, each with the next piece of text and the usage until then: the last one wins.

    Nothing marks the end but a candidate's ``finishReason``, or the ``blockReason`` of a prompt that is not answered.
    """

    __slots__ = ("_done", "_failed", "_usage", "model", "settled")

    def __init__(self) -> None:
        self.settled = False
        self.model: str | None = None
        self._usage: Usage | None = None
        self._done = False
        self._failed = False

    def note(self, event: bytes) -> None:
        """
        Take the figures of *event*.
        """
        found = _read(event)
        if found is None:
            return
        self._done = self._done or found.is_last
        self._failed = self._failed or found.error is not None
        if isinstance(found.model, str) and found.model:
            self.model = found.model
        usage = shapes.gemini(found.usage) if isinstance(found.usage, Mapping) else None
        self._usage = usage or self._usage
        self.settled = self._done and self._usage is not None

    def text(self, event: bytes) -> str:
        """
        Return the text of all candidates in *event*.
        """
        return body_text(event)

    def usage(self, counted: int) -> Usage:
        """
        Return the last usage; of a stream that broke off, its input and what is more of the two outputs.
        """
        found = self._usage
        if found is None:
            found = Usage(output_tokens=counted, provider="google", source="counted")
        elif not self.settled:
            found = replace(found, output_tokens=max(found.output_tokens, counted), source="counted")
        return replace(found, model=self.model, complete=self._done and not self._failed)


def _read(event: bytes) -> _Chunk | None:
    """
    Return what *event* says; of one so long that only its end was kept (an image), what stands there.
    """
    try:
        return _chunk.decode(event)
    except (ValueError, RecursionError):
        pass
    for ending in endings(event, _MARK) if len(event) >= TAIL else ():
        try:
            found = _chunk.decode(ending)
        except (ValueError, RecursionError):
            continue
        if b'"finishReason"' in event:
            found.candidates = [_End("STOP")]
        return found
    return None


def body_text(body: bytes) -> str:
    """
    Return the output text of a response: text, thoughts, calls of functions and code, of all candidates.
    """
    try:
        candidates = _texts.decode(body).candidates or ()
    except (ValueError, RecursionError):
        return strings_of(body, "text", "code")
    return "".join(joined(_pieces(candidate)) for candidate in candidates)


def _pieces(candidate: _Candidate) -> Iterator[object]:
    for part in (candidate.content and candidate.content.parts) or ():
        yield part.text
        if part.functionCall is not None:
            yield part.functionCall.name
            yield bytes(part.functionCall.args).decode(errors="replace")
        if part.executableCode is not None:
            yield part.executableCode.code


GEMINI = Family("google", shapes.gemini, GeminiStream, body_text, _answer, _MARK)
