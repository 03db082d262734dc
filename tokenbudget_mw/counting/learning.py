"""
Learning: what counted requests teach about those that are not counted, and providers' usage about their tokenizers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tokenbudget_mw import threads
from tokenbudget_mw.counting.models import NO_ALIASES, resolve

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokenbudget_mw.counting.models import ModelFamily
    from tokenbudget_mw.values import TokenCount

__all__ = ["PRIOR_BYTES_A_TOKEN", "Factors", "RatioEstimator"]

PRIOR_BYTES_A_TOKEN = 4.0
PRIOR_TOKENS = 1_000.0
MEMORY_TOKENS = 1_000_000.0

MAX_MODELS = 512
"""Most models whose factors are learned; the one that was used longest ago makes room."""

FACTOR_PRIOR_TOKENS = 2_000.0
LEAST_TOKENS = 16
FACTORS = (0.25, 8.0)
"""What a factor can be; a usage figure that says otherwise counts other things than this text."""


class RatioEstimator:
    """
    Bytes of text a token, learned from the counted requests of one route.

    Two sums, which start at a prior worth `PRIOR_TOKENS` and are halved whenever they pass `MEMORY_TOKENS`, so that it
    follows the traffic and needs constant memory. Both live in one tuple that is replaced as a whole: threads need no
    lock, a race can lose an observation and no more.
    """

    __slots__ = ("_sums",)

    def __init__(self) -> None:
        self._sums = (PRIOR_TOKENS * PRIOR_BYTES_A_TOKEN, PRIOR_TOKENS)

    @property
    def bytes_a_token(self) -> float:
        """
        UTF-8 bytes that one token stands for, 1 or more.
        """
        size, tokens = self._sums
        return max(1.0, size / tokens)

    def observe(self, size: int, tokens: int) -> None:
        """
        Learn that texts of *size* UTF-8 bytes had *tokens* tokens.
        """
        self._sums = _bounded(self._sums[0] + size, self._sums[1] + tokens)


def _bounded(value: float, weight: float) -> tuple[float, float]:
    return (value / 2, weight / 2) if weight > MEMORY_TOKENS else (value, weight)


@dataclass(frozen=True, slots=True)
class _Learned:
    family: ModelFamily
    sums: tuple[float, float]


class Factors:
    """
    Tokens of a model a token of the encoding that it is counted with, learned from what its provider reports.

    A model starts at its family's factor, worth `FACTOR_PRIOR_TOKENS` tokens of evidence, and follows its traffic from
    there. The distance from the factor to the ceiling is kept: texts differ by more than a mean can say. But no ceiling falls
    below its family's factor: one caller's texts, which teach for all, need not be like those of others. Models that are counted
    in their own encoding have nothing to learn.

    Safe to share between threads.
    """

    __slots__ = ("_learned", "_lock")

    def __init__(self) -> None:
        self._learned: dict[str, _Learned] = {}
        self._lock = threads.lock()  # again: the garbage collector closes streams, whose prompts are counted

    def resolve(self, model: str | None, aliases: Mapping[str, str] = NO_ALIASES) -> ModelFamily:
        """
        Return how to count for *model*, with what was learned; as `models.resolve`.
        """
        family = resolve(model, aliases)
        if family.exact:
            return family
        with self._lock:
            known = self._learned.get(family.name)
        return family if known is None else known.family

    def learn(self, model: str | None, count: TokenCount, actual: int, aliases: Mapping[str, str] = NO_ALIASES) -> None:
        """
        Learn that a prompt for *model*, counted as *count*, had *actual* tokens by the provider's usage.
        """
        prior = resolve(model, aliases)
        text = actual - count.frame
        if prior.exact or count.base < LEAST_TOKENS or not FACTORS[0] <= text / count.base <= FACTORS[1]:
            return
        with self._lock:
            known = self._learned.pop(prior.name, None)
            self._learned[prior.name] = _learn(prior, known, text, count.base)
            if len(self._learned) > MAX_MODELS:
                del self._learned[next(iter(self._learned))]


def _learn(prior: ModelFamily, known: _Learned | None, text: int, base: int) -> _Learned:
    before = (prior.factor * FACTOR_PRIOR_TOKENS, FACTOR_PRIOR_TOKENS) if known is None else known.sums
    sums = _bounded(before[0] + text, before[1] + base)
    factor = sums[0] / sums[1]
    ceiling = max(prior.factor, factor * prior.ceiling / prior.factor)
    return _Learned(replace(prior, factor=factor, ceiling=ceiling), sums)
