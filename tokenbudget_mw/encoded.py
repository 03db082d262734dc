"""
Tells encoded data from text.
"""

from __future__ import annotations

__all__ = ["is_encoded"]

CHARS = 1_024
"""Characters of a text that may still be one to read, though it has no white space."""

LINE = 60
"""Shortest line of data that is broken into lines; MIME's have 76 characters, PEM's 64."""

WHITE = " \n\r\t\v\f\x1c\x1d\x1e\x1f"
"""White space in ASCII, as `str.split` knows it."""


def is_encoded(text: str) -> bool:
    """
    Return whether *text* is encoded data (base64, a data URL) rather than something to read.
    """
    if not (len(text) > CHARS or text.startswith("data:")) or not text.isascii():
        return False
    # the beginning first: of most texts that is enough; then all, for words behind a head of letters are to be read
    return _has_long_lines(text[:CHARS]) and _has_long_lines(text)


def _has_long_lines(text: str) -> bool:
    # most data is one line: that it has no white space, of any kind, is found in a tenth of the time that cutting it takes
    return not any(map(text.__contains__, WHITE)) or all(len(line) >= LINE for line in text.split()[:-1])
