"""
Anthropic's Messages.
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

__all__ = ["MESSAGES", "AnthropicStream"]

_TEXTS = ("text", "thinking", "partial_json")


class _Start(msgspec.Struct, gc=False):
    model: Any = None
    usage: Any = None


class _Event(msgspec.Struct, gc=False):
    type: Any = None
    message: _Start | None = None
    usage: Any = None


class _Delta(msgspec.Struct, gc=False):
    text: Any = None
    thinking: Any = None
    partial_json: Any = None


class _Block(msgspec.Struct, gc=False):
    name: Any = None
    text: Any = None
    thinking: Any = None
    input: msgspec.Raw = msgspec.Raw(b"")


class _Texts(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    content_block: _Block | None = None


class _Body(msgspec.Struct, gc=False):
    content: list[_Block] | None = None


_event = msgspec.json.Decoder(_Event)
_texts = msgspec.json.Decoder(_Texts)
_body = msgspec.json.Decoder(_Body)


class AnthropicStream:
    """
    A stream from ``message_start`` to ``message_stop``.

    ``message_start`` gives the input figures, each ``message_delta`` cumulative ones: field by field, the last one wins.
    """

    __slots__ = ("_failed", "_fields", "_stopped", "model", "settled")

    def __init__(self) -> None:
        self.settled = False
        self.model: str | None = None
        self._fields: dict[str, object] = {}
        self._stopped = False
        self._failed = False

    def note(self, event: bytes) -> None:
        """
        Take the figures of *event*.
        """
        try:
            found = _event.decode(event)
        except (ValueError, RecursionError):
            return
        if found.type == "message_start" and found.message is not None:
            self._merge(found.message.usage)
            self.model = found.message.model if isinstance(found.message.model, str) else None
        elif found.type == "message_delta":
            final = self._merge(found.usage)
            self.settled = self.settled or (final and shapes.anthropic(self._fields) is not None)
        elif found.type == "message_stop":
            self._stopped = True
        elif found.type == "error":
            self._failed = True

    def text(self, event: bytes) -> str:
        """
        Return the text, thinking, tool name or tool input in *event*.
        """
        try:
            found = _texts.decode(event)
        except (ValueError, RecursionError):
            return strings_of(event, *_TEXTS)
        if found.delta is not None:
            return joined((found.delta.text, found.delta.thinking, found.delta.partial_json))
        if found.content_block is not None:
            return joined((found.content_block.name, found.content_block.text, found.content_block.thinking))
        return ""

    def usage(self, counted: int) -> Usage:
        """
        Return the merged figures; of a stream that broke off, the input figures and the output that was counted.
        """
        complete = self._stopped and not self._failed
        found = shapes.anthropic(self._fields)
        if found is None:
            found = Usage(output_tokens=counted, provider="anthropic", source="counted")
        elif not self.settled:
            output = max(found.output_tokens, counted)
            found = replace(found, output_tokens=output, source="counted")
        return replace(found, model=found.model or self.model, complete=complete)

    def _merge(self, usage: object) -> bool:
        """
        Lay the sane values of *usage* over the fields known by now; return whether an output figure is among them.
        """
        if not isinstance(usage, Mapping):
            return False
        for name, value in usage.items():
            if isinstance(value, Mapping | str | list) or shapes.figure(value) is not None:
                self._fields[name] = value
        return shapes.figure(usage.get("output_tokens")) is not None


def body_text(body: bytes) -> str:
    """
    Return the output text of a message: text, thinking, tool names and tool inputs.
    """
    try:
        blocks = _body.decode(body).content or ()
    except (ValueError, RecursionError):
        return strings_of(body, *_TEXTS)
    return "".join(joined((block.name, block.text, block.thinking, _tool_input(block))) for block in blocks)


def _tool_input(block: _Block) -> str:
    return bytes(block.input).decode(errors="replace")


MESSAGES = Family("anthropic", shapes.anthropic, AnthropicStream, body_text)
