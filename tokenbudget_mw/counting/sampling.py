"""
Sampling: count some requests of a route, estimate the others by what was learned.
"""

from __future__ import annotations

__all__ = ["PRIOR_BYTES_A_TOKEN", "RatioEstimator"]

PRIOR_BYTES_A_TOKEN = 4.0
PRIOR_TOKENS = 1_000.0
MEMORY_TOKENS = 1_000_000.0


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
        sums = (self._sums[0] + size, self._sums[1] + tokens)
        if sums[1] > MEMORY_TOKENS:
            sums = (sums[0] / 2, sums[1] / 2)
        self._sums = sums
