"""
Waiting for the disk, one wait for all that wait.
"""

from __future__ import annotations

import itertools
import logging
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING

from tokenbudget_mw import threads

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tokenbudget_mw.accounting.segments import Segment

__all__ = ["Syncer"]

log = logging.getLogger("tokenbudget_mw")


class Syncer:
    """
    Brings segments to the disk.

    Whoever asks first does it for everybody who has asked by then: the others find their records on the disk when their
    turn comes.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._segments: deque[Segment] = deque()  # may hold something that is not on the disk; the last is the current
        self._ends: dict[Segment, int] = {}  # up to where they are on the disk
        self._tickets = itertools.count(1)  # next() is one step
        self._served = 0
        self._is_failing = False
        self._stop: threading.Event | None = None

    def add(self, segment: Segment) -> None:
        """
        Sync *segment*, too, from now on. The one before it gets nothing any more.
        """
        self._segments.append(segment)

    def sync(self) -> None:
        """
        Wait until everything that was put before is on the disk. Says so where that fails, and does not raise.
        """
        mine = next(self._tickets)
        with self._turn:
            if self._served > mine:
                return
            served = next(self._tickets)  # whoever holds a lower one has put before this moment
            self._sync(list(self._segments))
            self._served = served

    def start(self, every: float) -> None:
        """
        Sync every *every* seconds, in a thread of its own.
        """
        if self._stop is None:
            stop = threading.Event()
            if threads.start(_run, weakref.ref(self), stop, every, name="tokenbudget-sync") is not None:
                self._stop = stop

    def close(self, segments: Iterable[Segment]) -> None:
        """
        Stop, and give the files of *segments* back.
        """
        if self._stop is not None:
            self._stop.set()
            self._stop = None
        with self._turn:
            for segment in (*self._segments, *segments):
                segment.close_file()
            self._segments.clear()
            self._ends.clear()

    def _sync(self, segments: Sequence[Segment]) -> None:
        try:
            for segment in segments:
                self._sync_one(segment)
        except OSError as exc:
            if not self._is_failing:
                log.error("The usage spool cannot be synced (%s): a power cut may lose usage.", type(exc).__name__)  # noqa: TRY400
            self._is_failing = True
            return
        self._is_failing = False
        for segment in segments[:-1]:  # those are full
            segment.close_file()
            self._ends.pop(segment, None)
            self._segments.popleft()

    def _sync_one(self, segment: Segment) -> None:
        end = segment.end
        if self._ends.get(segment) != end:
            segment.sync()
            self._ends[segment] = end


def _run(reference: weakref.ref[Syncer], stop: threading.Event, every: float) -> None:
    while not stop.wait(every):
        syncer = reference()
        if syncer is None:
            return
        syncer.sync()
        del syncer
