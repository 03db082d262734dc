"""
The tokenizers of an app: which model is counted by which, how much of a prompt they read, and what they have learned.
"""

from __future__ import annotations

import copy
import sys
from typing import TYPE_CHECKING, Self

from tokenbudget_mw.counting.encoders import Encoder, default_encoders
from tokenbudget_mw.counting.learning import Factors
from tokenbudget_mw.counting.meter import USUAL_DEPTH, Depth, Meter
from tokenbudget_mw.counting.models import NO_ALIASES, ModelFamily, folded, normalise, original

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tokenbudget_mw.counting.base import Counter
    from tokenbudget_mw.counting.encoders import Encoders
    from tokenbudget_mw.counting.learning import RatioEstimator
    from tokenbudget_mw.values import TokenCount

__all__ = ["Tokenizers"]

MOST_KNOWN = 1_024
"""Most names of models that are looked up once only; clients choose names."""

WHOLE = Depth(exact=sys.maxsize)


class Tokenizers:
    """
    Makes the meter of a prompt. Safe to share between threads.

    Args:
        aliases: Deployment names of the host -> models.

        counters: Model -> the host's own counter for it; a name that ends in ``*`` stands for all that begin so. They come
            before the built-in families, and what they say is exact.

        encoders: The encodings; None takes those that the process shares.

        depth: How much of a prompt is tokenised.

    Attributes:
        depth: The same.

        is_cancelled: See `exactly`; None where counts are not stopped.
    """

    def __init__(
        self,
        aliases: Mapping[str, str] = NO_ALIASES,
        *,
        counters: Mapping[str, Counter] | None = None,
        encoders: Encoders | None = None,
        depth: Depth = USUAL_DEPTH,
    ) -> None:
        self._aliases = folded(aliases)
        self._own = {name: Encoder(name, counter.count) for name, counter in (counters or {}).items()}
        self._encoders = encoders
        self.depth = depth
        self._factors = Factors()
        self._known: dict[str | None, tuple[ModelFamily, Encoder]] = {}
        self.is_cancelled: Callable[[], bool] | None = None

    def resolve(self, model: str | None) -> ModelFamily:
        """
        Return how to count for *model*, with what was learned.
        """
        if self._own:
            name = original(model, self._aliases)
            found = self._own_for(name)
            if found is not None:
                return ModelFamily(normalise(name), found.name, 1.0, exact=True, family="own")
        return self._factors.resolve(model, self._aliases)

    def meter(
        self,
        model: str | None,
        is_counted: bool = True,
        ratio: RatioEstimator | None = None,
    ) -> Meter:
        """
        Return a meter for one prompt to *model*.

        Args:
            model: Model as the request names it.

            is_counted: Whether texts are tokenised; else they are weighed.

            ratio: What the route has learned; see `Meter`.
        """
        if not is_counted:
            return Meter(self.resolve(model), None, ratio, self.depth)
        family, encoder = self._known.get(model) or self._look_up(model)
        if encoder is not None and self.is_cancelled is not None:
            encoder = encoder.cancellable(self.is_cancelled)
        return Meter(family, encoder, ratio, self.depth)

    def exactly(self, is_cancelled: Callable[[], bool] = lambda: False) -> Self:
        """
        Return the same tokenizers, but exact however long a text is: for a thread, not for an event loop.

        Args:
            is_cancelled: Asked between slices of a long text; where it says so, `CountCancelledError` is raised.
        """
        other = copy.copy(self)
        other.depth = WHOLE
        other.is_cancelled = is_cancelled
        return other

    def count(self, text: str, model: str | None) -> TokenCount:
        """
        Return the tokens that *model* makes of *text*.
        """
        meter = self.meter(model)
        meter.text(text)
        return meter.result()

    def learn(self, model: str | None, count: TokenCount, actual: int) -> None:
        """
        Learn that a prompt for *model*, counted as *count*, had *actual* tokens by the provider's usage.
        """
        self._factors.learn(model, count, actual, self._aliases)

    def _own_for(self, model: str) -> Encoder | None:
        for name in (model, normalise(model)):
            if name in self._own:
                return self._own[name]
        plain = normalise(model)
        return next((own for name, own in self._own.items() if name[-1:] == "*" and plain.startswith(name[:-1])), None)

    def _look_up(self, model: str | None) -> tuple[ModelFamily, Encoder | None]:
        """
        Return how to count for *model*, and the encoder; None while that is being loaded, for whoever cannot wait.
        """
        family = self.resolve(model)
        if family.family == "own":
            encoder: Encoder | None = self._own[family.encoding]
        else:
            self._encoders = self._encoders or default_encoders()
            find = self._encoders.ready if self.is_cancelled is None else self._encoders.get
            encoder = find(family.encoding)
        if encoder is not None and family.exact and len(self._known) < MOST_KNOWN:
            self._known[model] = family, encoder  # nothing that is learned will change it
        return family, encoder
