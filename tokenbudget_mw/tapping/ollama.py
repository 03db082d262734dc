"""
Ollama's own API: chat, generate and embed, a JSON object a line.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec.structs import replace

from tokenbudget_mw.tapping import shapes
from tokenbudget_mw.tapping.base import Answer, Family
from tokenbudget_mw.tapping.text import TAIL, endings, joined, strings_of
from tokenbudget_mw.values import Usage

__all__ = ["OLLAMA", "OllamaStream"]

_MARK = b'"total_duration"'
"""The last line alone has it, before its figures."""


class _Answer(Answer):
    prompt_eval_count: Any = None
    eval_count: Any = None
    done: Any = None

    def __post_init__(self) -> None:
        self.usage = {"prompt_eval_count": self.prompt_eval_count, "eval_count": self.eval_count}

    @property
    def is_complete(self) -> bool:
        """
        Whether this is the end; embeddings do not say so.
        """
        return self.error is None and self.done is not False


class _Function(msgspec.Struct, gc=False):
    name: Any = None
    arguments: msgspec.Raw = msgspec.Raw(b"")


class _Call(msgspec.Struct, gc=False):
    function: _Function | None = None


class _Message(msgspec.Struct, gc=False):
    content: Any = None
    thinking: Any = None
    tool_calls: list[_Call] | None = None


class _Texts(msgspec.Struct, gc=False):
    message: _Message | None = None
    response: Any = None
    thinking: Any = None


_answer = msgspec.json.Decoder(_Answer)
_texts = msgspec.json.Decoder(_Texts)


class OllamaStream:
    """
    A stream of lines that ends in one that says ``"done": true`` and has the figures at its top level.
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
        self._failed = self._failed or found.error is not None
        if isinstance(found.model, str) and found.model:
            self.model = found.model
        usage = shapes.ollama(found.usage)
        self._done = self._done or found.done is True or (usage is not None and found.is_complete)
        self._usage = usage or self._usage
        self.settled = self._done and self._usage is not None

    def text(self, event: bytes) -> str:
        """
        Return the piece of text, of thinking, or the calls of tools in *event*.
        """
        return body_text(event)

    def usage(self, counted: int) -> Usage:
        """
        Return the figures of the last line, or what was counted.
        """
        found = self._usage or Usage(output_tokens=counted, provider="ollama", source="counted")
        return replace(found, model=self.model, complete=self._done and not self._failed)


def _read(event: bytes) -> _Answer | None:
    """
    Return what *event* says; of one so long that only its end was kept, what stands there.
    """
    for text in (event, *(endings(event, _MARK) if len(event) >= TAIL else ())):
        try:
            return _answer.decode(text)
        except (ValueError, RecursionError):
            continue
    return None


def body_text(body: bytes) -> str:
    """
    Return the output text of a line or a body: text, thinking, calls of tools.
    """
    try:
        found = _texts.decode(body)
    except (ValueError, RecursionError):
        return strings_of(body, "content", "response", "thinking")
    return joined(_pieces(found))


def _pieces(found: _Texts) -> Iterator[object]:
    yield found.thinking
    yield found.response
    if found.message is not None:
        yield found.message.thinking
        yield found.message.content
        for call in found.message.tool_calls or ():
            if call.function is not None:
                yield call.function.name
                yield bytes(call.function.arguments).decode(errors="replace")


OLLAMA = Family("ollama", shapes.ollama, OllamaStream, body_text, _answer, _MARK, is_lines=True)
