r"""
Runs of spaces, taken out of the way of the regular expression that cuts a text into pieces.

Both encodings cut before the last space of a run: ``\s+(?!\S)`` is the only alternative of their patterns that looks
ahead, and for its sake the whole pattern goes through a backtracking matcher. Without it the pattern is a finite automaton
and takes half the time. So the alternative is left out, and where it would have made a difference, between the last two
spaces of a run that a word follows, a mark is put into the text, which the tokenizer takes for a special token. What stands
before the mark and what stands after it are then cut as they would have been.
"""

from __future__ import annotations

import re

__all__ = ["MARK", "is_plain", "marked", "parts", "simplified"]

MARK = "\U0010ffff"
"""A code point that is no character and never will be."""

LOOKS_AHEAD = r"|\s+(?!\S)"

# White_Space of Unicode but the space itself, line feed and carriage return, which the patterns treat apart. It is not
# what Python's own \s matches.
_RARE = "\t\x0b\x0c\x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
_RUN = re.compile(f"[ {_RARE}](?=[ {_RARE}][^ {_RARE}\r\n])")
_RUN_OF_SPACES = re.compile(f"  (?=[^ {_RARE}\r\n])")  # begins with a literal, which is found several times faster

_POSSESSIVE = re.compile(r"([?*+]|\{\d+,\d+\})\+")


def simplified(pattern: str) -> str:
    r"""
    Return *pattern* as it cuts a text that is marked.

    Possessive quantifiers become greedy ones: in these patterns nothing that follows one could use what it would give back.

    >>> simplified(r"\p{L}++|\p{N}{1,3}+|\s++$|\s*[\r\n]|\s+(?!\S)|\s")
    '\\p{L}+|\\p{N}{1,3}|\\s+$|\\s*[\\r\\n]|\\s'

    Raises:
        ValueError: The pattern is another one than this trick is for.
    """
    before, found, after = pattern.partition(LOOKS_AHEAD)
    if not found or "(?!" in after or "(?=" in pattern or "(?<" in pattern:
        raise ValueError("This pattern looks ahead or behind in a way that is not known.")
    return _POSSESSIVE.sub(r"\1", before + after)


def is_plain(text: str) -> bool:
    """
    Tell whether *text* surely needs no mark. Takes as long as looking for a few bytes.
    """
    if "  " in text:
        return False
    if text.isascii():
        return "\t" not in text and "\x0b" not in text and "\x0c" not in text
    return _has_no_rare(text)


def marked(text: str) -> tuple[str, int]:
    """
    Return *text* with a mark before the last space of each run that something follows, and the number of marks.

    >>> marked("a  b   c ")[1]
    2
    """
    if _has_no_rare(text):
        return _RUN_OF_SPACES.subn(f" {MARK} ", text)
    return _RUN.subn(rf"\g<0>{MARK}", text)


def parts(text: str) -> list[str]:
    """
    Return *text*, cut where `marked` puts its marks.
    """
    cuts = [found.end() for found in _RUN.finditer(text)]
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def _has_no_rare(text: str) -> bool:
    if text.isascii():
        return "\t" not in text and "\x0b" not in text and "\x0c" not in text
    return not any(map(text.__contains__, _RARE))
