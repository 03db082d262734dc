"""
OpenAI's images and audio: pictures, speech and transcripts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from tokenbudget_mw.tapping import shapes
from tokenbudget_mw.tapping.base import Answer, Family
from tokenbudget_mw.tapping.text import TAIL, endings, joined, strings_of
from tokenbudget_mw.values import Usage

__all__ = ["AUDIO", "IMAGES", "MediaStream"]

_ENDS = (".completed", ".done")
_WITHOUT_TEXT = ("image_", "speech.")
_MARK = b'"usage"'


class _Images(Answer):
    svg_usage: Any = None

    @property
    def others(self) -> tuple[Usage, ...]:
        """
        What the model used that wrote a vector image.
        """
        return shapes.authored(self.svg_usage)


class _Event(msgspec.Struct, gc=False):
    type: Any = None
    usage: Any = None
    error: Any = None


class _Delta(msgspec.Struct, gc=False):
    type: Any = None
    delta: Any = None


class _Body(msgspec.Struct, gc=False):
    text: Any = None


_images = msgspec.json.Decoder(_Images)
_event = msgspec.json.Decoder(_Event)
_delta = msgspec.json.Decoder(_Delta)
_body = msgspec.json.Decoder(_Body)


class MediaStream:
    """
    A stream that ends in ``image_generation.completed``, ``image_edit.completed``, ``transcript.text.done`` or
    ``speech.audio.done``, with the usage in it, behind a picture of megabytes where there is one.

    What has passed of a picture or of speech is no text: without figures there is nothing to count, and the usage's source
    is ``none``.
    """

    __slots__ = ("_done", "_failed", "_has_text", "_usage", "settled")

    def __init__(self) -> None:
        self.settled = False
        self._usage: Usage | None = None
        self._done = False
        self._failed = False
        self._has_text = True

    def note(self, event: bytes) -> None:
        """
        Take the figures of *event*.
        """
        found = _read(event)
        if found is None:
            return
        kind = found.type if isinstance(found.type, str) else ""
        self._has_text = self._has_text and not kind.startswith(_WITHOUT_TEXT)
        self._done = self._done or kind.endswith(_ENDS)
        self._failed = self._failed or kind == "error" or found.error is not None
        usage = _heard(found.usage) if isinstance(found.usage, Mapping) else None
        self._usage = usage or self._usage
        self.settled = self._done and self._usage is not None

    def text(self, event: bytes) -> str:
        """
        Return the piece of a transcript in *event*.
        """
        try:
            found = _delta.decode(event)
        except (ValueError, RecursionError):
            return ""
        return found.delta if found.type == "transcript.text.delta" and isinstance(found.delta, str) else ""

    def usage(self, counted: int) -> Usage:
        """
        Return the figures of the last event, or what was counted.
        """
        found = self._usage or Usage(
            output_tokens=counted, provider="openai", source="counted" if self._has_text else "none"
        )
        return replace(found, complete=self._done and not self._failed)


def _read(event: bytes) -> _Event | None:
    """
    Return what *event* says; of one so long that only its end was kept (a picture), the usage: it is the last one then.
    """
    try:
        return _event.decode(event)
    except (ValueError, RecursionError):
        pass
    for ending in endings(event, _MARK) if len(event) >= TAIL else ():
        try:
            found = _event.decode(ending)
        except (ValueError, RecursionError):
            continue
        found.type = "image_generation.completed"
        return found
    return None


def transcript(body: bytes) -> str:
    """
    Return the text of a transcription or a translation.
    """
    try:
        return joined((_body.decode(body).text,))
    except (ValueError, RecursionError):
        return strings_of(body, "text")


def _heard(fields: Mapping[str, object]) -> Usage | None:
    """
    Read a transcription's usage; Mistral's is that of a chat.
    """
    return shapes.openai_responses(fields) or shapes.openai(fields)


def _no_text(_: bytes) -> str:
    return ""


IMAGES = Family(
    "openai", shapes.openai_responses, MediaStream, _no_text, _images, mark=_MARK, has_text=False, is_worded=False
)
AUDIO = Family("openai", _heard, MediaStream, transcript, mark=_MARK, is_plain=True)
