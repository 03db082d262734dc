"""
Amazon Bedrock's Converse; its streams are binary (see `eventstream`), and its answers do not name the model.
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

__all__ = ["CONVERSE", "ConverseStream"]


class _Answer(Answer):
    service_tier: Any = msgspec.field(default=None, name="serviceTier")
    output: msgspec.Raw = msgspec.Raw(b"")
    message: msgspec.Raw = msgspec.Raw(b"")

    def __post_init__(self) -> None:
        tier = self.service_tier
        self.service_tier = tier.get("type") if isinstance(tier, dict) else tier

    @property
    def is_complete(self) -> bool:
        """
        Whether this is an answer: an error is a body that has a ``message`` beside nothing.
        """
        return self.error is None and bool(self.output or not self.message)


class _Event(msgspec.Struct, gc=False):
    metadata: _Answer | None = None
    error: Any = None


class _Tool(msgspec.Struct, gc=False):
    name: Any = None
    input: msgspec.Raw = msgspec.Raw(b"")


class _Reasoning(msgspec.Struct, gc=False):
    text: Any = None
    reasoningText: Any = None  # noqa: N815 - the wire's own word


class _Block(msgspec.Struct, gc=False):
    text: Any = None
    toolUse: _Tool | None = None  # noqa: N815 - the wire's own word
    reasoningContent: _Reasoning | None = None  # noqa: N815 - the wire's own word


class _Start(msgspec.Struct, gc=False):
    start: _Block | None = None


class _Delta(msgspec.Struct, gc=False):
    delta: _Block | None = None


class _Texts(msgspec.Struct, gc=False):
    contentBlockStart: _Start | None = None  # noqa: N815 - the wire's own word
    contentBlockDelta: _Delta | None = None  # noqa: N815 - the wire's own word


class _Message(msgspec.Struct, gc=False):
    content: list[_Block] | None = None


class _Output(msgspec.Struct, gc=False):
    message: _Message | None = None


class _Body(msgspec.Struct, gc=False):
    output: _Output | None = None


_answer = msgspec.json.Decoder(_Answer)
_event = msgspec.json.Decoder(_Event)
_texts = msgspec.json.Decoder(_Texts)
_body = msgspec.json.Decoder(_Body)
_string = msgspec.json.Decoder(str)


class ConverseStream:
    """
    A stream of events, each the value of its name; the last one, behind ``messageStop``, is ``metadata`` with the usage.
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
        self._failed = self._failed or found.error is not None
        if found.metadata is not None:
            self._ended = True
            self._take(found.metadata)

    def text(self, event: bytes) -> str:
        """
        Return the piece of text, of reasoning, of a tool's input in *event*, or a tool's name.
        """
        try:
            found = _texts.decode(event)
        except (ValueError, RecursionError):
            return strings_of(event, "text", "input", "name")
        block = found.contentBlockDelta.delta if found.contentBlockDelta else None
        if found.contentBlockStart is not None:
            block = found.contentBlockStart.start
        return "" if block is None else joined(_pieces(block))

    def usage(self, counted: int) -> Usage:
        """
        Return the usage of the metadata, or what was counted.
        """
        found = self._usage or Usage(output_tokens=counted, provider="aws", source="counted")
        return replace(found, complete=self._ended and not self._failed)

    def _take(self, data: _Answer) -> None:
        usage = shapes.bedrock(data.usage) if isinstance(data.usage, Mapping) else None
        if usage is not None:
            tier = data.service_tier if isinstance(data.service_tier, str) else None
            self._usage = replace(usage, service_tier=tier)
            self.settled = True


def body_text(body: bytes) -> str:
    """
    Return the output text of an answer: text, reasoning, and what tools were called with.
    """
    try:
        output = _body.decode(body).output
    except (ValueError, RecursionError):
        return strings_of(body, "text", "name")
    blocks = (output and output.message and output.message.content) or ()
    return "".join(joined(_pieces(block)) for block in blocks)


def _pieces(block: _Block) -> Iterator[object]:
    yield block.text
    if block.toolUse is not None:
        yield block.toolUse.name
        yield _input_of(block.toolUse)
    if block.reasoningContent is not None:
        inner = block.reasoningContent.reasoningText
        yield block.reasoningContent.text
        yield inner.get("text") if isinstance(inner, dict) else None


def _input_of(tool: _Tool) -> str:
    """
    Return a tool's input: pieces of JSON as strings in a stream, JSON in a body.
    """
    try:
        return _string.decode(tool.input)
    except ValueError:
        return bytes(tool.input).decode(errors="replace")


CONVERSE = Family("aws", shapes.bedrock, ConverseStream, body_text, _answer)
