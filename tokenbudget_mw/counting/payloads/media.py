"""
Tokens of what is not text, by the providers' published rules; never by tokenising base64.

Sources: OpenAI's guide to images and vision (tiles of 512 pixels, patches of 32), Anthropic's guide to vision (width x
height / 750), OpenAI's guide to audio (10 tokens a second of input).
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import struct
from dataclasses import dataclass

__all__ = ["AUDIO_TOKENS_A_SECOND", "FILE_TOKENS", "anthropic_image", "audio", "audio_of", "image_size", "openai_image"]

FILE_TOKENS = (3_000, 30_000)
"""A file or document of unknown content: about two pages, hardly more than twenty."""

AUDIO_TOKENS_A_SECOND = 10
AUDIO_BYTES_A_SECOND = (16_000, 1_000)
"""128 kbit/s is usual, 8 kbit/s the least that speech takes."""

ANTHROPIC_IMAGE = (1_600, 4_800)
PIXELS_A_TOKEN = 750

_HEAD_CHARS = 64


@dataclass(frozen=True, slots=True)
class _Tiles:
    """
    Tokens of an image: *base*, and *tile* for each square of 512 pixels.
    """

    base: int
    tile: int

    def low(self) -> tuple[int, int]:
        return self.base, self.base

    def unknown(self) -> tuple[int, int]:
        # 1024 x 1024 has 4 tiles; the most that fits 2048 x 768 has 8
        return self.base + 4 * self.tile, self.base + 8 * self.tile

    def sized(self, width: int, height: int) -> int:
        scale = min(1.0, 2048 / max(width, height))
        scale *= min(1.0, 768 / (min(width, height) * scale))
        return self.base + self.tile * math.ceil(width * scale / 512) * math.ceil(height * scale / 512)


@dataclass(frozen=True, slots=True)
class _Patches:
    """
    Tokens of an image: *factor* for each square of 32 pixels, of which there are at most 1,536.
    """

    factor: float

    def low(self) -> tuple[int, int]:
        return self.unknown()

    def unknown(self) -> tuple[int, int]:
        return math.ceil(1_024 * self.factor), math.ceil(1_536 * self.factor)

    def sized(self, width: int, height: int) -> int:
        return math.ceil(min(1_536, math.ceil(width / 32) * math.ceil(height / 32)) * self.factor)


_OPENAI = (
    (re.compile(r"^gpt-4o-mini"), _Tiles(2_833, 5_667)),
    (re.compile(r"^(gpt-4\.1-mini|gpt-5-mini)"), _Patches(1.62)),
    (re.compile(r"^(gpt-4\.1-nano|gpt-5-nano)"), _Patches(2.46)),
    (re.compile(r"^o4-mini"), _Patches(1.72)),
    (re.compile(r"^o[13]"), _Tiles(75, 150)),
    (re.compile(r"^gpt-5"), _Tiles(70, 140)),
    (re.compile(""), _Tiles(85, 170)),
)


def openai_image(model: str, url: object, detail: object) -> tuple[int, int]:
    """
    Return estimate and upper bound of an image's tokens.

    Args:
        model: Normalised model name.

        url: Where the image is; of a ``data:`` URL the size is read.

        detail: ``low``, ``high``, ``auto`` or None.
    """
    rule = next(rule for pattern, rule in _OPENAI if pattern.search(model))
    if detail == "low":
        return rule.low()
    size = image_size(url.partition(",")[2]) if isinstance(url, str) and url.startswith("data:") else None
    if size is None:
        return rule.unknown()
    tokens = rule.sized(*size)
    return tokens, tokens


def anthropic_image(data: object) -> tuple[int, int]:
    """
    Return estimate and upper bound of an image's tokens; *data* is its base64, if the request has it.
    """
    size = image_size(data) if isinstance(data, str) else None
    if size is None:
        return ANTHROPIC_IMAGE
    tokens = math.ceil(size[0] * size[1] / PIXELS_A_TOKEN)
    return min(tokens, ANTHROPIC_IMAGE[0]), min(tokens, ANTHROPIC_IMAGE[1])


def audio(data: object) -> tuple[int, int]:
    """
    Return estimate and upper bound of an audio clip's tokens, from the length of its base64 *data*.
    """
    return audio_of(len(data) * 3 // 4 if isinstance(data, str) else 0)


def audio_of(size: int) -> tuple[int, int]:
    """
    Return estimate and upper bound of an audio clip's tokens, from its *size* in bytes.
    """
    estimate, upper = (AUDIO_TOKENS_A_SECOND * math.ceil(size / rate) for rate in AUDIO_BYTES_A_SECOND)
    return estimate, upper


def image_size(data: str) -> tuple[int, int] | None:
    """
    Return width and height in pixels of a PNG or GIF, read from the head of its base64 *data*; None for anything else.

    >>> image_size("iVBORw0KGgoAAAANSUhEUgAABAAAAAQACAYAAAB/HSuDAAAA")
    (1024, 1024)
    """
    try:
        head = base64.b64decode(data[:_HEAD_CHARS])
    except (binascii.Error, ValueError):
        return None
    if head.startswith(b"\x89PNG\r\n\x1a\n") and len(head) >= 24:
        width, height = struct.unpack_from(">II", head, 16)
    elif head.startswith((b"GIF87a", b"GIF89a")) and len(head) >= 10:
        width, height = struct.unpack_from("<HH", head, 6)
    else:
        return None
    return (width, height) if 0 < width <= 2**16 and 0 < height <= 2**16 else None
