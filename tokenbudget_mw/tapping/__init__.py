"""
Usage of a response, while it passes.
"""

from __future__ import annotations

from collections.abc import Callable

from tokenbudget_mw.tapping import (
    anthropic,
    bedrock,
    cohere,
    gemini,
    gemini_interactions,
    ollama,
    openai,
    openai_media,
    openai_responses,
)
from tokenbudget_mw.tapping.base import CountText, Family, Reader, Tap
from tokenbudget_mw.tapping.decoding import DecodingTap, open_decoder
from tokenbudget_mw.tapping.detection import DetectingTap, PlainTap, format_of
from tokenbudget_mw.tapping.eventstream import FrameReader
from tokenbudget_mw.tapping.ndjson import LineReader
from tokenbudget_mw.tapping.responses import read_response
from tokenbudget_mw.tapping.sniffing import SniffingTap
from tokenbudget_mw.tapping.sse import EventReader
from tokenbudget_mw.tapping.stream import StreamTap

__all__ = ["AUTO", "FAMILIES", "CountText", "Tap", "open_tap", "read_response"]

FAMILIES: dict[str, Family] = {
    "openai.chat": openai.CHAT,
    "openai.completions": openai.COMPLETIONS,
    "openai.embeddings": openai.EMBEDDINGS,
    "openai.responses": openai_responses.RESPONSES,
    "openai.images": openai_media.IMAGES,
    "openai.audio": openai_media.AUDIO,
    "anthropic.messages": anthropic.MESSAGES,
    "bedrock.converse": bedrock.CONVERSE,
    "cohere": cohere.COHERE,
    "gemini": gemini.GEMINI,
    "gemini.interactions": gemini_interactions.INTERACTIONS,
    "ollama": ollama.OLLAMA,
}
"""Format of a route -> how its responses read."""

AUTO = "auto"
"""The format that is detected, by the response itself."""

READERS: dict[str, Callable[[], Reader]] = {
    "text/event-stream": EventReader,
    "application/x-ndjson": LineReader,
    "application/jsonl": LineReader,
    "application/stream+json": LineReader,
    "application/vnd.amazon.eventstream": FrameReader,
}
"""Content type -> what cuts such a stream; of all others the first byte tells."""

_MEDIA = ("audio/", "image/", "video/")
"""Beginnings of content types that have neither text nor figures."""


def _family_of(head: bytes) -> Family | None:
    name = format_of(head)
    return None if name is None else FAMILIES[name]


def open_tap(
    format: str | None,  # noqa: A002 - the settings' own word
    *,
    content_type: str,
    content_encoding: str = "",
    count_text: CountText | None = None,
) -> Tap | None:
    """
    Return a tap for one response, or None where there is nothing to read.

    Args:
        format: The route's format, a name in `FAMILIES` or `AUTO`; None where the handler reports its usage. A response that
            does not speak it is read as what it speaks, and taken for text if no family knows it.

        content_type: The response's ``Content-Type``. Where it names no kind of stream, or the first byte denies it, the
            first byte tells.

        content_encoding: The response's ``Content-Encoding``; of one that cannot be undone nothing is read.

        count_text: Tokens of a piece of text, for responses without usage figures; without it, four bytes are a token.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind.startswith(_MEDIA):
        return None
    reader = READERS.get(kind)

    def open_family(family: Family) -> Tap:
        if family.is_plain and reader is None and kind.startswith("text/"):
            return PlainTap(count_text)
        if reader is None:
            return SniffingTap(family, count_text, _family_of)
        return StreamTap(family, count_text, reader(), _family_of)

    if format == AUTO:
        tap: Tap = DetectingTap(FAMILIES, open_family, count_text)
    elif format in FAMILIES:
        tap = open_family(FAMILIES[format])
    else:
        return None
    coding = content_encoding.strip().lower()
    if coding in {"", "identity"}:
        return tap
    decoder = open_decoder(coding)
    return None if decoder is None else DecodingTap(decoder, tap)
