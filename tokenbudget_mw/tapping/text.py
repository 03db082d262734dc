"""
Output text without usage figures: found in events and bodies, counted in bounded pieces.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

import msgspec

from tokenbudget_mw.encoded import is_encoded
from tokenbudget_mw.tapping.base import CountText

__all__ = ["TAIL", "TextMeter", "all_text", "endings", "inner_endings", "joined", "strings_of"]

PIECE = 16_384
"""Characters that are counted at a time: what the tokenizer counts exactly, in a millisecond or two."""

HELD = 2 * PIECE
"""
Most characters that wait to be counted. Few responses are longer, so most that tell their usage are never counted in vain; and
those that tell none keep an event loop for no longer than two pieces take.
"""

TAIL = 1 << 16
"""Bytes that are kept of the end of what is too long: providers write the usage last."""

_ATTEMPTS = 8

_first_value = json.JSONDecoder().raw_decode

_STRING = rb'"\s*:\s*"([^"\\]*(?:\\.[^"\\]*)*)'


class TextMeter:
    """
    Counts the tokens of a text that comes in pieces, in constant memory.

    Counting waits until it must be: what is more than `HELD` is counted and forgotten, a `PIECE` at least at a time, and the
    rest when the count is asked for. What comes as one long text is counted as one, so the tokenizer may take a sample of it.

    Args:
        count_text: Counts a piece; without it, one token is counted every four UTF-8 bytes, rounded up.
    """

    __slots__ = ("_count", "_length", "_tokens", "_waiting")

    def __init__(self, count_text: CountText | None) -> None:
        self._count = count_text or _by_length
        self._waiting: list[str] = []
        self._length = 0
        self._tokens = 0

    def add(self, text: str) -> None:
        """
        Take the next piece of the text.
        """
        if text:
            self._waiting.append(text)
            self._length += len(text)
            if self._length > HELD:
                self._fold(max(PIECE, self._length - HELD))

    @property
    def is_empty(self) -> bool:
        """
        Whether there was no text until now.
        """
        return not (self._length or self._tokens)

    def tokens(self) -> int:
        """
        Return the tokens of all text until now.
        """
        while self._length:
            self._fold(PIECE)
        return self._tokens

    def _fold(self, most: int) -> None:
        text = "".join(self._waiting)
        self._tokens += self._count(text[:most])
        self._waiting = [text[most:]]
        self._length = len(self._waiting[0])


def joined(texts: Iterable[object]) -> str:
    """
    Return the strings among *texts* as one.
    """
    return "".join([text for text in texts if isinstance(text, str)])


def endings(data: bytes, mark: bytes) -> Iterator[bytes]:
    """
    Yield *data* from each *mark* on, the last one first, behind an opening brace.

    Such an ending is JSON only if the mark is a key of the outermost object; so figures that a model has written into its
    answer are never taken for the provider's.

    >>> [*endings(b'"a": {"usage": 1}, "usage": 2}', b'"usage"')]
    [b'{"usage": 2}', b'{"usage": 1}, "usage": 2}']
    """
    at = data.rfind(mark)
    for _ in range(_ATTEMPTS):
        if at < 0:
            return
        yield b"{" + data[at:]
        at = data.rfind(mark, 0, at)


def inner_endings(data: bytes, mark: bytes) -> Iterator[dict[str, object]]:
    """
    Yield what an object within the outermost one has from each *mark* on, the last one first.

    >>> [*inner_endings(b'"a": 1, "usage": {"b": 2}}, "type": "done"}', b'"usage"')]
    [{'usage': {'b': 2}}]
    """
    for ending in endings(data, mark):
        text = ending.decode(errors="replace")
        try:
            found, end = _first_value(text)
            msgspec.json.decode('{"":0' + text[end:], type=dict)  # else it stands deeper, or the end was cut off
        except (ValueError, RecursionError):
            continue
        yield found


def all_text(data: bytes) -> str:
    """
    Return all that *data* says: the strings in it if it is JSON, else itself; encoded data says nothing.

    >>> all_text(b'{"reply": ["Hello ", "world"], "vector": [0.25, 1]}'), all_text(b"<p>Hello")
    ('Hello world', '<p>Hello')
    """
    try:
        waiting = [msgspec.json.decode(data)]
    except (ValueError, RecursionError):
        pieces = data.decode(errors="replace").split('"')  # JSON that was cut off is in strings, too
        return '"'.join("" if is_encoded(piece) else piece for piece in pieces)
    texts: list[str] = []
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            texts.append("" if is_encoded(item) else item)
        elif isinstance(item, dict | list):
            waiting.extend(reversed(list(item.values()) if isinstance(item, dict) else item))
    return "".join(texts)


def strings_of(data: bytes, *names: str) -> str:
    """
    Return the string values of the keys *names*, wherever they stand in *data*: JSON that may be broken or cut off.

    >>> strings_of(b'{"choices": [{"delta": {"content": "Hel', "content")
    'Hel'
    """
    pattern = rb'"(?:' + "|".join(names).encode() + rb")" + _STRING
    return "".join(_unescaped(match) for match in re.findall(pattern, data, re.DOTALL))


def _unescaped(raw: bytes) -> str:
    try:
        return msgspec.json.decode(b'"' + raw + b'"', type=str)
    except ValueError:  # cut within an escape, a lone surrogate, not UTF-8: near enough to be counted
        return raw.decode(errors="replace")


def _by_length(text: str) -> int:
    return -(-len(text.encode(errors="replace")) // 4)
