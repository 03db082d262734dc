"""
Whether audio may be among what a request sends, or asks for: where it costs more than text, more is held for it.
"""

from __future__ import annotations

from tokenbudget_mw.counting.payloads.forms import is_form

__all__ = ["is_spoken"]

MAX_BYTES = 65_536
"""Bytes of a body that are looked at; what is longer may be spoken."""

_WORDS = (b"audio", b"video/", b"fileuri", b"file_uri", b"\\u004", b"\\u005", b"\\u006", b"\\u007")
"""Parts and modalities of OpenAI and Gemini, and kinds of files; a video has sound. Letters that need no escape hide one of them."""


def is_spoken(body: bytes) -> bool:
    """
    Tell whether *body*, of any format, may hold audio or ask for it. A text that speaks of audio may seem to.

    >>> is_spoken(b'{"modalities": ["text", "audio"]}'), is_spoken(b'{"messages": []}')
    (True, False)
    """
    lowered = body[:MAX_BYTES].lower()
    return len(body) > MAX_BYTES or is_form(body) or any(word in lowered for word in _WORDS)
