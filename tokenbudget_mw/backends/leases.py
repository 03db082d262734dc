"""
Open reservations of one process, found by id and by the moment at which they end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec
from msgspec.structs import replace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenbudget_mw.values import Ask, Check, Reply

__all__ = ["Lease", "Leases"]

NEVER = 1 << 62

Counter = TypeVar("Counter")


class Lease(msgspec.Struct, Generic[Counter], frozen=True, gc=False):
    """
    What an admitted ask holds until it is settled.

    Attributes:
        expires: When it gives back what it holds, in microseconds since the epoch.

        ask: What was asked.

        reply: How it was answered.

        counters: What it holds, each once.

        forgotten: Counters and windows to which nothing goes back: all that counted there has been taken off.
    """

    expires: int
    ask: Ask
    reply: Reply
    counters: Sequence[Counter]
    forgotten: frozenset[tuple[str, str]] = frozenset()

    def has_forgotten(self, check: Check) -> bool:
        """
        Tell whether nothing goes back to the window of *check*.
        """
        return (check.counter, check.window) in self.forgotten


class Leases(Generic[Counter]):
    """
    The open leases, and the ids of those that ended unsettled.

    Leases of one length end in the order in which they began, so each length has a queue: a dict, which keeps that order
    and finds an id. An id that is nowhere was settled: memory grows with what is open and not with what was served.

    Args:
        batch: The most leases that one call of `expire` ends.

        remembered: The most ids of unsettled ends that are kept, oldest forgotten first.

    Attributes:
        next_due: No lease ends before this moment, in microseconds.

        usual: The open leases of the length that was added last, which nearly all have; to be read only.

        are_many: Whether there are others.
    """

    def __init__(self, *, batch: int = 64, remembered: int = 65_536) -> None:
        self.next_due = NEVER
        self._batch = batch
        self._remembered = remembered
        self.usual: dict[str, Lease[Counter]] = {}
        self.are_many = False
        self._length = 0.0
        self._queues: dict[float, dict[str, Lease[Counter]]] = {}
        self._unsettled: dict[str, None] = {}

    def __len__(self) -> int:
        """
        Return how many leases are open.
        """
        return sum(len(queue) for queue in self._queues.values())

    def __contains__(self, id: str) -> bool:  # noqa: A002
        """
        Tell whether the lease *id* is open, or ended unsettled.
        """
        return self.get(id) is not None or id in self._unsettled

    def get(self, id: str) -> Lease[Counter] | None:  # noqa: A002
        """
        Return the open lease *id*; None where it is not open.
        """
        for queue in self._queues.values():
            if id in queue:
                return queue[id]
        return None

    def add(self, lease: Lease[Counter], length: float) -> None:
        """
        Keep *lease* until it is closed or ends; it ends *length* seconds from now.
        """
        if length != self._length:
            self._length = length
            self.usual = self._queues.setdefault(length, {})
            self.are_many = len(self._queues) > 1
        self.usual[lease.ask.id] = lease
        if lease.expires < self.next_due:  # noqa: PLR1730 - min() costs more than all of this
            self.next_due = lease.expires

    def close(self, id: str) -> Lease[Counter] | None:  # noqa: A002
        """
        Take the open lease *id* out and return it; None where it is not open.
        """
        lease = self.usual.pop(id, None)
        if lease is None and self.are_many:
            for queue in self._queues.values():
                if id in queue:
                    return queue.pop(id)
        return lease

    def renew(self, id: str, expires: int, length: float) -> bool:  # noqa: A002
        """
        Let the open lease *id* end at *expires*, *length* seconds from now, and not earlier; False where it is not open.
        """
        lease = self.get(id)
        if lease is None:
            return False
        if expires > lease.expires:
            self.close(id)
            self.add(replace(lease, expires=expires), length)
        return True

    def forget(self, tag: str, check: Check) -> None:
        """
        Let no open lease give anything back to *check*'s window under *tag*: all that counted there has been taken off.
        """
        window = (check.counter, check.window)
        for queue in self._queues.values():
            for id_, lease in queue.items():
                if lease.ask.tag == tag and any((one.counter, one.window) == window for one in lease.ask.checks):
                    queue[id_] = replace(lease, forgotten=lease.forgotten | {window})

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
        for length, queue in list(self._queues.items()):
            while queue and len(ended) < self._batch and (lease := _first(queue)).expires <= now:
                del queue[lease.ask.id]
                ended.append(lease)
                self._remember(lease.ask.id)
            if not queue and length != self._length:
                del self._queues[length]
        self.are_many = len(self._queues) > 1
        self.next_due = min((_first(queue).expires for queue in self._queues.values() if queue), default=NEVER)
        return ended

    def _remember(self, id_: str) -> None:
        while len(self._unsettled) >= self._remembered:
            del self._unsettled[next(iter(self._unsettled))]
        self._unsettled[id_] = None


def _first(queue: dict[str, Lease[Counter]]) -> Lease[Counter]:
    return next(iter(queue.values()))
