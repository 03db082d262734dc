"""
What counters must hold, worked out from a history alone: every entry is kept by itself, at its own moment, for ever.

Nothing here is shared with the window algorithms, so that a mistake of theirs cannot hide in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenbudget_mw.values import Ask, Check, Reply

__all__ = ["Book", "Call"]

KEPT = "requests"  # what an expired lease does not give back


@dataclass
class Entry:
    """
    What one call takes from one window.

    Attributes:
        moment: When it was admitted, in microseconds.

        amount: What it comes to, as far as is known.

        held: What was reserved.

        refunds: When something of it was given back, and how much.
    """

    moment: int
    amount: int
    held: int
    refunds: list[tuple[int, int]] = field(default_factory=list)

    def come_to(self, amount: int, moment: int) -> None:
        if amount < self.amount:
            self.refunds.append((moment, self.amount - amount))
        self.amount = amount


@dataclass
class Call:
    """
    An admitted call: its entries in the order of the checks; None where a check was not charged.
    """

    ends: int
    checks: tuple[Check, ...]
    entries: list[Entry | None]
    is_open: bool = True
    is_settled: bool = False


@dataclass
class Book:
    """
    Every admitted call, and what it comes to.

    Attributes:
        calls: In the order of their admission.

        credits: What an operator took off each window, in the limit's unit.
    """

    calls: list[Call] = field(default_factory=list)
    credits: dict[tuple[str, str], int] = field(default_factory=dict)

    def admit(self, asked: Ask, reply: Reply, now: int) -> None:
        """
        Write down that *asked* was admitted at *now*.
        """
        entries = [
            Entry(now, check.cost, check.cost) if state.slot >= 0 else None
            for check, state in zip(asked.checks, reply.states, strict=True)
        ]
        self.calls.append(Call(now + int(asked.lease * 1_000_000), asked.checks, entries))

    def expire(self, now: int) -> None:
        """
        Give back what calls hold whose lease has ended by *now*.
        """
        for call in self.calls:
            if call.is_open and call.ends <= now:
                call.is_open = False
                for check, entry in zip(call.checks, call.entries, strict=True):
                    if entry is not None and not check.window.startswith(KEPT):
                        entry.come_to(0, now)

    def settle(self, call: Call, actual: int, now: int) -> bool:
        """
        Let every entry of *call* come to *actual*; False where that was done before.
        """
        if call.is_settled:
            return False
        call.is_settled, call.is_open = True, False
        for check, entry in zip(call.checks, call.entries, strict=True):
            if entry is None:
                continue
            if check.algorithm == "concurrent":
                entry.come_to(0, now)
            elif actual <= entry.amount or check.algorithm != "gcra" or now - entry.moment < check.params[0]:
                entry.come_to(actual, now)  # a bucket is not charged any more for what is older than its length
        return True

    def entries(self, check: Check) -> list[Entry]:
        """
        Return the entries of the window that *check* asks about.
        """
        return [
            entry
            for call in self.calls
            for asked, entry in zip(call.checks, call.entries, strict=True)
            if entry is not None and (asked.counter, asked.window) == (check.counter, check.window)
        ]

    def spent(self, check: Check, begin: int, end: int) -> int:
        """
        Return what calls that were admitted in [*begin*, *end*] come to, less what an operator took off.
        """
        amounts = [entry.amount for entry in self.entries(check) if begin <= entry.moment <= end]
        return sum(amounts) - self.credits.get((check.counter, check.window), 0)

    def refunded(self, check: Check, begin: int) -> int:
        """
        Return what was given back from *begin* on of calls that were admitted before it.
        """
        return sum(
            amount
            for entry in self.entries(check)
            if entry.moment < begin
            for moment, amount in entry.refunds
            if moment >= begin
        )

    def in_flight(self, check: Check) -> int:
        """
        Return how many calls hold *check*'s counter.
        """
        return sum(entry.amount for entry in self.entries(check))
