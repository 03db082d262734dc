"""
What the memory backend sees when it looks at a window and charges nothing.
"""

from __future__ import annotations

from typing import NamedTuple

from tokenbudget_mw.rules.windows import ALGORITHMS, State
from tokenbudget_mw.values import Check, CheckState

__all__ = ["Look"]


class Look(NamedTuple):
    """
    What a check found.

    Attributes:
        check: The check.

        state: The state of its window.

        slot: Where a charge would go.

        used: What counts now.

        fitted: Whether it fits.
    """

    check: Check
    state: State
    slot: int
    used: int
    fitted: bool

    def answer(self, moment: int, real: int) -> CheckState:
        """
        Answer the check, which is not charged.

        Args:
            moment: When it was looked at, in microseconds; never before any charge.

            real: What the caller's clock said then, from which it counts.
        """
        check, need = self.check, max(self.check.cost, self.check.room)
        algorithm = ALGORITHMS[check.algorithm]
        reset = (algorithm.empty_at(self.state, check.params, moment) - real) / 1_000_000
        if self.fitted:
            wait: float | None = 0.0
        elif need > check.cap:
            wait = None
        else:
            excess = self.used + need - check.cap
            wait = (algorithm.frees_at(self.state, check.params, excess, moment) - real) / 1_000_000
        return CheckState(self.fitted, max(check.cap - self.used, 0), reset, wait, -1)
