"""
The meter of one prompt: takes its parts one by one, in bounded time, and tells its tokens.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tokenbudget_mw.values import TokenCount

if TYPE_CHECKING:
    from tokenbudget_mw.counting.encoders import Encoders
    from tokenbudget_mw.counting.models import ModelFamily
    from tokenbudget_mw.counting.sampling import RatioEstimator

__all__ = ["EXACT_CHARS", "MAX_STEPS", "Meter", "TooManyPartsError", "utf8_size"]

EXACT_CHARS = 16_384
"""Most characters of a prompt that are tokenised, remembered ones not counted; about 10 ms on the worst text."""

MAX_STEPS = 4_096
"""Most parts a prompt is taken apart into; beyond them the size of its body bounds it."""

BYTES_A_TOKEN = {"bytes": 3.0, "none": 4.0}


class TooManyPartsError(Exception):
    """
    The prompt has more than `MAX_STEPS` parts.
    """


class Meter:
    """
    Adds up one prompt.

    Text is tokenised until `EXACT_CHARS` are spent; what comes after is weighed in bytes, of which no byte-level
    encoding makes more than one token each.

    Args:
        family: How to count for the request's model.

        encoders: The encoders to use; None weighs all text instead of tokenising it.

        ratio: What the route has learned of bytes and tokens; None takes the constants.

    Attributes:
        tokens: Tokens of what was tokenised, in the family's encoding.

        frame: Tokens around the texts, in the model's own tokens.

        counted: UTF-8 bytes of what was tokenised; only kept where *ratio* wants to learn.

        weighed: UTF-8 bytes of the text that was not tokenised.
    """

    __slots__ = (
        "_encoder",
        "_extra",
        "_guessed",
        "_left",
        "_ratio",
        "_steps",
        "counted",
        "family",
        "frame",
        "tokens",
        "weighed",
    )

    def __init__(self, family: ModelFamily, encoders: Encoders | None, *, ratio: RatioEstimator | None = None) -> None:
        self.family = family
        self.tokens = 0
        self.frame = 0
        self.counted = 0
        self.weighed = 0
        self._encoder = None if encoders is None else encoders.get(family.encoding)
        self._ratio = ratio
        self._left = EXACT_CHARS
        self._steps = MAX_STEPS
        self._extra = 0
        self._guessed = False

    def step(self) -> None:
        """
        Account for one more part.

        Raises:
            TooManyPartsError: That was one too many.
        """
        self._steps -= 1
        if self._steps < 0:
            raise TooManyPartsError

    def text(self, text: str) -> None:
        """
        Add a text that the model reads.
        """
        encoder = self._encoder
        if encoder is None or len(text) > EXACT_CHARS:
            self.weighed += utf8_size(text)
            return
        found = encoder.memory.get(text)
        if found is None:
            if len(text) > self._left:
                self.weighed += utf8_size(text)
                return
            self._left -= len(text)
            found = encoder.count(text)
            encoder.memory.put(text, found)
        self.tokens += found
        if self._ratio is not None:
            self.counted += utf8_size(text)

    def guess(self, tokens: int, upper: int) -> None:
        """
        Add something that is not text, of about *tokens* and hardly more than *upper* of the model's tokens.
        """
        self.frame += tokens
        self._extra += max(0, upper - tokens)
        self._guessed = True

    def approximate(self) -> None:
        """
        Say that the rule that counts this prompt is not the provider's published one.
        """
        self._guessed = True

    def learn(self) -> None:
        """
        Teach the route's ratio what the tokenised texts had.
        """
        if self._ratio is not None and self.counted:
            self._ratio.observe(self.counted, self.tokens)

    def result(self) -> TokenCount:
        """
        Return the prompt's tokens.
        """
        family = self.family
        if family.exact and not self.weighed and not self._guessed:
            total = self.tokens + self.frame
            return TokenCount(total, total, exact=True, method="exact")
        method, rest = self._rest()
        estimate = math.ceil((self.tokens + rest) * family.factor) + self.frame
        upper = math.ceil(self.tokens * family.ceiling) + self.weighed + self.frame + self._extra
        return TokenCount(min(estimate, upper), upper, exact=False, method=method)

    def _rest(self) -> tuple[str, float]:
        if not self.weighed:
            return "exact", 0.0
        if self._encoder is not None:
            return "bytes", self.weighed / BYTES_A_TOKEN["bytes"]
        if self._ratio is None:
            return "none", self.weighed / BYTES_A_TOKEN["none"]
        return "learned", self.weighed / self._ratio.bytes_a_token


def utf8_size(text: str) -> int:
    """
    Return the bytes of *text* in UTF-8; a lone surrogate, which has none, as the three of its replacement.
    """
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
