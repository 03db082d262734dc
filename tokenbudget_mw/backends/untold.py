"""
Settlements that a backend which is away has not heard of.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

from tokenbudget_mw.backends.debts import MOST_AWAY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenbudget_mw.values import Settlement

__all__ = ["UNTOLD", "Untold"]

log = logging.getLogger("tokenbudget_mw")

UNTOLD = 10_000
"""How many settlements wait for the backend; beyond it the oldest are left to their leases."""


class Untold:
    """
    Settlements that the backend has not heard of, oldest first.
    """

    def __init__(self) -> None:
        self.waiting: deque[tuple[Settlement, float]] = deque()
        self.is_full = False

    def add(self, settlement: Settlement, now: float) -> None:
        """
        Keep *settlement* for later.
        """
        self.waiting.append((settlement, now))
        if len(self.waiting) > UNTOLD:
            self.waiting.popleft()
            if not self.is_full:
                log.error("More than %s settlements wait for the backend; the oldest are left to their leases.", UNTOLD)
            self.is_full = True
        elif self.is_full and len(self.waiting) < UNTOLD // 2:
            self.is_full = False

    def next(self) -> tuple[Settlement, float] | None:
        """
        Take the oldest, with its moment; None where there is none. Whoever could not tell it keeps it.
        """
        try:
            return self.waiting.popleft()
        except IndexError:
            return None

    def round(self, away: set[str]) -> Iterator[tuple[Settlement, float]]:
        """
        Give each that waits now once, but for those whose tag is *away*: they wait on, and all do where many are.
        """
        for _ in range(len(self.waiting)):
            told = self.next() if len(away) < MOST_AWAY else None
            if told is None:
                return
            if told[0].reservation.tag in away:
                self.keep(told)
            else:
                yield told

    def keep(self, told: tuple[Settlement, float]) -> None:
        """
        Tell it later, and the others first.
        """
        self.waiting.append(told)
