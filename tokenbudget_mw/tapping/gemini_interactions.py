"""
Google's Gemini: interactions.
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

__all__ = ["INTERACTIONS", "InteractionStream"]

_MARK = b'"usage"'
_UNFINISHED = ("queued", "in_progress", "failed", "cancelled")


class _Answer(Answer):
    status: Any = None
    agent: Any = None

    def __post_init__(self) -> None:
        self.model = self.model or self.agent  # which is priced by its name, if at all

    @property
    def is_complete(self) -> bool:
        """
        Whether it has been answered: one that is to be fetched later (``background``) has not.
        """
        return self.error is None and self.status not in _UNFINISHED


class _Metadata(msgspec.Struct, gc=False):
    total_usage: Any = None


class _Event(msgspec.Struct, gc=False):
    event_type: Any = None
    interaction: _Answer | None = None
    usage: Any = None
    metadata: _Metadata | None = None

    @property
    def figures(self) -> object:
        """
        The usage until then, wherever it stands.
        """
        if self.interaction is not None and self.interaction.usage is not None:
            return self.interaction.usage
        return self.usage if self.metadata is None else self.metadata.total_usage


class _Part(msgspec.Struct, gc=False):
    text: Any = None


class _Step(msgspec.Struct, gc=False):
    content: _Part | list[_Part] | None = None
    summary: list[_Part] | None = None
    text: Any = None
    name: Any = None
    arguments: msgspec.Raw = msgspec.Raw(b"")


class _Texts(msgspec.Struct, gc=False):
    event_type: Any = None
    delta: _Step | None = None
    step: _Step | None = None
    steps: list[_Step] | None = None


_answer = msgspec.json.Decoder(_Answer)
_event = msgspec.json.Decoder(_Event)
_texts = msgspec.json.Decoder(_Texts)
_string = msgspec.json.Decoder(str)


class InteractionStream:
    """
    A stream of steps, from ``interaction.created`` to ``interaction.completed``, which has the usage; events before may have
    the usage until then.
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
        self._failed = self._failed or found.event_type == "error"
        figures = found.figures
        usage = shapes.interaction(figures) if isinstance(figures, Mapping) else None
        self._usage = usage or self._usage
        if found.interaction is not None:
            self._take(found.interaction)
        self.settled = self._done and self._usage is not None

    def text(self, event: bytes) -> str:
        """
        Return the piece of text, of a thought or of a function's call in *event*.
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
        complete = self._done and not self._failed
        return replace(found, model=self.model, service_tier=self.service_tier, complete=complete)

    def _take(self, interaction: _Answer) -> None:
        if isinstance(interaction.model, str) and interaction.model:
            self.model = interaction.model
        if isinstance(interaction.service_tier, str):
            self.service_tier = interaction.service_tier
        self._failed = self._failed or interaction.status in ("failed", "cancelled")
        self._done = self._done or interaction.status not in (None, *_UNFINISHED)


def _read(event: bytes) -> _Event | None:
    """
    Return what *event* says; of one so long that only its end was kept (its steps have an image), the usage: it is the last.
    """
    try:
        return _event.decode(event)
    except (ValueError, RecursionError):
        pass
    for ending in endings(event, _MARK) if len(event) >= TAIL else ():
        try:
            found = _answer.decode(ending)
        except (ValueError, RecursionError):
            continue
        found.status = found.status or "completed"
        return _Event("interaction.completed", found)
    return None


def body_text(body: bytes) -> str:
    """
    Return the output text of an event or a body: text, thoughts, and what functions were called with.
    """
    try:
        found = _texts.decode(body)
    except (ValueError, RecursionError):
        return strings_of(body, "text", "arguments")
    if found.event_type is None:
        steps = found.steps or ()
    else:  # the last event has all steps once more
        steps = [step for step in (found.delta, found.step) if step is not None]
    return "".join(joined(_pieces(step)) for step in steps)


def _pieces(step: _Step) -> Iterator[object]:
    content = step.content if isinstance(step.content, list) else [step.content]
    for part in (*content, *(step.summary or ())):
        if part is not None:
            yield part.text
    yield from (step.text, step.name, _arguments_of(step))


def _arguments_of(step: _Step) -> str:
    """
    Return a function's arguments: pieces of JSON as strings in a stream, JSON in a body.
    """
    try:
        return _string.decode(step.arguments)
    except ValueError:
        return bytes(step.arguments).decode(errors="replace")


INTERACTIONS = Family("google", shapes.interaction, InteractionStream, body_text, _answer, _MARK)
