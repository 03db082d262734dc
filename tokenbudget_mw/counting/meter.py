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
    from collections.abc import Sequence

    from tokenbudget_mw.counting.encoders import Encoder
    from tokenbudget_mw.counting.learning import RatioEstimator
    from tokenbudget_mw.counting.models import ModelFamily
    from tokenbudget_mw.counting.sampling import Sample, Sampling

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

        tokens: Tokens of what was tokenised, in the family's encoding.

        frame: Tokens around the texts, in the model's own tokens.

        counted: UTF-8 bytes of what was tokenised; only kept where *ratio* wants to learn.

        weighed: UTF-8 bytes of the text that was not tokenised.

        seen: Characters of all texts but words.

        is_whole: Whether the model reads nothing beside what was added: what the request refers to, or what the provider's own
            tools find. Otherwise its usage teaches nothing of the text.
    """

    family: ModelFamily
    encoder: Encoder | None
    ratio: RatioEstimator | None = None
    depth: Depth = USUAL_DEPTH
    tokens: int = 0
    frame: int = 0
    counted: int = 0
    weighed: int = 0
    seen: int = 0
    is_whole: bool = True
    _new: list[str] = msgspec.field(default_factory=list)
    _steps: int = MAX_STEPS
    _extra: int = 0
    _guessed: bool = False

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
        self.texts((text,))

    def texts(self, texts: Sequence[str]) -> None:
        """
        Add several texts; cheaper than one by one.
        """
        encoder = self.encoder
        self.seen += sum(map(len, texts))
        if encoder is None:
            self.weighed += sum(map(utf8_size, texts))
            return
        known, unknown = encoder.memory.sum(texts, self.depth.most)
        self.tokens += known
        self._new += unknown
        if self.ratio is not None:
            self.counted += sum(map(utf8_size, texts)) - sum(map(utf8_size, unknown))

    def words(self, words: Sequence[str]) -> None:
        """
        Add short texts of which there are few, such as roles; cheaper than texts.
        """
        encoder = self.encoder
        if encoder is None or self.ratio is not None:
            self.texts(words)
            return
        try:
            self.tokens += sum(map(encoder.words.__getitem__, words))
        except KeyError:
            self.texts([word for word in words if not encoder.is_word(word)])
            self.tokens += sum(encoder.words.get(word, 0) for word in words)

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
        rest = self._count_new() if self._new else None
        if self.counted and self.ratio is not None:
            self.ratio.observe(self.counted, self.tokens)
        family = self.family
        if family.exact and rest is None and not self._guessed and not self.weighed:
            total = self.tokens + self.frame
            return TokenCount(total, total, True, "exact")
        if self.encoder is None:
            return self._by_bytes()
        base, upper = float(self.tokens), math.ceil(self.tokens * family.ceiling)
        if rest is not None:
            base += rest.estimate
            upper += min(math.ceil(rest.upper * family.ceiling), rest.size)
        estimate = min(math.ceil(base * family.factor), upper) + self.frame
        # images and files blur what a usage figure says of the text
        teaches = self.is_whole and self._extra * LEAST_SHARE <= base
        return TokenCount(
            estimate,
            upper + self.frame + self._extra,
            exact=False,
            method="exact" if rest is None else "sampled",
            base=round(base) if teaches else 0,
            frame=self.frame if teaches else 0,
        )

    def _count_new(self) -> Sample | None:
        """
        Count what is not known; where that is too much count some of it, and return a sample of the rest.
        """
        new, rest, encoder, depth = self._new, "", self.encoder, self.depth
        if encoder is None:
            return None
        if sum(map(len, new)) > depth.most:
            first, others = _first(new, depth.exact // REMEMBERED)
            if sum(map(len, others)) > depth.sample.all_chars:  # else a sample of them would be all of them
                new, rest = first, "".join(others)
        if new:
            self.tokens += encoder.count_new(new)
            if self.ratio is not None:
                self.counted += sum(map(utf8_size, new))
        return sample(rest, encoder.count, depth.sample) if rest else None

    def _by_bytes(self) -> TokenCount:
        ratio = self.ratio
        method, bytes_a_token = ("none", BYTES_A_TOKEN["none"]) if ratio is None else ("learned", ratio.bytes_a_token)
        upper = self.weighed + self.frame
        estimate = math.ceil(self.weighed / bytes_a_token * self.family.factor) + self.frame
        return TokenCount(min(estimate, upper), upper + self._extra, exact=False, method=method)


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
