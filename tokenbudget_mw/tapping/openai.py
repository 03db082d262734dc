"""
OpenAI's chat completions, completions and embeddings, and all who speak the same: vLLM, Groq, Mistral, and more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from tokenbudget_mw.tapping import shapes
from tokenbudget_mw.tapping.base import Family
from tokenbudget_mw.tapping.text import joined, strings_of
from tokenbudget_mw.values import Usage

__all__ = ["CHAT", "COMPLETIONS", "EMBEDDINGS", "OpenAIStream"]


class _Function(msgspec.Struct, gc=False):
    name: Any = None
    arguments: Any = None
    input: Any = None


class _ToolCall(msgspec.Struct, gc=False):
    function: _Function | None = None
    custom: _Function | None = None


class _Audio(msgspec.Struct, gc=False):
    transcript: Any = None


class _Message(msgspec.Struct, gc=False):
    content: Any = None
    refusal: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: list[_ToolCall] | None = None
    function_call: _Function | None = None
    audio: _Audio | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Message | None = None
    message: _Message | None = None
    text: Any = None


class _Texts(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None


class _End(msgspec.Struct, gc=False):
    finish_reason: Any = None
    usage: Any = None


class _Figures(msgspec.Struct, gc=False):
    model: Any = None
    usage: Any = None
    service_tier: Any = None
    error: Any = None
    choices: list[_End] | None = None
    x_groq: Any = None
    timings: Any = None

    @property
    def figures(self) -> Mapping[str, object] | None:
        """
        The usage, wherever it stands: where it was not asked for, Groq has it in an object of its own, Moonshot in the choice
        that ends, llama.cpp as what it has timed.
        """
        found = self.usage
        if found is None and isinstance(self.x_groq, dict):
            found = self.x_groq.get("usage")
        if found is None and self.choices:
            found = next((end.usage for end in self.choices if end.usage is not None), None)
        if found is None and isinstance(self.timings, dict):
            found = _timed(self.timings)
        return found if isinstance(found, dict) else None

    @property
    def has_failed(self) -> bool:
        """
        Whether it says that the stream ends early.
        """
        return self.error is not None or (isinstance(self.x_groq, dict) and self.x_groq.get("error") is not None)


def _timed(timings: Mapping[str, Any]) -> Mapping[str, object] | None:
    """
    Return what was timed as a usage; None of versions that do not tell what of the prompt was cached, and so not timed.
    """
    cached, new = timings.get("cache_n"), timings.get("prompt_n")
    if type(cached) is not int or type(new) is not int:
        return None
    details = {"cached_tokens": cached}
    return {
        "prompt_tokens": cached + new,
        "completion_tokens": timings.get("predicted_n"),
        "prompt_tokens_details": details,
    }


_TEXTS = ("content", "refusal", "reasoning_content", "reasoning", "text", "arguments", "input", "transcript")

_texts = msgspec.json.Decoder(_Texts)
_figures = msgspec.json.Decoder(_Figures)


class OpenAIStream:
    """
    A stream of chunks that ends in ``[DONE]``.

    Usage comes on a last chunk without choices, on the last chunk with choices, or cumulatively on every chunk: the
    last one wins.
    """

    __slots__ = ("_done", "_failed", "_usage", "model", "service_tier", "settled")

    def __init__(self) -> None:
        self.settled = False
        self.model: str | None = None
        self.service_tier: str | None = None
        self._usage: Usage | None = None
        self._done = False
        self._failed = False

    def note(self, event: bytes) -> None:
        """
        Take the figures of *event*.
        """
        if event.strip() == b"[DONE]":
            self._done = True
            self.settled = self._usage is not None
            return
        try:
            chunk = _figures.decode(event)
        except (ValueError, RecursionError):
            return
        self._failed = self._failed or chunk.has_failed
        if isinstance(chunk.model, str) and chunk.model:
            self.model = chunk.model
        if isinstance(chunk.service_tier, str):
            self.service_tier = chunk.service_tier
        figures = chunk.figures
        usage = None if figures is None else shapes.openai(figures)
        if usage is not None:
            self._usage = usage
            self.settled = not chunk.choices or any(end.finish_reason is not None for end in chunk.choices)

    def text(self, event: bytes) -> str:
        """
        Return the text of all choices in *event*.
        """
        return body_text(event)

    def usage(self, counted: int) -> Usage:
        """
        Return the last usage of the stream, or what was counted.
        """
        complete = (self._done or self.settled) and not self._failed
        found = self._usage or Usage(output_tokens=counted, provider="openai", source="counted")
        tier = self.service_tier or found.service_tier
        return replace(found, model=self.model, service_tier=tier, complete=complete)


def body_text(body: bytes) -> str:
    """
    Return the output text of a chunk or a body: content, refusal, reasoning, tool calls, and what was spoken, of all choices.
    """
    try:
        choices = _texts.decode(body).choices or []
    except (ValueError, RecursionError):
        return strings_of(body, *_TEXTS)
    return _choice_text(choices[0]) if len(choices) == 1 else "".join(_choice_text(choice) for choice in choices)


def _choice_text(choice: _Choice) -> str:
    message = choice.delta or choice.message
    if message is None:
        return choice.text if isinstance(choice.text, str) else ""
    content = message.content if isinstance(message.content, str) else _parts_text(message.content)
    return content + _rare_text(message) if _has_rare_text(message) else content


def _parts_text(content: object) -> str:
    """
    Return the text of a content in parts, thinking among them (Mistral): ``[{"type": "thinking", "thinking": [{…}]}]``.
    """
    texts = []
    waiting = [content]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting.extend(reversed(item))
        elif isinstance(item, dict):
            texts.append(item.get("text"))
            waiting.append(item.get("thinking"))
    return joined(texts)


def _has_rare_text(message: _Message) -> bool:
    return bool(
        message.tool_calls
        or message.reasoning_content
        or message.reasoning
        or message.refusal
        or message.function_call
        or message.audio
    )


def _rare_text(message: _Message) -> str:
    texts = [message.reasoning_content or message.reasoning, message.refusal]
    for call in message.tool_calls or ():
        texts += _function_texts(call.function or call.custom)
    texts += _function_texts(message.function_call)
    if message.audio is not None:
        texts.append(message.audio.transcript)
    return "".join([text for text in texts if isinstance(text, str)])


def _function_texts(function: _Function | None) -> list[Any]:
    return [] if function is None else [function.name, function.arguments, function.input]


def _no_text(_: bytes) -> str:
    return ""


CHAT = Family("openai", shapes.openai, OpenAIStream, body_text)
COMPLETIONS = CHAT
EMBEDDINGS = Family("openai", shapes.openai, OpenAIStream, _no_text, is_worded=False)
