"""
Whether audio may be among what a request sends, or asks for: where it costs more than text, more is held for it.
"""

from __future__ import annotations

import re

from tokenbudget_mw.counting.payloads.forms import is_form

__all__ = ["ESCAPED", "HIDDEN", "MAX_BYTES", "is_spoken"]

MAX_BYTES = 65_536
"""Bytes of a body that are looked at; what is longer may be spoken."""

ESCAPED = b"\\u00"
"""What a hidden word begins with; found twenty times as fast as the rest of it."""

HIDDEN = re.compile(rb"\\u00(?:4[1-9a-fA-F]|5[0-9aAfF]|6[1-9a-fA-F]|7[0-9aA])")
"""A letter, or ``_``, that needs no escape: it may hide a word. The backtick is none, which .NET escapes."""

_WORDS = re.compile(rb"audio|video\\?/|file_?uri|" + HIDDEN.pattern, re.IGNORECASE)
"""Parts and modalities of OpenAI and Gemini, and kinds of files; a video has sound."""


def is_spoken(body: bytes) -> bool:
    """
    Tell whether *body*, of any format, may hold audio or ask for it. A text that speaks of audio may seem to.

    >>> is_spoken(b'{"modalities": ["text", "audio"]}'), is_spoken(b'{"messages": []}')
    (True, False)
    """
    return len(body) > MAX_BYTES or is_form(body) or _WORDS.search(body) is not None
