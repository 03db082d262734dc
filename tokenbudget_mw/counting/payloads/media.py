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
from dataclasses import dataclass, replace

__all__ = [
    "ANTHROPIC_IMAGE",
    "AUDIO_TOKENS_A_SECOND",
    "FILE_TOKENS",
    "VIDEO_TOKENS",
    "anthropic_image",
    "audio",
    "audio_of",
    "image_size",
    "openai_image",
]

FILE_TOKENS = (3_000, 30_000)
"""A file or document of unknown content: about two pages, hardly more than twenty."""

AUDIO_TOKENS_A_SECOND = 10
AUDIO_BYTES_A_SECOND = (16_000, 1_000)
"""128 kbit/s is usual, 8 kbit/s the least that speech takes."""

ANTHROPIC_IMAGE = (1_600, 4_800)
PIXELS_A_TOKEN = 750
OTHER_LEAST, OTHER_MOST = 1_120, 16_384
"""What Gemini takes for any image; the most that a model of Qwen's takes for one."""

VIDEO_TOKENS = (10_000, 200_000)
"""A video of unknown length: some 40 seconds, and a quarter of an hour."""

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

    def sized(self, width: int, height: int) -> tuple[int, int]:
        scale = min(1.0, 2048 / max(width, height))
        scale *= min(1.0, 768 / (min(width, height) * scale))
        tokens = self.base + self.tile * math.ceil(width * scale / 512) * math.ceil(height * scale / 512)
        return tokens, tokens


@dataclass(frozen=True, slots=True)
class _Patches:
    """
    Tokens of an image: *factor* for each square of 32 pixels, of which there are at most *most*; as many as it has where it
    *is_kept* at its size.
    """

    factor: float
    most: int = 1_536
    is_kept: bool = False

    def low(self) -> tuple[int, int]:
        return math.ceil(1_024 * self.factor), math.ceil(1_536 * self.factor)

    def unknown(self) -> tuple[int, int]:
        return math.ceil(1_024 * self.factor), math.ceil(self.most * self.factor)

    def sized(self, width: int, height: int) -> tuple[int, int]:
        patches = math.ceil(width / 32) * math.ceil(height / 32)
        tokens = math.ceil((patches if self.is_kept else min(self.most, patches)) * self.factor)
        return tokens, tokens


class _Others:
    """
    Tokens of an image for models that are not OpenAI's: each has a rule of its own, and few know of details.
    """

    def low(self) -> tuple[int, int]:
        return ANTHROPIC_IMAGE

    def unknown(self) -> tuple[int, int]:
        return ANTHROPIC_IMAGE

    def sized(self, width: int, height: int) -> tuple[int, int]:
        tokens = min(OTHER_MOST, math.ceil(width * height / PIXELS_A_TOKEN))
        return tokens, max(tokens, OTHER_LEAST)


class _Claude(_Others):
    """
    The same for Anthropic's, of which every image is made small enough.
    """

    def sized(self, width: int, height: int) -> tuple[int, int]:
        return _claude(width, height)


_OPENAI: tuple[tuple[re.Pattern[str], _Tiles | _Patches | _Others], ...] = (
    (re.compile(r"^gpt-4o-mini"), _Tiles(2_833, 5_667)),
    (re.compile(r"^(gpt-4\.1|gpt-5(\.[1-3])?)(-codex)?-mini"), _Patches(1.62)),
    (re.compile(r"^(gpt-4\.1|gpt-5(\.[1-3])?)-nano"), _Patches(2.46)),
    (re.compile(r"^(o4|codex)-mini"), _Patches(1.72)),
    (re.compile(r"^o[13]"), _Tiles(75, 150)),
    (re.compile(r"^gpt-(5\.[4-9]|[6-9]|\d\d).*-mini"), _Patches(1.62)),
    (re.compile(r"^gpt-(5\.[4-9]|[6-9]|\d\d).*-nano"), _Patches(2.46)),
    (re.compile(r"^gpt-5\.[23]"), _Patches(1.2)),
    (re.compile(r"^gpt-5\.[45]"), _Patches(1.2, 12_000)),
    (re.compile(r"^gpt-(5\.[6-9]|[6-9]|\d\d)"), _Patches(1.2, 12_000, is_kept=True)),
    (re.compile(r"^gpt-5"), _Tiles(70, 140)),
    (re.compile(r"^(gpt|chatgpt|computer-use)|^$"), _Tiles(85, 170)),
    (re.compile(r"^claude"), _Claude()),
    (re.compile(""), _Others()),
)


def openai_image(model: str, url: object, detail: object) -> tuple[int, int]:
    """
    Return estimate and upper bound of an image's tokens.

    Args:
        model: Normalised model name.

        url: Where the image is; of a ``data:`` URL the size is read.

        detail: ``low``, ``high``, ``auto``, ``original`` or None.
    """
    rule = next(rule for pattern, rule in _OPENAI if pattern.search(model))
    if detail == "low":
        return rule.low()
    size = image_size(url.partition(",")[2]) if isinstance(url, str) and url.startswith("data:") else None
    if size is None:
        return rule.unknown()
    if detail == "high" and isinstance(rule, _Patches):
        rule = replace(rule, is_kept=False)
    return rule.sized(*size)


def anthropic_image(data: object) -> tuple[int, int]:
    """
    Return estimate and upper bound of an image's tokens; *data* is its base64, if the request has it.
    """
    size = image_size(data) if isinstance(data, str) else None
    return ANTHROPIC_IMAGE if size is None else _claude(*size)


def _claude(width: int, height: int) -> tuple[int, int]:
    tokens = math.ceil(width * height / PIXELS_A_TOKEN)
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
