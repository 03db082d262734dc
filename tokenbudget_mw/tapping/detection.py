"""
The tap of a response whose format no route names: known by the first key that only one family has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from tokenbudget_mw.tapping.base import CountText, Family, Tap
from tokenbudget_mw.tapping.text import TextMeter
from tokenbudget_mw.values import Usage

__all__ = ["PEEK", "DetectingTap", "PlainTap", "format_of"]

PEEK = 4096
"""Bytes of a response that are looked at: its first keys are among them."""

_SIGNS: tuple[tuple[str, bytes], ...] = (
    ("openai.chat", rb'"object"\s*:\s*"chat\.completion|"choices"\s*:|"error"\s*:'),
    ("openai.completions", rb'"object"\s*:\s*"text_completion'),
    ("openai.embeddings", rb'"object"\s*:\s*"(?:list|embedding)"'),
    ("openai.images", rb'"type"\s*:\s*"image_(?:generation|edit)\.|"(?:b64_json|revised_prompt)"\s*:'),
    ("openai.audio", rb'"type"\s*:\s*"(?:transcript\.text|speech\.audio)\.|^\s*\{\s*"text"\s*:'),
    ("openai.responses", rb'"object"\s*:\s*"response(?:\.compaction)?"|"type"\s*:\s*"response\.'),
    ("anthropic.messages", rb'"type"\s*:\s*"message(?:_\w+)?"|:event-type\x07\x00\x05chunk'),
    ("gemini", rb'"(?:candidates|usageMetadata|promptFeedback)"\s*:'),
    (
        "gemini.interactions",
        rb'"event_type"\s*:\s*"(?:interaction|step|content)\.|"object"\s*:\s*"interaction"|"total_(?:input_)?tokens"\s*:\s*\d+\s*,\s*"total_',
    ),
    ("bedrock.converse", rb'"output"\s*:\s*\{|messageStart|"stopReason"\s*:'),
    (
        "cohere",
        rb'"type"\s*:\s*"message-start"|"event_type"\s*:|"billed_units"\s*:|"finish_reason"\s*:\s*"[A-Z]|"embeddings"\s*:\s*\{|"message"\s*:\s*\{',
    ),
    ("ollama", rb'"created_at"\s*:\s*"|"done"\s*:|"embeddings"\s*:\s*\['),
)
"""Format -> what only it says; the sign that comes first holds."""

_SIGN = re.compile(b"|".join(b"(" + pattern + b")" for _, pattern in _SIGNS))


def format_of(head: bytes) -> str | None:
    """
    Return the format of the response that begins with *head*; None where no family speaks so.

    Texts cannot mislead: a quote within a string is escaped.

    >>> format_of(b'{"id": "x", "object": "chat.completion", "choices": [')
    'openai.chat'
    """
    found = _SIGN.search(head)
    return None if found is None or found.lastindex is None else _SIGNS[found.lastindex - 1][0]


class DetectingTap:
    """
    Holds the first bytes until they tell the format, then reads like that format's tap.

    Of a response that no family knows, all text that passed is output.

    Args:
        families: Format -> family.

        open_tap: Opens the tap of a family.

        count_text: Counts the text of a response that no family knows.
    """

    __slots__ = ("_count_text", "_families", "_held", "_open", "_tap")

    def __init__(
        self, families: Mapping[str, Family], open_tap: Callable[[Family], Tap], count_text: CountText | None
    ) -> None:
        self._families = families
        self._open = open_tap
        self._count_text = count_text
        self._held = bytearray()
        self._tap: Tap | None = None

    def feed(self, chunk: bytes) -> None:
        """
        Take the next piece of the body.
        """
        if self._tap is not None:
            self._tap.feed(chunk)
            return
        self._held += chunk
        if len(self._held) >= PEEK:
            self._decide()

    def usage(self) -> Usage:
        """
        Return what was read.
        """
        return (self._tap or self._decide()).usage()

    def _decide(self) -> Tap:
        head = bytes(self._held)
        name = format_of(head[:PEEK])
        self._tap = PlainTap(self._count_text) if name is None else self._open(self._families[name])
        self._tap.feed(head)
        self._held.clear()
        return self._tap


class PlainTap:
    """
    Takes a whole response for text.
    """

    __slots__ = ("_rest", "_text")

    def __init__(self, count_text: CountText | None) -> None:
        self._text = TextMeter(count_text)
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        """
        Take the next piece of the text, whole words where it has any.
        """
        head, space, rest = (self._rest + chunk).rpartition(b" ")
        if len(rest) > PEEK:
            head, space, rest = head + space + rest, b"", b""
        self._text.add((head + space).decode(errors="replace"))
        self._rest = rest

    def usage(self) -> Usage:
        """
        Return the tokens of the text; its end cannot be told from the end of the response.
        """
        self._text.add(self._rest.decode(errors="replace"))
        self._rest = b""
        return Usage(output_tokens=self._text.tokens(), source="counted")
