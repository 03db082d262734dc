"""
Engines: the libraries that turn an encoding's ranks into a counter. All of them count the same.

tiktoken is the default. fastokens counts five to ten times faster, but takes seconds of CPU to load where tiktoken takes
a fifth of one: that pays after some hundred thousand requests, so it is for whoever asks for it.
"""

from __future__ import annotations

import base64
import importlib.util
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tokenbudget_mw.counting import spacing
from tokenbudget_mw.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenbudget_mw.counting.ranks import Ranks

__all__ = ["ENGINES", "Engine", "check", "load"]

Engine = Literal["tiktoken", "fastokens"]


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


def _tiktoken(name: str, ranks: Ranks) -> Callable[[str], int]:
    import tiktoken  # 20 ms that only a process that counts should pay

    # No special token but our own mark: what a client writes is text, whatever it looks like.
    encoding = tiktoken.Encoding(
        f"tokenbudget_{name}",
        pat_str=spacing.simplified(ranks.pattern),
        mergeable_ranks=ranks.tokens,
        special_tokens={spacing.MARK: len(ranks.tokens)},
    )
    ranks.tokens.clear()  # tiktoken has its own copy and keeps ours (some 14 MB) only to be pickled
    encode, encode_marked, marks = encoding.encode_ordinary, encoding.encode, {spacing.MARK}

    is_plain = spacing.is_plain

    def count(text: str) -> int:
        if is_plain(text):
            return len(encode(text))
        if spacing.MARK in text:  # nobody writes what is no character but to find out what happens
            return sum(len(encode(part)) for part in spacing.parts(text))
        marked, number = spacing.marked(text)
        return len(encode_marked(marked, allowed_special=marks, disallowed_special=())) - number

    return count


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
    """
    Return *text* as tiktoken reads it: surrogates that make a pair joined, the others replaced.
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


ENGINES: dict[Engine, Callable[[str, Ranks], Callable[[str], int]]] = {"tiktoken": _tiktoken, "fastokens": _fastokens}
