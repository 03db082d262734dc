"""
How often calls ended in which way, and for what they were refused: counted where they end, for metrics.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING

from tokenbudget_mw.accounting.processes import PerProcess
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


@dataclass(slots=True)
class _Counts:
    outcomes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    refusals: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    lock: Lock = field(default_factory=Lock)


class Outcomes:
    """
    Counts of one process, since it started; a fork starts with its own. The labels are known in advance.
    """

    def __init__(self) -> None:
        self._counts = PerProcess(_Counts)

    def end(self, outcome: str) -> None:
        """
        Count a call that ended as *outcome*, one of `OUTCOMES`.
        """
        counts = self._counts.get()
        with counts.lock:  # adding is three steps
            counts.outcomes[outcome if outcome in counts.outcomes else OTHER] += 1

    def refuse(self, reason: str) -> None:
        """
        Count a refusal for *reason*, one of `REASONS`.
        """
        counts = self._counts.get()
        with counts.lock:
            counts.refusals[reason if reason in counts.refusals else OTHER] += 1

    def ended(self) -> Mapping[str, int]:
        """
        Return outcome -> calls that ended so.
        """
        return MappingProxyType(dict(self._counts.get().outcomes))

    def refused(self) -> Mapping[str, int]:
        """
        Return reason -> calls that were refused for it.
        """
        return MappingProxyType(dict(self._counts.get().refusals))
