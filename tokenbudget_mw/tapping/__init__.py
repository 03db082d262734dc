"""
Usage of a response, while it passes.
"""

from __future__ import annotations

from tokenbudget_mw.tapping import anthropic, openai
from tokenbudget_mw.tapping.base import CountText, Family, Tap
from tokenbudget_mw.tapping.decoding import DecodingTap, open_decoder
from tokenbudget_mw.tapping.responses import read_response
from tokenbudget_mw.tapping.sniffing import SniffingTap
from tokenbudget_mw.tapping.stream import StreamTap
from tokenbudget_mw.tapping.unary import UnaryTap

__all__ = ["FAMILIES", "CountText", "Tap", "open_tap", "read_response"]

FAMILIES: dict[str, Family] = {
    "openai.chat": openai.CHAT,
    "openai.completions": openai.COMPLETIONS,
    "openai.embeddings": openai.EMBEDDINGS,
    "anthropic.messages": anthropic.MESSAGES,
}
"""Format of a route -> how its responses read."""


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
        format: The route's format, a name in `FAMILIES`; None where the handler reports its usage.

        content_type: The response's ``Content-Type``. Event streams and JSON are told apart by it, or, where it names
            neither, by the first byte.

        content_encoding: The response's ``Content-Encoding``; of one that cannot be undone nothing is read.

        count_text: Tokens of a piece of text, for responses without usage figures; without it, four bytes are a token.
    """
    family = None if format is None else FAMILIES.get(format)
    if family is None:
        return None
    tap = _reader(family, content_type.lower(), count_text)
    coding = content_encoding.strip().lower()
    if coding in {"", "identity"}:
        return tap
    decoder = open_decoder(coding)
    return None if decoder is None else DecodingTap(decoder, tap)


def _reader(family: Family, content_type: str, count_text: CountText | None) -> Tap:
    if "event-stream" in content_type:
        return StreamTap(family, count_text)
    if "json" in content_type:
        return UnaryTap(family, count_text)
    return SniffingTap(family, count_text)
