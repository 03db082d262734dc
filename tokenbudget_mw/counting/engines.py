"""
Engines: the libraries that turn an encoding's ranks into a counter. All of them count the same.

tiktoken is the default. fastokens counts five to ten times faster, but takes seconds of CPU to load where tiktoken takes
a fifth of one: that pays after some hundred thousand requests, so it is for whoever asks for it.
"""

from __future__ import annotations

import base64
import importlib.util
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokenbudget_mw.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenbudget_mw.counting.ranks import Ranks

__all__ = ["ENGINES", "Engine", "check", "grouped", "load"]

Engine = Literal["tiktoken", "fastokens"]

BUFFERED_CHARS = 100
"""From how many characters on it is quicker to make no Python numbers of a text's tokens."""

TOKEN_BYTES = 4
NEVER = "\x00\x01<|never|>"
NEVER_RANK = 2**24
NOTHING: frozenset[str] = frozenset()
PROBE = f"Hello, wörld! {NEVER}"

LOOKS_AHEAD = r"|\s+(?!\S)"
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_LONE = re.compile("[\ud800-\udfff]")
_POSSESSIVE = re.compile(r"([?*+]|\{\d+,\d+\})\+")


def check(engine: str) -> None:
    """
    Make sure that *engine* can be loaded.

    Raises:
        ConfigurationError: It is not installed.
    """
    if importlib.util.find_spec(engine) is None:
        raise ConfigurationError(f"The tokenizer {engine!r} is not installed: pip install 'tokenbudget-mw[fast]'.")


def load(engine: Engine, name: str, ranks: Ranks) -> Callable[[str], int]:
    """
    Return what counts a text in the encoding *name*, which *ranks* define. *ranks* may be emptied.
    """
    return ENGINES[engine](name, ranks)


def grouped(pattern: str) -> str:
    r"""
    Return *pattern*, which cuts a text into pieces, in a form that takes a fifth less time for the same pieces.

    Both encodings look ahead in one alternative near the end, and whatever looks ahead goes through a backtracking matcher.
    That hands a group without such a thing to an automaton, but tries alternatives outside of a group one by one. Possessive
    quantifiers keep it from doing so, and become greedy ones: in these patterns nothing could use what they give back.

    Without looking ahead at all an automaton would run alone, and faster, but backwards too, to find where a piece begins;
    then texts in many languages need more of its states than it may keep, and each change of language costs milliseconds.

    >>> grouped(r"\p{L}++|\p{N}{1,3}+|\s*[\r\n]|\s+(?!\S)|\s")
    '(?:\\p{L}+|\\p{N}{1,3}|\\s*[\\r\\n])|\\s+(?!\\S)|\\s'
    """
    easy, found, rest = pattern.partition(LOOKS_AHEAD)
    greedy = _POSSESSIVE.sub(r"\1", easy)
    return f"(?:{greedy}){found}{rest}" if found else pattern


def _tiktoken(name: str, ranks: Ranks) -> Callable[[str], int]:
    import tiktoken  # 20 ms that only a process that counts should pay

    # What a client writes is text, whatever it looks like: the one special token is never allowed. Without any, looking
    # for them would find the empty text everywhere.
    encoding = tiktoken.Encoding(
        f"tokenbudget_{name}",
        pat_str=grouped(ranks.pattern),
        mergeable_ranks=ranks.tokens,
        special_tokens={NEVER: NEVER_RANK},
    )
    ranks.tokens.clear()  # tiktoken has its own copy and keeps ours (some 14 MB) only to be pickled
    encode, buffered = encoding.encode_ordinary, _buffered(encoding)

    def count(text: str) -> int:
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                text = _repaired(text)  # tiktoken would do it itself, and take a microsecond for every surrogate
        if buffered is None or len(text) < BUFFERED_CHARS:
            return len(encode(text))
        return memoryview(buffered(text, NOTHING)).nbytes // TOKEN_BYTES

    return count


def _buffered(encoding: Any) -> Callable[[str, frozenset[str]], Any] | None:
    """
    Return what encodes a text into a buffer, with no Python number for each token; None where this tiktoken has no such thing.

    It saves some 4 % of the time, an eighth on base64, and most of the memory. It is not public, so it may go.
    """
    buffered: Any = getattr(getattr(encoding, "_core_bpe", None), "encode_to_tiktoken_buffer", None)
    try:
        size = memoryview(buffered(PROBE, NOTHING)).nbytes
    except (TypeError, ValueError):
        return None
    return buffered if size == TOKEN_BYTES * len(encoding.encode_ordinary(PROBE)) else None


def _fastokens(name: str, ranks: Ranks) -> Callable[[str], int]:
    import fastokens  # written in Rust; gives up the GIL while it counts

    # it reads nothing but files in the published format
    handle, path = tempfile.mkstemp(prefix=f"tokenbudget_{name}_", suffix=".tiktoken")
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in ranks.tokens.items())
        tokenizer = fastokens.Tokenizer.from_tiktoken(path, pattern=ranks.pattern, special_tokens={})
    finally:
        Path(path).unlink()
    encode = tokenizer.encode

    def count(text: str) -> int:
        try:
            return len(encode(text))
        except UnicodeEncodeError:
            return len(encode(_repaired(text)))

    return count


def _repaired(text: str) -> str:
    r"""
    Return *text* as tiktoken reads it: surrogates that make a pair joined, the others replaced.

    >>> _repaired("a\ud83d\ude00b\ude00") == "a\U0001f600b\ufffd"
    True
    """
    return _LONE.sub("\ufffd", _PAIR.sub(_joined, text))


def _joined(pair: re.Match[str]) -> str:
    high, low = map(ord, pair[0])
    return chr(0x10000 + ((high - 0xD800) << 10) + low - 0xDC00)


ENGINES: dict[Engine, Callable[[str, Ranks], Callable[[str], int]]] = {"tiktoken": _tiktoken, "fastokens": _fastokens}
