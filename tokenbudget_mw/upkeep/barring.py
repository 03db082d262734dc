"""
Tells the backend which API keys may pass no more, so that every process knows it at its next request.

The key table stays the truth: each process reads it anew within ``key_cache_ttl``. A bar covers the time until all have,
and a backend that cannot be told is no error.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from tokenbudget_mw.errors import TokenBudgetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

    from tokenbudget_mw.backends.base import Backend
    from tokenbudget_mw.rules.policy import Policy
    from tokenbudget_mw.values import Subject

__all__ = ["Bars"]

log = logging.getLogger("tokenbudget_mw")


class Bars:
    """
    Bars and frees the counters of keys.

    Args:
        policy: Knows where a key's counter lives.

        opened: Gives the backend, open for as long as it is needed.

        seconds: How long a bar lasts: until every cache has asked the key table again.

        clock: Gives the moment, in epoch seconds.

    Attributes:
        has_missed: Whether something could not be told.
    """

    def __init__(
        self,
        policy: Policy,
        opened: Callable[[], AbstractContextManager[Backend]],
        seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._policy = policy
        self._opened = opened
        self._seconds = seconds
        self._clock = clock
        self.has_missed = False

    def tell(self, changes: Iterable[tuple[Subject, str]]) -> None:
        """
        Tell what has become of keys, after it stands in the key table. Where the backend cannot be told, the time of the
        key cache holds, and the log says so.

        Args:
            changes: Each key's subject, and its status: ``active`` frees it, anything else bars it.
        """
        untold = list(changes)
        if not untold:
            return
        try:
            with self._opened() as backend:
                while untold:
                    subject, status = untold[-1]
                    barred_as = "" if status == "active" else status
                    backend.bar(
                        self._policy.tag_of(subject),
                        self._policy.holder_of(subject),
                        barred_as,
                        self._seconds,
                        self._clock(),
                    )
                    untold.pop()
        except TokenBudgetError as exc:
            kids = ", ".join(str(subject.key) for subject, _ in untold[:10])
            log.warning("The backend could not be told of %s changed keys (%s): %s", len(untold), kids, exc)
            self.has_missed = True
