"""
Draws docs/images/counting.svg: CPU of a count over the length of the text. ``python -m benchmarks.counting_plot > FILE``
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import count

from benchmarks.counting_corpus import windows
from tokenbudget_mw.counting.meter import Depth
from tokenbudget_mw.counting.tokenizers import Tokenizers

__all__ = ["curve", "curves", "svg"]

LENGTHS = (100, 300, 1_000, 3_000, 10_000, 16_384, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
MOST_EXACT = 1_000_000
WIDTH, HEIGHT, LEFT, BOTTOM = 640, 360, 60, 40
COLOURS = ("#1f77b4", "#d62728", "#7f7f7f")
LOW, HIGH = 1e-3, 1e2  # milliseconds

_NUMBERS = count(1)

Curve = list[tuple[int, float]]


def curves() -> dict[str, Curve]:
    """
    Measure milliseconds of CPU over characters: English and Korean as they are counted, and English all exact.
    """
    usual, whole = Tokenizers(), Tokenizers(depth=Depth(exact=10**9))
    return {
        "English": curve(usual, "en", LENGTHS),
        "Korean": curve(usual, "ko", LENGTHS),
        "English, all tokenised": curve(whole, "en", [length for length in LENGTHS if length <= MOST_EXACT]),
    }


def curve(tokenizers: Tokenizers, kind: str, lengths: Sequence[int]) -> Curve:
    """
    Return milliseconds of CPU that *tokenizers* take for a text of each of *lengths*, the quickest of fifteen rounds.
    """
    texts = {length: _stretched(kind, length) for length in lengths}
    spent = {length: list[float]() for length in lengths}
    for _ in range(15):  # round by round, so that what a neighbour does meets all lengths
        tokenizers.count(f"{next(_NUMBERS)} {texts[lengths[0]]}", "gpt-4o")  # the longest has swept the caches
        for length, text in texts.items():
            is_remembered = length <= tokenizers.depth.most
            fresh = f"{next(_NUMBERS)} {text}"[:length] if is_remembered else text
            start = time.thread_time()
            tokenizers.count(fresh, "gpt-4o")
            spent[length].append(time.thread_time() - start)
    return [(length, min(found) * 1e3) for length, found in spent.items()]


def _stretched(kind: str, length: int) -> str:
    """
    Return *length* characters of *kind*: of one text that is cut, or repeated, so that lengths differ and contents hardly.
    """
    text = _million(kind)
    return (text * (length // len(text) + 1))[:length]


@cache
def _million(kind: str) -> str:
    return next(text for name, text in windows(10**6, 1) if name == kind)


def svg(drawn: dict[str, Curve]) -> str:
    """
    Return the picture of *drawn*, both axes logarithmic.
    """
    lines = [*_axes()]
    for number, (name, points) in enumerate(drawn.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{_x(length):.1f},{_y(spent):.1f}" for length, spent in points)
        lines.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{path}"/>')
        lines.append(f'<text x="{LEFT + 15}" y="{24 + 18 * number}" fill="{colour}">{name}</text>')
    body = "\n".join(lines)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def _axes() -> Iterable[str]:
    for power in range(2, 8):
        x = _x(10**power)
        yield f'<line x1="{x:.1f}" y1="10" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}" stroke="#dddddd"/>'
        yield f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{10**power:,}</text>'
    for power in range(round(math.log10(LOW)), round(math.log10(HIGH)) + 1):
        y = _y(10.0**power)
        yield f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - 20}" y2="{y:.1f}" stroke="#dddddd"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:g} ms</text>'
    yield f'<text x="{WIDTH / 2}" y="{HEIGHT - 6}" text-anchor="middle">characters</text>'


def _x(length: int) -> float:
    return LEFT + (math.log10(length) - 2) / 5 * (WIDTH - 20 - LEFT)


def _y(spent: float) -> float:
    share = (math.log10(max(spent, LOW)) - math.log10(LOW)) / (math.log10(HIGH) - math.log10(LOW))
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - 10)


if __name__ == "__main__":
    print(svg(curves()), end="")
