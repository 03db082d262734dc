"""
How often calls ended in which way, and for what they were refused: counted where they end, for metrics.
"""

from __future__ import annotations

from threading import RLock
from types import MappingProxyType
from typing import TYPE_CHECKING

from tokenbudget_mw.processes import call_in_children
from tokenbudget_mw.rules.messages import CODES
from tokenbudget_mw.rules.settlement import DEFAULT_SETTLE

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["OTHER", "OUTCOMES", "REASONS", "Outcomes"]

OTHER = "other"
"""What a reason is counted as that is none of ours, so that nobody's input can make new labels."""

OUTCOMES = (*DEFAULT_SETTLE, "late", "refused", OTHER)
"""What `settle_reason` of a row may be."""

REASONS = (*CODES, OTHER)
"""What a call may be refused for."""


class Outcomes:
    """
    Counts of one process, since it started; a fork starts with its own. The labels are known in advance.
    """

    def __init__(self) -> None:
        self._renew()
        # told of forks, and not asking for the process id each time, which is a call of the system's
        call_in_children(self._renew)

    def end(self, outcome: str) -> None:
        """
        Count a call that ended as *outcome*, one of `OUTCOMES`.
        """
        with self._lock:  # adding is three steps
            self._ended[outcome if outcome in self._ended else OTHER] += 1

    def refuse(self, reason: str) -> None:
        """
        Count a refusal for *reason*, one of `REASONS`.
        """
        with self._lock:
            self._refused[reason if reason in self._refused else OTHER] += 1

    def ended(self) -> Mapping[str, int]:
        """
        Return outcome -> calls that ended so.
        """
        return MappingProxyType(dict(self._ended))

    def refused(self) -> Mapping[str, int]:
        """
        Return reason -> calls that were refused for it.
        """
        return MappingProxyType(dict(self._refused))

    def _renew(self) -> None:
        self._lock = RLock()
        self._ended: dict[str, int] = dict.fromkeys(OUTCOMES, 0)
        self._refused: dict[str, int] = dict.fromkeys(REASONS, 0)
