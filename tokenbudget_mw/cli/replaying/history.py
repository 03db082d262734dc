"""
The replay's own history of what was reserved and settled: a witness that knows nothing of the backend.

For each token limit and each value of its scopes it keeps every admitted request with its moment and its tokens, as they
were reserved and later as they were settled, and looks at the whole trailing window at every admission.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenbudget_mw.values import Limit, Subject, Tally, Usage

__all__ = ["Entry", "History", "Worst"]

TOKEN_UNITS = frozenset({"tokens", "input_tokens", "output_tokens"})


@dataclass(slots=True)
class Entry:
    """
    What one request holds of one window.

    Attributes:
        at: When it was admitted, in epoch seconds.

        tokens: What it holds, in the limit's unit: as reserved, later as settled.

        window: Where it stands.
    """

    at: float
    tokens: int
    window: _Window


@dataclass(frozen=True, slots=True)
class Worst:
    """
    The fullest window of a limit at any admission.

    Attributes:
        key: Value of the limit's scopes.

        tokens: What it held, the admitted request included.

        cap: The limit's amount.

        at: When that was, in epoch seconds.
    """

    key: str
    tokens: int
    cap: int
    at: float


@dataclass(slots=True)
class _Window:
    seconds: float
    entries: deque[Entry] = field(default_factory=deque)
    total: int = 0

    def admit(self, at: float, tokens: int) -> Entry:
        """
        Forget what has left the window that ends at *at*, and add *tokens*. Both ends belong to the window.
        """
        while self.entries and self.entries[0].at < at - self.seconds:
            self.total -= self.entries.popleft().tokens
        entry = Entry(at, tokens, self)
        self.entries.append(entry)
        self.total += tokens
        return entry

    def settle(self, entry: Entry, tokens: int) -> None:
        """
        Put *tokens* in the place of what *entry* held; in the total only while it still stands in the window.
        """
        if self.entries and self.entries[0].at <= entry.at:
            self.total += tokens - entry.tokens
        entry.tokens = tokens


class History:
    """
    All windows of all enforced token limits.

    Attributes:
        worst: Name of the limit -> its fullest window.
    """

    def __init__(self) -> None:
        self.worst: dict[str, Worst] = {}
        self._windows: dict[tuple[str, str], _Window] = {}

    def admit(
        self, at: float, tallies: Iterable[Tally], subject: Subject, model: str | None
    ) -> list[tuple[str, Entry]]:
        """
        Note an admitted request. Returns its entries, each with the limit's unit.
        """
        return [
            (tally.limit.unit, self._admit(at, tally, _value(tally.limit, subject, model)))
            for tally in _watched(tallies)
        ]

    def settle(self, entries: Iterable[tuple[str, Entry]], usage: Usage) -> None:
        """
        Note what a request truly used.
        """
        actual = {
            "tokens": usage.input_tokens + usage.output_tokens,
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
        }
        for unit, entry in entries:
            entry.window.settle(entry, actual[unit])

    def _admit(self, at: float, tally: Tally, value: str) -> Entry:
        limit = tally.limit
        window = self._windows.get((limit.name, value))
        if window is None:
            window = self._windows[limit.name, value] = _Window(_seconds(limit) or 0.0)
        entry = window.admit(at, tally.cost)
        worst = self.worst.get(limit.name)
        if worst is None or window.total > worst.tokens:
            self.worst[limit.name] = Worst(value, window.total, limit.amount, at)
        return entry


def _watched(tallies: Iterable[Tally]) -> Iterator[Tally]:
    for tally in tallies:
        limit = tally.limit
        if limit.unit in TOKEN_UNITS and limit.mode == "enforce" and _seconds(limit) is not None:
            yield tally


def _seconds(limit: Limit) -> float | None:
    return None if limit.window is None else limit.window.seconds


def _value(limit: Limit, subject: Subject, model: str | None) -> str:
    values = {"model": model, "route": "route", "global": "all"}
    return ",".join(str(values.get(scope) or getattr(subject, scope)) for scope in limit.per)
