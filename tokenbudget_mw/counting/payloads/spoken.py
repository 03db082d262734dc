"""
Whether audio may be among what a request sends, or asks for: where it costs more than text, more is held for it.
"""

from __future__ import annotations

import re

from tokenbudget_mw.counting.payloads.forms import is_form

__all__ = ["MAX_BYTES", "has_escapes", "hides_words", "is_spoken"]

MAX_BYTES = 65_536
"""Bytes of a body that are looked at; what is longer may be spoken."""

_ESCAPED = b"\\u00"
"""What a hidden word begins with; found twenty times as fast as the rest of it."""

_HIDDEN = re.compile(rb"\\u00(?:4[1-9a-fA-F]|5[0-9aAfF]|6[1-9a-fA-F]|7[0-9aA])")
"""A letter, or ``_``, that needs no escape: it may hide a word. The backtick is none, which .NET escapes."""

_WORDS = (b"audio", b"video/", rb"video\/", b"fileuri", b"file_uri")
"""Parts and modalities of OpenAI and Gemini, and kinds of files, in small letters; a video has sound."""


def is_spoken(body: bytes) -> bool:
    """
    Tell whether *body*, of any format, may hold audio or ask for it. A text that speaks of audio may seem to.

    >>> is_spoken(b'{"modalities": ["text", "audio"]}'), is_spoken(b'{"messages": []}')
    (True, False)
    """
    if len(body) > MAX_BYTES or is_form(body) or hides_words(body):
        return True
    plain = body.lower()
    return any(plain.rfind(word) >= 0 for word in _WORDS)


def has_escapes(body: bytes) -> bool:
    """
    Tell whether *body* has an escape that may hide a letter.
    """
    # from the end, because CPython searches for several bytes twice as fast backwards; for a single one many times
    return b"\\" in body and body.rfind(_ESCAPED) >= 0


def hides_words(body: bytes) -> bool:
    """
    Tell whether letters of *body* are escaped that need no escape.
    """
    return has_escapes(body) and _HIDDEN.search(body) is not None
