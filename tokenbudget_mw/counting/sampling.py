"""
Sampling: the tokens of a long text from some of it, at a cost that does not grow with the text.

The text is cut into strata of equal length, and a chunk at a random place in each of them is tokenised. Whoever knows
the places can hide tokens between them, so they come from a generator that is seeded by the system and never shown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from tokenbudget_mw.chance import generator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["PRECISE", "USUAL", "Sample", "Sampling", "sample", "utf8_size"]

SNAP_CHARS = 32
CUT_TOKENS = 0.25
CUT_SHARE = 0.01
"""What a cut through a word or a run adds, on average over languages and code: tokens, and at most a share of a chunk's."""

ERRORS = 3.0
SHARE = 0.01
"""Between estimate and upper bound: standard errors, and a share of the estimate, for errors have errors of their own."""

LOOK_CHARS = 2**14
STRETCHES = 64
"""Of a text of more than four times as many characters the bytes of about so many are looked at, evenly spread."""

TOKENS_AN_EXTRA_BYTE = 4 / 3
"""A character of four bytes, three of them beyond its first, has at most four tokens."""

MAX_CHAR_BYTES = 4

_secret = generator()


@dataclass(frozen=True, slots=True)
class Sampling:
    """
    How much of a long text is tokenised.

    Attributes:
        chunks: Chunks, 2 or more.

        chars: Length of each, in characters, 1 or more.
    """

    chunks: int = 64
    chars: int = 256

    @property
    def all_chars(self) -> int:
        """
        Characters that are tokenised, all chunks together.
        """
        return self.chunks * self.chars


USUAL = Sampling()
PRECISE = Sampling(chunks=128)


@dataclass(frozen=True, slots=True)
class Sample:
    """
    What a sample says of a text.

    Attributes:
        estimate: Tokens of the whole text; right on average.

        error: Standard error of *estimate*, in tokens.

        upper: Bound that the truth hardly ever passes, in tokens; never more than *size*.

        size: Bound of the text's UTF-8 bytes, of which no byte-level encoding makes more than one token each.
    """

    estimate: float
    error: float
    upper: int
    size: int


def sample(
    text: str, count: Callable[[str], int], plan: Sampling = USUAL, draw: Callable[[], float] = _secret.random
) -> Sample:
    """
    Estimate the tokens of *text*.

    Args:
        text: Any text longer than *plan*'s chunks together.

        count: Tokens of a piece of it.

        plan: How much of it to look at.

        draw: Gives random numbers from 0 to below 1.
    """
    pieces = [_piece(text, *bounds) for bounds in _bounds(len(text), plan, draw)]
    tokens = [_uncut(count(piece), cuts) for piece, cuts in pieces]
    sizes = [len(piece) for piece, _ in pieces]
    seen = sum(sizes)
    density = sum(tokens) / seen
    estimate = density * len(text)
    error = _error(tokens, sizes, density) * math.sqrt(max(0.0, 1 - seen / len(text))) * len(text)
    size, extra = _bytes(text, draw)
    # what the bytes beyond ASCII say of the parts that no chunk has met
    hidden = extra - _extra(piece for piece, _ in pieces) * len(text) / seen if extra else 0.0
    upper = math.ceil(estimate * (1 + SHARE) + ERRORS * error + TOKENS_AN_EXTRA_BYTE * max(0.0, hidden))
    return Sample(min(estimate, size), error, min(upper, size), size)


def _bytes(text: str, draw: Callable[[], float]) -> tuple[int, float]:
    """
    Return a bound of *text*'s UTF-8 bytes, and about how many of them are not the first of their character.

    Both are exact for ASCII and up to four times `LOOK_CHARS` characters. In longer texts every so many-th character is
    looked at, so a run of dense ones shows wherever it is; nobody knows beforehand which, so none can be hidden between them.
    """
    length = len(text)
    if text.isascii():
        return length, 0.0
    if length <= 4 * LOOK_CHARS:
        extra = _extra((text,))
        return length + extra, extra
    least = length // (2 * LOOK_CHARS)
    step = _prime(least + 1 + int(draw() * least))
    # each stretch from a place of its own, for a text that repeats itself after a multiple of the step
    looked = "".join(
        [text[low + int(draw() * step) : high : step] for low, high in pairwise(_edges(length, STRETCHES))]
    )
    return MAX_CHAR_BYTES * length, _extra((looked,)) * length / len(looked)


def _prime(least: int) -> int:
    """
    Return the first prime from *least* on: few texts repeat themselves after a multiple of one.
    """
    while any(least % divisor == 0 for divisor in range(2, math.isqrt(least) + 1)):
        least += 1
    return least


def _extra(pieces: Iterable[str]) -> int:
    return sum(utf8_size(piece) - len(piece) for piece in pieces)


def _bounds(length: int, plan: Sampling, draw: Callable[[], float]) -> list[tuple[int, int]]:
    """
    Return start and end of a chunk at a random place of each stratum.
    """
    bounds = []
    for low, high in pairwise(_edges(length, plan.chunks)):
        start = low + int(draw() * max(1, high - low - plan.chars + 1))
        bounds.append((start, min(start + plan.chars, high)))
    return bounds


def _edges(length: int, parts: int) -> list[int]:
    return [number * length // parts for number in range(parts + 1)]


def _piece(text: str, start: int, end: int) -> tuple[str, int]:
    """
    Return the chunk from *start* to *end*, both moved to the next space if one is near, and how many are not at one.
    """
    cuts = 0
    near = min(SNAP_CHARS, (end - start) // 2)
    if start > 0:
        space = text.find(" ", start, start + near)
        cuts += space < 0
        start = max(start, space)
    if end < len(text):
        space = text.find(" ", end, end + near)
        cuts += space < 0
        end = max(end, space)
    return text[start:end], cuts


def _uncut(tokens: int, cuts: int) -> float:
    """
    Return the *tokens* of a chunk without what its *cuts* have added.
    """
    return tokens - min(CUT_TOKENS * cuts, CUT_SHARE * tokens)


def _error(tokens: list[float], sizes: list[int], density: float) -> float:
    """
    Return the standard error of *density*, in tokens a character, from how much neighbouring strata differ.
    """
    rests = [found - density * size for found, size in zip(tokens, sizes, strict=True)]
    steps = sum((second - first) ** 2 for first, second in pairwise(rests))
    number = len(rests)
    return math.sqrt(steps / (2 * (number - 1)) * number) / sum(sizes)


def utf8_size(text: str) -> int:
    """
    Return the bytes of *text* in UTF-8; a lone surrogate, which has none, as the three of its replacement.
    """
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
