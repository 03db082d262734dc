"""
OpenAI's Responses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import msgspec
from msgspec.structs import replace

from tokenbudget_mw.tapping import shapes
from tokenbudget_mw.tapping.base import Answer, Family
from tokenbudget_mw.tapping.text import TAIL, inner_endings, joined, strings_of
from tokenbudget_mw.values import Usage

__all__ = ["RESPONSES", "ResponsesStream"]

_DONE = ("response.completed", "response.incomplete")
_FAILED = ("response.failed", "response.cancelled", "error")
_UNFINISHED = ("queued", "in_progress", "failed", "cancelled")


_EARLIER = b'"tool_choice"'
"""A key before which an answer has its output, and behind which it has its tools and all figures."""


class _Answer(Answer):
    status: Any = None
    tools: Any = None
    tool_usage: Any = None
    output: msgspec.Raw = msgspec.Raw(b"")

    @property
    def is_complete(self) -> bool:
        """
        Whether it has been answered: one that is to be fetched later (``background``) has not.
        """
        return self.error is None and self.status not in _UNFINISHED

    @property
    def others(self) -> tuple[Usage, ...]:
        """
        What the models used that drew, and that wrote what was drawn.
        """
        drawn = shapes.drawn(self.tool_usage, self.tools)
        # nothing is written that was not drawn before
        return drawn + tuple(chain.from_iterable(map(shapes.authored, _svg_usages(self.output)))) if drawn else ()


class _Event(msgspec.Struct, gc=False):
    type: Any = None
    response: _Answer | None = None


class _Part(msgspec.Struct, gc=False):
    text: Any = None
    refusal: Any = None


class _Item(msgspec.Struct, gc=False):
    content: list[_Part] | None = None
    summary: list[_Part] | None = None
    name: Any = None
    arguments: Any = None
    input: Any = None
    code: Any = None


class _Delta(msgspec.Struct, gc=False):
    type: Any = None
    delta: Any = None
    item: _Item | None = None


class _Body(msgspec.Struct, gc=False):
    output: list[_Item] | None = None


class _Drawing(msgspec.Struct, gc=False):
    svg_usage: Any = None


_answer = msgspec.json.Decoder(_Answer)
_event = msgspec.json.Decoder(_Event)
_delta = msgspec.json.Decoder(_Delta)
_body = msgspec.json.Decoder(_Body)
_drawings = msgspec.json.Decoder(list[_Drawing])


class ResponsesStream:
    """
    A stream that ends in ``response.completed``, ``.incomplete`` or ``.failed``, with the whole response in it.

    There is no ``[DONE]``. Each text comes piecewise in events that end in ``.delta`` and whole in those that end in
    ``.done``; only the pieces count.
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
        found = _read(event)
        if found is None:
            return
        self._done = self._done or found.type in _DONE
        self._failed = self._failed or found.type in _FAILED
        if found.response is not None:
            self._take(found.response)

    def text(self, event: bytes) -> str:
        """
        Return the piece of text, of a refusal, of reasoning or of a tool's input in *event*, or the name of a tool.
        """
        try:
            found = _delta.decode(event)
        except (ValueError, RecursionError):
            return strings_of(event, "delta")
        if found.type == "response.output_item.added" and found.item is not None:
            return joined((found.item.name,))
        is_audio = found.type == "response.audio.delta"  # base64
        return found.delta if isinstance(found.delta, str) and not is_audio else ""

    def usage(self, counted: int) -> Usage:
        """
        Return the usage of the whole response, or what was counted.
        """
        found = self._usage or Usage(output_tokens=counted, provider="openai", source="counted")
        complete = self._done and not self._failed
        return replace(found, model=self.model, service_tier=self.service_tier, complete=complete)

    def _take(self, response: _Answer) -> None:
        if isinstance(response.model, str) and response.model:
            self.model = response.model
        if isinstance(response.service_tier, str):
            self.service_tier = response.service_tier
        usage = shapes.openai_responses(response.usage) if isinstance(response.usage, Mapping) else None
        if usage is not None:
            self._usage = replace(usage, others=response.others)
            self.settled = True


def _svg_usages(output: msgspec.Raw) -> list[object]:
    try:
        return [item.svg_usage for item in _drawings.decode(output)]
    except (ValueError, RecursionError):
        return []


def _read(event: bytes) -> _Event | None:
    """
    Return what *event* says; of one so long that only its end was kept (an image), what stands there: it is the last one then.
    """
    try:
        return _event.decode(event)
    except (ValueError, RecursionError):
        pass
    if len(event) < TAIL:
        return None
    for found in chain(inner_endings(event, _EARLIER), inner_endings(event, b'"usage"')):
        if isinstance(found.get("usage"), dict):
            found.pop("output", None)  # which is kept as it came, and did not come so here
            return _Event(_DONE[0], msgspec.convert(found, _Answer))
    return None


def body_text(body: bytes) -> str:
    """
    Return the output text of a response: text, refusals, reasoning, and what tools were called with.
    """
    try:
        items = _body.decode(body).output or ()
    except (ValueError, RecursionError):
        return strings_of(body, "text", "refusal", "arguments", "input", "code")
    return "".join(joined(_texts(item)) for item in items)


def _texts(item: _Item) -> Iterator[object]:
    for part in (*(item.content or ()), *(item.summary or ())):
        yield part.text
        yield part.refusal
    yield from (item.name, item.arguments, item.input, item.code)


RESPONSES = Family("openai", shapes.openai_responses, ResponsesStream, body_text, answer=_answer, earlier=_EARLIER)
