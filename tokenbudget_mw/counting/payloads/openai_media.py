"""
Bodies of OpenAI's images and audio: JSON, or forms with files in them.

The tokens of a picture are those of OpenAI's guide to image generation, by size and quality; speech and what is spoken are
approximations, by characters and by the size of the file.
"""

from __future__ import annotations

import math
import re
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from tokenbudget_mw.counting.payloads.fields import Request
from tokenbudget_mw.counting.payloads.forms import is_form, plain_form
from tokenbudget_mw.counting.payloads.media import audio_of
from tokenbudget_mw.values import TokenCount

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenbudget_mw.counting.meter import Meter
    from tokenbudget_mw.counting.payloads.forms import Form

__all__ = ["AUDIO", "IMAGES", "add_media", "audio_by_size", "images_by_size"]

PICTURE = {"low": 272, "medium": 1_056, "high": 4_160}
"""Quality -> output tokens of a picture of `SQUARE` pixels; another has as many more as it has pixels."""

SQUARE, OBLONG = 1_024 * 1_024, 1_024 * 1_536
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")

PICTURE_GIVEN = (1_600, 6_600)
"""Input tokens of a picture to be edited: usual, and at high fidelity."""

PICTURES_GIVEN_MOST = 16
SPEECH_TOKENS_A_CHARACTER = 2
"""20 tokens a second, at 15 characters a second, and half as many again."""


class MediaRequest(Request):
    """
    What all of these bodies have.
    """

    prompt: str | None = None
    input: str | None = None
    instructions: str | None = None
    size: Any = None
    quality: Any = None
    stream_format: Any = None
    images: Any = None
    files: Any = ()

    @property
    def is_stream(self) -> bool:
        """
        Whether it asks for a stream; a form says so in letters.
        """
        return self.stream is True or self.stream in ("true", "1") or self.stream_format == "sse"


class ImageRequest(MediaRequest):
    """
    Body of ``POST /v1/images/generations`` and ``/v1/images/edits``.
    """

    def sizes(self) -> tuple[int | None, ...]:
        """
        Return the output tokens of one picture; those of DALL-E are not billed by tokens.
        """
        if (self.model or "").startswith("dall-e"):
            return (0,)
        found = _SIZE.fullmatch(self.size) if isinstance(self.size, str) else None
        pixels = OBLONG if found is None else max(SQUARE, int(found[1]) * int(found[2]))
        return (math.ceil(PICTURE.get(str(self.quality), PICTURE["high"]) * pixels / SQUARE),)


class AudioRequest(MediaRequest):
    """
    Body of ``POST /v1/audio/speech``, ``/v1/audio/transcriptions`` and ``/v1/audio/translations``.
    """

    def sizes(self) -> tuple[int | None, ...]:
        """
        Return the most tokens of the speech that the text makes; None for a transcript.
        """
        return (None if self.input is None else SPEECH_TOKENS_A_CHARACTER * len(self.input) + 64,)


class _Decoder:
    """
    Reads JSON and forms.
    """

    def __init__(self, kind: type[MediaRequest]) -> None:
        self._kind = kind
        self._json = msgspec.json.Decoder(kind)

    def decode(self, buf: bytes, /) -> MediaRequest:
        if not is_form(buf):
            request = self._json.decode(buf)
            request.files = ()
            return request
        return self._of(plain_form(buf, self._kind.__struct_fields__))

    def _of(self, form: Form) -> MediaRequest:
        request = msgspec.convert(form.fields, self._kind, strict=False)
        request.files = form.files
        return request

    def reading(self, form: Form) -> _Read:
        """
        Return a decoder that knows its body already: *form*.
        """
        return _Read(partial(self._of, form))


class _Read:
    """
    Makes a request of a form that has been read, whatever the body.
    """

    def __init__(self, make: Callable[[], MediaRequest]) -> None:
        self._make = make

    def decode(self, buf: bytes, /) -> MediaRequest:
        del buf
        return self._make()


IMAGES = _Decoder(ImageRequest)
AUDIO = _Decoder(AudioRequest)


def add_media(request: MediaRequest, meter: Meter) -> None:
    """
    Add a request's texts and files to *meter*.
    """
    for text in (request.prompt, request.input, request.instructions):
        if text:
            meter.text(text)
    for name, size in request.files:
        meter.step()
        meter.guess(*(PICTURE_GIVEN if name.startswith(("image", "mask", "markup")) else audio_of(size)))
    for _ in request.images if isinstance(request.images, list) else ():
        meter.step()
        meter.guess(*PICTURE_GIVEN)


def images_by_size(size: int) -> TokenCount:
    """
    Bound the pictures of a form that is too long to read.
    """
    del size
    return TokenCount(PICTURE_GIVEN[0], PICTURES_GIVEN_MOST * PICTURE_GIVEN[1], method="bytes")


def audio_by_size(size: int) -> TokenCount:
    """
    Bound the audio of a form that is too long to read, of *size* bytes.
    """
    return TokenCount(*audio_of(size), method="bytes")
