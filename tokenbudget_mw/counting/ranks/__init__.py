"""
Merge ranks of the encodings (data), and how they are read.

A file ``<encoding>.ranks`` is zlib over: length of the split pattern (4 bytes, big-endian), the pattern (UTF-8), number
of tokens (4 bytes), one byte a token with its length, and the tokens' bytes, end to end in the order of their ranks.
It takes a third of the published text and loads several times faster. ``_fetch.py`` writes the files; LICENSE and
NOTICE say whose they are.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from importlib import resources

__all__ = ["NAMES", "Ranks", "load", "pack", "prepare", "unpack"]

NAMES = ("o200k_base", "cl100k_base")

_FORMATS = [f"{size}s" for size in range(256)]


@dataclass(frozen=True, slots=True)
class Ranks:
    """
    What an encoding is made of.

    Attributes:
        pattern: Regular expression that cuts a text into pieces.

        tokens: Bytes of a token -> its rank; the ranks are 0, 1, 2, … in order.
    """

    pattern: str
    tokens: dict[bytes, int]


def prepare() -> None:
    """
    Import what reads the package's own data, for a thread that will `load`.
    """
    resources.files(__name__)


def load(name: str) -> Ranks:
    """
    Read the ranks of encoding *name* from the package's own data.

    Raises:
        FileNotFoundError: There is no such encoding.
    """
    return unpack(resources.files(__name__).joinpath(f"{name}.ranks").read_bytes())


def pack(ranks: Ranks) -> bytes:
    """
    Return the file's bytes for *ranks*.
    """
    tokens = list(ranks.tokens)
    if list(ranks.tokens.values()) != list(range(len(tokens))):
        raise ValueError("The ranks are not 0, 1, 2, … in order; this format cannot hold them.")
    pattern = ranks.pattern.encode()
    parts = [
        len(pattern).to_bytes(4, "big"),
        pattern,
        len(tokens).to_bytes(4, "big"),
        bytes(map(len, tokens)),
        *tokens,
    ]
    return zlib.compress(b"".join(parts), 9)


def unpack(data: bytes) -> Ranks:
    """
    Return the ranks that *data*, a file's bytes, holds.
    """
    raw = memoryview(zlib.decompress(data))
    size = int.from_bytes(raw[:4], "big")
    pattern = bytes(raw[4 : 4 + size]).decode()
    raw = raw[4 + size :]
    count = int.from_bytes(raw[:4], "big")
    # One C call cuts all tokens. `struct.unpack` would keep the megabytes of its compiled format in a cache.
    cut = struct.Struct("".join(map(_FORMATS.__getitem__, raw[4 : 4 + count])))
    return Ranks(pattern, dict(zip(cut.unpack(raw[4 + count :]), range(count), strict=True)))
