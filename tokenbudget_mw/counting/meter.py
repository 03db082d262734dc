"""
The meter of one prompt: takes its parts one by one, in bounded time, and tells its tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from tokenbudget_mw.counting.sampling import USUAL, sample, utf8_size
from tokenbudget_mw.values import TokenCount

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tokenbudget_mw.counting.encoders import Encoder
    from tokenbudget_mw.counting.learning import RatioEstimator
    from tokenbudget_mw.counting.models import ModelFamily
    from tokenbudget_mw.counting.sampling import Sampling

__all__ = ["EXACT_CHARS", "MAX_STEPS", "USUAL_DEPTH", "Depth", "Meter", "TooManyPartsError"]

EXACT_CHARS = 16_384
"""Most characters of a prompt that are tokenised, remembered ones not counted; about 5 ms on the worst text."""

MAX_STEPS = 4_096
"""Most parts a prompt is taken apart into; beyond them the size of its body bounds it."""

BYTES_A_TOKEN = {"bytes": 3.0, "none": 4.0}


REMEMBERED = 4
"""Of a prompt that is sampled this part of the exact threshold is tokenised beside the sample, text by text."""

LEAST_SHARE = 20
"""How many times the tokens in doubt the text must have for a factor to learn from it."""


class TooManyPartsError(Exception):
    """
    The prompt has more than `MAX_STEPS` parts.
    """


@dataclass(frozen=True, slots=True)
class Depth:
    """
    How much of a prompt is tokenised.

    Attributes:
        exact: Most characters that are, all of them; texts that were counted lately are free.

        sample: How a longer prompt is sampled.

        most: *exact*, or what the sample has, if that is more.
    """

    exact: int = EXACT_CHARS
    sample: Sampling = USUAL
    most: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "most", max(self.exact, self.sample.all_chars))


USUAL_DEPTH = Depth()


class Meter(msgspec.Struct, gc=False):
    """
    Adds up one prompt.

    Texts that are known cost nothing. The others are tokenised in the end, all of them; or some of them, to be known the next
    time, and a sample of the rest. So what a prompt costs is bounded, and a long conversation becomes exact by and by.

    A struct, because one is made for every request: it comes to be in a tenth of the time that a class of its size takes.

    Attributes:
        family: How to count for the request's model.

        encoder: Counts texts in the family's encoding; None weighs them in bytes instead.

        ratio: What the route has learned of bytes and tokens; None takes the constants.

        depth: How much is tokenised.

        frame: Tokens around the texts, in the model's own tokens.

        is_whole: Whether the model reads nothing beside what was added: what the request refers to, or what the provider's own
            tools find. Otherwise its usage teaches nothing of the text.
    """

    family: ModelFamily
    encoder: Encoder | None
    ratio: RatioEstimator | None = None
    depth: Depth = USUAL_DEPTH
    frame: int = 0
    is_whole: bool = True
    _texts: list[str] = msgspec.field(default_factory=list)
    _steps: int = MAX_STEPS
    _extra: int = 0
    _guessed: bool = False

    def again(self) -> Meter:
        """
        Return a meter that counts the same, for what this one has counted: it has learned from it already.
        """
        return Meter(self.family, self.encoder, depth=self.depth)

    @property
    def seen(self) -> int:
        """
        Characters of all texts.
        """
        return sum(map(len, self._texts))

    def step(self, parts: int = 1) -> None:
        """
        Account for one more part, or several.

        Raises:
            TooManyPartsError: That was one too many.
        """
        self._steps -= parts
        if self._steps < 0:
            raise TooManyPartsError

    def text(self, text: str) -> None:
        """
        Add a text that the model reads.
        """
        self._texts.append(text)

    def texts(self, texts: Iterable[str]) -> None:
        """
        Add several texts.
        """
        self._texts += texts

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

    def result(self) -> TokenCount:
        """
        Return the prompt's tokens, and teach the route's ratio what was tokenised. For once.
        """
        encoder, family = self.encoder, self.family
        if encoder is None:
            return self._by_bytes()
        # all texts at once: to look them up one by one takes longer than to know them
        tokens, new = encoder.memory.sum(self._texts, self.depth.most)
        rest = ""
        if new:
            new, rest = self._parted(new)
            tokens += encoder.count_new(new)
        if self.ratio is not None:
            self.ratio.observe(_size(self._texts) - utf8_size(rest), tokens)
        if not rest and family.exact and not self._guessed:
            total = tokens + self.frame
            return TokenCount(total, total, True, "exact")
        base, upper = float(tokens), math.ceil(tokens * family.ceiling)
        if rest:
            found = sample(rest, encoder.count, self.depth.sample)
            base += found.estimate
            upper += min(math.ceil(found.upper * family.ceiling), found.size)
        estimate = min(math.ceil(base * family.factor), upper) + self.frame
        # images and files blur what a usage figure says of the text
        teaches = self.is_whole and self._extra * LEAST_SHARE <= base
        return TokenCount(
            estimate,
            upper + self.frame + self._extra,
            exact=False,
            method="sampled" if rest else "exact",
            base=round(base) if teaches else 0,
            frame=self.frame if teaches else 0,
        )

    def _parted(self, new: list[str]) -> tuple[list[str], str]:
        """
        Return which of the texts that are not known are tokenised, and the rest of them, of which a sample is.
        """
        depth = self.depth
        if sum(map(len, new)) > depth.most:
            first, others = _first(new, depth.exact // REMEMBERED)
            if sum(map(len, others)) > depth.sample.all_chars:  # else a sample of them would be all of them
                return first, "".join(others)
        return new, ""

    def _by_bytes(self) -> TokenCount:
        weighed, frame, ratio = _size(self._texts), self.frame, self.ratio
        if not weighed and self.family.exact and not self._guessed:
            return TokenCount(frame, frame, True, "exact")
        method, bytes_a_token = ("none", BYTES_A_TOKEN["none"]) if ratio is None else ("learned", ratio.bytes_a_token)
        upper = weighed + frame
        estimate = math.ceil(weighed / bytes_a_token * self.family.factor) + frame
        return TokenCount(min(estimate, upper), upper + self._extra, exact=False, method=method)


def _size(texts: list[str]) -> int:
    """
    Return the UTF-8 bytes of *texts*.
    """
    return utf8_size("".join(texts))


def _first(texts: list[str], most: int) -> tuple[list[str], list[str]]:
    """
    Return the first of *texts* that have *most* characters together, and the others.
    """
    first, others = [], []
    for text in texts:
        if len(text) <= most:
            most -= len(text)
            first.append(text)
        else:
            others.append(text)
    return first, others
