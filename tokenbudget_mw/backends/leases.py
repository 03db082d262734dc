"""
Open reservations of one process, found by id and by the second in which they end.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec
from msgspec.structs import replace

if TYPE_CHECKING:
    from tokenbudget_mw.values import Ask, Reply

__all__ = ["Lease", "Leases"]

SECOND = 1_000_000
NEVER = 1 << 62

Counter = TypeVar("Counter")


class Lease(msgspec.Struct, Generic[Counter], frozen=True, gc=False):
    """
    What an admitted ask holds until it is settled.

    Attributes:
        expires: When it gives back what it holds, in microseconds since the epoch.

        ask: What was asked.

        reply: How it was answered.

        counters: What it holds; one counter may stand here more than once.
    """

    expires: int
    ask: Ask
    reply: Reply
    counters: list[Counter]


class Leases(Generic[Counter]):
    """
    The open leases, and the ids of those that ended unsettled.

    An id that is neither was settled, so memory grows with what is open and not with what was served.

    Args:
        batch: The most leases that one call of `expire` ends.

        remembered: The most ids of unsettled ends that are kept, oldest forgotten first.

    Attributes:
        open: The open leases by id; to be read only.

        next_due: No lease ends before this moment, in microseconds.
    """

    def __init__(self, *, batch: int = 64, remembered: int = 65_536) -> None:
        self.next_due = NEVER
        self._batch = batch
        self._remembered = remembered
        self.open: dict[str, Lease[Counter]] = {}
        self._due: dict[int, dict[str, None]] = {}
        self._seconds: list[int] = []
        self._unsettled: dict[str, None] = {}

    def __len__(self) -> int:
        """
        Return how many leases are open.
        """
        return len(self.open)

    def __contains__(self, id: str) -> bool:  # noqa: A002
        """
        Tell whether the lease *id* is open, or ended unsettled.
        """
        return id in self.open or id in self._unsettled

    def add(self, lease: Lease[Counter]) -> None:
        """
        Keep *lease* until it is closed or ends.
        """
        id_ = lease.ask.id
        second = lease.expires // SECOND
        self.open[id_] = lease
        due = self._due.get(second)
        if due is None:
            due = self._due[second] = {}
            heapq.heappush(self._seconds, second)
            self.next_due = min(self.next_due, lease.expires)
        elif lease.expires < self.next_due:
            self.next_due = lease.expires
        due[id_] = None

    def close(self, id: str) -> Lease[Counter] | None:  # noqa: A002
        """
        Take the open lease *id* out and return it; None where it is not open.
        """
        lease = self.open.pop(id, None)
        if lease is not None:
            del self._due[lease.expires // SECOND][id]
        return lease

    def renew(self, id: str, expires: int) -> bool:  # noqa: A002
        """
        Let the open lease *id* end at *expires*, and not earlier; False where it is not open.
        """
        lease = self.open.get(id)
        if lease is None:
            return False
        if expires > lease.expires:
            self.close(id)
            self.add(replace(lease, expires=expires))
        return True

    def claim(self, id: str) -> bool:  # noqa: A002
        """
        Tell, once, whether the lease *id* ended unsettled.
        """
        return self._unsettled.pop(id, self) is None

    def expire(self, now: int) -> list[Lease[Counter]]:
        """
        Take out and return leases that have ended by *now*, a bounded number of them.
        """
        ended: list[Lease[Counter]] = []
        self.next_due = NEVER
        while self._seconds and self.next_due == NEVER:
            second = self._seconds[0]
            if second * SECOND > now or len(ended) >= self._batch:
                self.next_due = second * SECOND
                break
            self._expire_second(self._due[second], now, ended)
            if not self._due[second]:
                del self._due[second]
                heapq.heappop(self._seconds)
        return ended

    def _expire_second(self, due: dict[str, None], now: int, ended: list[Lease[Counter]]) -> None:
        for id_ in list(due):
            lease = self.open[id_]
            if lease.expires > now or len(ended) >= self._batch:
                self.next_due = min(self.next_due, lease.expires)
                continue
            del due[id_], self.open[id_]
            ended.append(lease)
            self._remember(id_)

    def _remember(self, id_: str) -> None:
        while len(self._unsettled) >= self._remembered:
            del self._unsettled[next(iter(self._unsettled))]
        self._unsettled[id_] = None
