"""
Engines: the libraries that turn an encoding's ranks into a counter. All of them count the same.

tiktoken is the default. fastokens counts five to ten times faster, but takes seconds of CPU to load where tiktoken takes
a fifth of one: that pays after some hundred thousand requests, so it is for whoever asks for it.
"""

from __future__ import annotations

import base64
import concurrent.futures.thread  # noqa: F401 - tiktoken imports it, which Python forbids where a script's end counts first
import importlib.util
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from tokenbudget_mw.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenbudget_mw.counting.ranks import Ranks

__all__ = ["ENGINES", "Counting", "Engine", "check", "grouped", "load", "prepare"]

Engine = Literal["tiktoken", "fastokens"]

BUFFERED_CHARS = 100
"""From how many characters on it is quicker to make no Python numbers of a text's tokens."""

TOKEN_BYTES = 4
NEVER = "\x00\x01<|never|>"
NEVER_RANK = 2**32 - 1
NEVER_BYTES = NEVER_RANK.to_bytes(TOKEN_BYTES, "little")
"""Found nowhere but at that token: the last byte of every other is 0."""

NOTHING: frozenset[str] = frozenset()
ONLY_NEVER = frozenset({NEVER})
PROBE = f"Hello, wörld! {NEVER}"

LOOKS_AHEAD = r"|\s+(?!\S)"
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_LONE = re.compile("[\ud800-\udfff]")
_POSSESSIVE = re.compile(r"([?*+]|\{\d+,\d+\})\+")


class Counting(NamedTuple):
    """
    How an engine counts in one encoding.

    Attributes:
        one: Tokens of a text.

        several: Tokens of each of several texts that together have no more than an engine may be given at once.
    """

    one: Callable[[str], int]
    several: Callable[[list[str]], list[int]]


def check(engine: str) -> None:
    """
    Make sure that *engine* can be loaded.

    Raises:
        ConfigurationError: It is not installed.
    """
    if importlib.util.find_spec(engine) is None:
        raise ConfigurationError(f"The tokenizer {engine!r} is not installed: pip install 'tokenbudget-mw[fast]'.")


def prepare(engine: Engine) -> None:
    """
    Import *engine*, for a thread that will load it.
    """
    importlib.import_module(engine)


def load(engine: Engine, name: str, ranks: Ranks) -> Counting:
    """
    Return what counts texts in the encoding *name*, which *ranks* define. *ranks* may be emptied.
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


def _tiktoken(name: str, ranks: Ranks) -> Counting:
    import tiktoken  # 20 ms that only a process that counts should pay

    # What a client writes is text, whatever it looks like: the one special token is allowed only where it joins texts.
    # Without any, looking for them would find the empty text everywhere.
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

    return Counting(count, _one_by_one(count) if buffered is None else _at_once(count, buffered))


def _one_by_one(count: Callable[[str], int]) -> Callable[[list[str]], list[int]]:
    return lambda texts: [count(text) for text in texts]


def _at_once(
    count: Callable[[str], int], buffered: Callable[[str, frozenset[str]], Any]
) -> Callable[[list[str]], list[int]]:
    """
    Return what counts several texts in one call: that takes a tenth less time, and of short texts a third.
    """

    def several(texts: list[str]) -> list[int]:
        try:
            parts = bytes(buffered(NEVER.join(texts), ONLY_NEVER)).split(NEVER_BYTES)
        except UnicodeEncodeError:  # a lone surrogate
            parts = []
        if len(parts) != len(texts):  # or a text that has in it what joins them
            return [count(text) for text in texts]
        return [len(part) // TOKEN_BYTES for part in parts]

    return several


def _buffered(encoding: Any) -> Callable[[str, frozenset[str]], Any] | None:
    """
    Return what encodes a text into a buffer, with no Python number for each token; None where this tiktoken has no such thing.

    It saves some 4 % of the time, an eighth on base64, and most of the memory. It is not public, so it may go.
    """
    buffered: Any = getattr(getattr(encoding, "_core_bpe", None), "encode_to_tiktoken_buffer", None)
    size = TOKEN_BYTES * len(encoding.encode_ordinary(PROBE))
    try:
        found = memoryview(buffered(PROBE, NOTHING)).nbytes
        joined = bytes(buffered(f"a{NEVER}b c", ONLY_NEVER)).split(NEVER_BYTES)
    except (TypeError, ValueError):
        return None
    return buffered if found == size and [*map(len, joined)] == [TOKEN_BYTES, 2 * TOKEN_BYTES] else None


def _fastokens(name: str, ranks: Ranks) -> Counting:
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

    return Counting(count, _one_by_one(count))


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


ENGINES: dict[Engine, Callable[[str, Ranks], Counting]] = {"tiktoken": _tiktoken, "fastokens": _fastokens}
