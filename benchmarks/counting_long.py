"""
Counting long prompts: what a sample costs, how far it is off, and how well its upper bound holds.

Run as a script it writes the tables of docs/counting.md: ``python -m benchmarks.counting_long``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, median

import tiktoken

from benchmarks.counting_corpus import ADVERSARIAL, LANGUAGES, adversarial, natural, windows
from benchmarks.counting_plot import curve
from benchmarks.harness import Contender, Result, Scale, compare
from tokenbudget_mw.counting import ranks
from tokenbudget_mw.counting.encoders import Encoder, default_encoders, slices
from tokenbudget_mw.counting.meter import Depth
from tokenbudget_mw.counting.sampling import PRECISE, USUAL, sample, utf8_size
from tokenbudget_mw.counting.tokenizers import Tokenizers

__all__ = ["count_1mb", "count_upper"]

MEGA = 1_000_000
SLICE = 500_000
"""More at once than a million spaces, and the baseline panics."""


@dataclass(frozen=True, slots=True)
class Seen:
    """
    One sample of one text, against the truth.

    Attributes:
        kind: Kind of text.

        error: Relative error of the estimate.

        excess: How far the upper bound is above the truth, relative to it; below 0 where it is not.

        thirds: Relative error of a third of a token a character.

        bytes: Excess of the text's UTF-8 bytes, the only bound that needs no tokenizer.

        precise: Relative error of the precise sample's estimate.
    """

    kind: str
    error: float
    excess: float
    thirds: float
    bytes: float
    precise: float


def count_1mb(scale: Scale) -> Result:
    """
    A prompt of a megabyte: CPU of the usual and the precise sample; and how far both are off at a million characters.
    """
    encoder = default_encoders().get("o200k_base")
    texts = {kind: _megabyte(text) for kind, text in windows(MEGA, 1) if kind != "mix"}
    raw, pieces = _raw(), _pieces(texts["en"])
    usual, precise = Tokenizers(), Tokenizers(depth=Depth(sample=PRECISE))
    cpu = compare(
        {
            "usual": Contender(lambda n: [usual.count(texts["en"], "gpt-4o") for _ in range(n)]),
            "precise": Contender(lambda n: [precise.count(texts["en"], "gpt-4o") for _ in range(n)]),
            "exact": Contender(lambda n: [raw(texts["en"]) for _ in range(max(1, n // 10))]),
            "pieces": Contender(lambda n: [raw(piece) for at in range(n) for piece in pieces[at % len(pieces)]]),
        },
        scale,
        calls=50,
    )
    exact_us = cpu["exact"] * 10  # a tenth of the calls
    worst = max(_cpu(usual, text) for text in texts.values())
    worst_precise = max(_cpu(precise, text) for text in texts.values())
    seen = list(_seen(encoder, _lengths(scale)[-1], scale))
    p95, precise_p95 = _p95(each.error for each in seen), _p95(each.precise for each in seen)
    bias = abs(fmean(each.error for each in seen))
    return Result(
        value=cpu["usual"] / 1e3,
        unit="ms CPU, English",
        baseline="tiktoken over the whole text",
        baseline_value=exact_us / 1e3,
        goal="English <= 1.5 ms, any <= 6 ms, p95 <= 5.5 %, bias <= 0.5 %; precise: p95 <= 3.5 %, <= 10 ms",
        met=cpu["usual"] <= 1_500
        and worst <= 6e-3
        and p95 <= 0.055
        and bias <= 0.005
        and precise_p95 <= 0.035
        and worst_precise <= 10e-3,
        details={
            "tiktoken_on_the_sample_ms": cpu["pieces"] / 1e3,
            "worst_ms": worst * 1e3,
            "precise_ms": cpu["precise"] / 1e3,
            "precise_worst_ms": worst_precise * 1e3,
            "p95_percent": p95 * 100,
            "precise_p95_percent": precise_p95 * 100,
            "bias_percent": bias * 100,
            "chars_by_3_p95_percent": _p95(each.thirds for each in seen) * 100,
            "kinds": len(texts),
            "samples": len(seen),
        },
    )


def count_upper(scale: Scale) -> Result:
    """
    The bound that a reservation holds, on natural texts and on layouts that were made to be miscounted.
    """
    encoder = default_encoders().get("o200k_base")
    seen = [each for length in _lengths(scale) for each in _seen(encoder, length, scale)]
    hostile = [each for length in _lengths(scale) for each in _hostile(encoder, length, scale)]
    held = fmean(each.excess >= 0 for each in seen)
    worst = min(each.excess for each in hostile)
    excess = fmean(each.excess for each in seen)
    return Result(
        value=excess * 100,
        unit="% mean excess",
        baseline="a token for each UTF-8 byte",
        baseline_value=fmean(each.bytes for each in seen) * 100,
        goal="below the truth in <= 0.5 % of natural texts, never > 3 % on adversarial ones, mean excess <= 10 %",
        met=held >= 0.995 and worst >= -0.03 and excess <= 0.10,
        details={
            "held_percent": held * 100,
            "lowest_percent_of_truth": (1 + min(each.excess for each in seen)) * 100,
            "adversarial_held_percent": fmean(each.excess >= 0 for each in hostile) * 100,
            "adversarial_lowest_percent_of_truth": (1 + worst) * 100,
            "adversarial_mean_percent_of_truth": (1 + fmean(each.excess for each in hostile)) * 100,
            "samples": len(seen),
            "adversarial_samples": len(hostile),
        },
    )


def _lengths(scale: Scale) -> tuple[int, ...]:
    return (MEGA // 10, MEGA) if scale.share >= 1 else (MEGA // 10,)


def _seen(encoder: Encoder, length: int, scale: Scale) -> Iterable[Seen]:
    number = max(1, round(2 * MEGA / length * scale.share))
    draws = max(2, scale.rounds)
    for kind, text in windows(length, number):
        yield from _samples(kind, text, encoder, draws)


def _hostile(encoder: Encoder, length: int, scale: Scale) -> Iterable[Seen]:
    for name in ADVERSARIAL:
        yield from _samples(name, adversarial(name, length), encoder, max(2, 4 * scale.rounds))


def _samples(kind: str, text: str, encoder: Encoder, draws: int) -> Iterable[Seen]:
    truth, size = encoder.count(text), utf8_size(text)
    for _ in range(draws):
        usual, precise = sample(text, encoder.count, USUAL), sample(text, encoder.count, PRECISE)
        yield Seen(
            kind,
            usual.estimate / truth - 1,
            usual.upper / truth - 1,
            len(text) / 3 / truth - 1,
            size / truth - 1,
            precise.estimate / truth - 1,
        )


def _megabyte(text: str) -> str:
    return text.encode()[:MEGA].decode(errors="ignore")


def _p95(errors: Iterable[float]) -> float:
    ranked = sorted(map(abs, errors))
    return ranked[int(0.95 * (len(ranked) - 1))]


def _cpu(tokenizers: Tokenizers, text: str) -> float:
    """
    Seconds of CPU for one count, the median of nine.
    """
    spent = []
    for _ in range(9):
        start = time.thread_time()
        tokenizers.count(text, "gpt-4o")
        spent.append(time.thread_time() - start)
    return median(spent)


def _raw():
    data = ranks.load("o200k_base")
    encoding = tiktoken.Encoding("raw", pat_str=data.pattern, mergeable_ranks=data.tokens, special_tokens={})
    return lambda text: sum(len(encoding.encode_ordinary(part)) for part in slices(text, SLICE))


def _pieces(text: str) -> list[list[str]]:
    """
    Fifty samples of *text*, as many characters as are tokenised in one: what tiktoken takes for them cannot be saved.
    """
    found: list[list[str]] = []
    for _ in range(50):
        found.append([])
        sample(text, lambda piece: found[-1].append(piece) or 1, USUAL)
    return found


# -- the tables of the documentation -----------------------------------------------------------------------------------


def _tables() -> Iterable[str]:
    encoder = default_encoders().get("o200k_base")
    yield "| text | chars/3, p95 | sampled, p95 | bias | precise, p95 | bound above truth, mean | CPU | precise | exact |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    seen = list(_seen(encoder, MEGA, Scale()))
    texts = {kind: _megabyte(text) for kind, text in windows(MEGA, 1)}
    spent = _spent(texts)
    for kind in (*(name for name in natural() if name not in LANGUAGES), *LANGUAGES, "mix"):
        rows = [each for each in seen if each.kind == kind]
        if rows:
            figures = (
                f"{_p95(each.thirds for each in rows):.0%}",
                f"{_p95(each.error for each in rows):.1%}",
                f"{fmean(each.error for each in rows):+.1%}",
                f"{_p95(each.precise for each in rows):.1%}",
                f"{fmean(each.excess for each in rows):.1%}",
                *(f"{each:.1f} ms" if each < 10 else f"{each:.0f} ms" for each in spent[kind]),
            )
            yield f"| {kind} | {' | '.join(figures)} |"
    yield ""
    yield "| characters | English | Korean |"
    yield "|---:|---:|---:|"
    lengths = (100, 1_000, 10_000, 16_384, 30_000, 100_000, MEGA, 10 * MEGA)
    for (length, english), (_, korean) in zip(
        *(curve(Tokenizers(), kind, lengths) for kind in ("en", "ko")), strict=True
    ):
        yield f"| {length:,} | {english:.2f} ms | {korean:.2f} ms |"


def _spent(texts: dict[str, str]) -> dict[str, list[float]]:
    """
    Milliseconds of CPU for each of *texts*, sampled, sampled precisely and all tokenised: the quickest of nine rounds.
    """
    ways = Tokenizers(), Tokenizers(depth=Depth(sample=PRECISE)), Tokenizers(depth=Depth(exact=2 * MEGA))
    spent = {kind: [math.inf] * len(ways) for kind in texts}
    for number in range(9):  # round by round, so that what a neighbour does meets all kinds
        for kind, text in texts.items():
            fresh = f"{number} {text}"
            for at, way in enumerate(ways):
                start = time.thread_time()
                way.count(fresh, "gpt-4o")
                spent[kind][at] = min(spent[kind][at], (time.thread_time() - start) * 1e3)
    return spent


if __name__ == "__main__":
    for line in _tables():
        print(line, flush=True)
