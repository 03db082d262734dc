"""
The spool in memory: records of a process that is killed are gone with it.
"""

from __future__ import annotations

import itertools
import logging
import threading
import uuid
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from tokenbudget_mw.processes import PerProcess

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenbudget_mw.values import Mark, UsageRecord

__all__ = ["MemorySpool"]

log = logging.getLogger("tokenbudget_mw")


class MemorySpool:
    """
    A bounded queue. When it is full, the newest record is dropped, counted, and said once.

    `put` takes no lock: appending to a deque is one step, and a lock could be held at a fork, or by the very thread in
    which the garbage collector closes a stream. Its price is that several threads together may pass *size* by one
    record a thread.

    Args:
        size: Most records that wait, at least 1. A record takes about 1 KB.
    """

    def __init__(self, size: int = 100_000) -> None:
        if size < 1:
            raise ValueError(f"A spool needs room for at least 1 record, got size={size!r}.")
        self._size = size
        self._wake: Callable[[int], None] | None = None
        self._mine: PerProcess[_Queue] = PerProcess(_Queue)

    @property
    def instance_id(self) -> str:
        """
        Names this process: 32 hexadecimal digits.
        """
        return self._mine.get().instance_id

    @property
    def recorded(self) -> int:
        """
        Number of records that this process has put, dropped ones not counted.
        """
        queue = self._mine.get()
        return queue.committed + len(queue)

    @property
    def dropped(self) -> int:
        """
        Number of records of this process that found the spool full.
        """
        return self._mine.get().dropped

    @property
    def is_exposed(self) -> bool:
        """
        False: that memory alone holds records is what was asked for.
        """
        return False

    @property
    def folder(self) -> None:
        """
        None: there are no files.
        """
        return None

    def next_sequence(self) -> int:
        """
        Return the next sequence number of this process, from 1 on. A gap in the database is a dropped record.
        """
        return next(self._mine.get().sequence)

    def listen(self, wake: Callable[[int], None]) -> None:
        """
        Call *wake* after every put with the number of records that wait. One listener a spool.
        """
        self._wake = wake

    def put(self, record: UsageRecord) -> bool:
        """
        Keep *record* until it is committed. Never waits, never raises.

        Returns:
            False where the spool is full and the record was dropped.
        """
        queue = self._mine.get()
        depth = len(queue.waiting) + len(queue.taken)
        if depth >= self._size:
            self._drop(queue)
            return False
        queue.waiting.append(record)
        if self._wake is not None:
            self._wake(depth + 1)
        return True

    def mark(self, mark: Mark) -> None:
        """
        Do nothing: a mark in memory ends with its process.
        """

    def unmark(self, slot: object) -> None:
        """
        Do nothing.
        """

    def take(self, most: int) -> list[UsageRecord]:
        """
        Return up to *most* of the oldest records without forgetting them. One thread at a time takes and commits.
        """
        queue = self._mine.get()
        while queue.waiting and len(queue.taken) < most:
            queue.taken.append(queue.waiting[0])  # first in, then out: counted twice for a moment, never missing
            queue.waiting.popleft()
        return list(islice(queue.taken, most))

    def commit(self, count: int) -> None:
        """
        Forget the *count* oldest records.

        Raises:
            ValueError: Fewer records were taken.
        """
        queue = self._mine.get()
        if count > len(queue.taken):
            raise ValueError(f"Only records that were taken can be committed: {len(queue.taken)} are, got {count}.")
        for _ in range(count):
            queue.committed += 1
            queue.taken.popleft()
        if queue.is_full and len(queue) <= self._size // 2:
            queue.is_full = False
            log.warning("The usage spool has room again. %s usage records were dropped so far.", queue.dropped)

    def tend(self) -> None:
        """
        Do nothing: memory needs no care.
        """

    def close(self) -> None:
        """
        Do nothing: there are no files.
        """

    def __len__(self) -> int:
        return len(self._mine.get())

    def _drop(self, queue: _Queue) -> None:
        with queue.dropping:
            queue.dropped += 1
            is_news = not queue.is_full
            queue.is_full = True
        if is_news:
            log.error(
                "The usage spool is full (%s records): usage is dropped and counted until the sink takes records again.",
                self._size,
            )


class _Queue:
    """
    What one process owns of a spool. *taken* holds what the flusher looks at, and only the flusher touches it.
    """

    __slots__ = ("committed", "dropped", "dropping", "instance_id", "is_full", "sequence", "taken", "waiting")

    def __init__(self) -> None:
        self.instance_id = uuid.uuid4().hex
        self.sequence = itertools.count(1)  # next() is one step
        self.waiting: deque[UsageRecord] = deque()
        self.taken: deque[UsageRecord] = deque()
        self.committed = 0
        self.dropped = 0
        self.dropping = threading.RLock()  # a stream that is closed inside may drop, too
        self.is_full = False

    def __len__(self) -> int:
        return len(self.waiting) + len(self.taken)
