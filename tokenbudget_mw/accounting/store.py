"""
What one process owns of a spool on disk.
"""

from __future__ import annotations

import itertools
import logging
import threading
import uuid
import weakref
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from tokenbudget_mw.accounting.claims import MARKS_SUFFIX, SUFFIX, Claim
from tokenbudget_mw.accounting.inheritance import Inheritance
from tokenbudget_mw.accounting.marks import Marks
from tokenbudget_mw.accounting.segments import HEADER_SIZE, Segment
from tokenbudget_mw.accounting.syncing import Syncer

if TYPE_CHECKING:
    from tokenbudget_mw.accounting.inheritance import Heir
    from tokenbudget_mw.accounting.segments import Item
    from tokenbudget_mw.values import UsageRecord

__all__ = ["NO_SEGMENT", "Store"]

log = logging.getLogger("tokenbudget_mw")

NO_SEGMENT = Segment(Path(), 0)
"""Stands where there is no segment: it has room for nothing."""


class Store:
    """
    The state of a spool in one process.

    What several threads write, they write under *lock*. What is said to be the flusher's, its thread alone touches.

    Attributes:
        lock: Held within a put, for about a microsecond.

        room: Told when a segment is gone.

        is_busy: Whether a put is under way. One that begins within it, on the same thread, goes *aside*.

        making: Held while a file is made.

        marks: Calls that run.

        claim: The folder; None until the first record.

        segment: Where records are put.

        spare: The segment after it, made beforehand.

        sealed: Segments before it, oldest first.

        waiting: Records in memory, not taken yet.

        spill: Segment and offset from which on memory did not hold what was put; None while it holds everything.

        taken: Records that the flusher looks at. The flusher's.

        heirlooms: Records of dead processes, not taken yet. The flusher's.

        is_exposed: Whether records are in memory only, because no file could be made.
    """

    __slots__ = (
        "__weakref__",
        "aside",
        "claim",
        "committed",
        "dropped",
        "heirlooms",
        "inheritance",
        "inherited",
        "instance_id",
        "is_busy",
        "is_exposed",
        "is_full",
        "lock",
        "look_at",
        "make_at",
        "making",
        "marks",
        "number",
        "recorded",
        "room",
        "root",
        "sealed",
        "segment",
        "sequence",
        "spare",
        "spill",
        "syncer",
        "taken",
        "unprotected",
        "waiting",
        "wants_care",
    )

    def __init__(self, root: Path, heir: Heir | None = None) -> None:
        self.root = root
        self.instance_id = uuid.uuid4().hex
        self.sequence = itertools.count(1)  # next() is one step
        self.lock = threading.RLock()
        self.room = threading.Condition(self.lock)
        self.is_busy = False
        self.aside: deque[UsageRecord] = deque()
        self.making = threading.Lock()
        self.claim: Claim | None = None
        self.segment = NO_SEGMENT
        self.spare: Segment | None = None
        self.sealed: deque[Segment] = deque()
        self.number = 0
        self.waiting: deque[Item] = deque()
        self.spill: tuple[Segment, int] | None = None
        self.taken: deque[Item] = deque()
        self.heirlooms: deque[Item] = deque()
        self.inheritance = Inheritance(root, self.instance_id, heir)
        self.marks = Marks(weakref.WeakMethod(self._next_marks))
        self.syncer = Syncer()
        self.recorded = 0
        self.inherited = 0
        self.committed = 0
        self.dropped = 0
        self.unprotected = 0
        self.is_full = False
        self.is_exposed = False
        self.wants_care = False
        self.look_at = float("-inf")
        self.make_at = float("-inf")

    def __len__(self) -> int:
        return self.recorded + self.inherited - self.committed

    def count_segments(self) -> int:
        """
        Number of files of this process.
        """
        return len(self.sealed) + (self.segment is not NO_SEGMENT) + (self.spare is not None)

    def next_path(self, suffix: str) -> Path:
        """
        Return the path of the next file, in this process's folder, which is made where it is missing. Under *making*.

        Raises:
            OSError: That is not possible.
        """
        if self.claim is None:
            self.claim = Claim.make(self.root, self.instance_id)
        self.number += 1
        return self.claim.path / f"{self.number:08}{suffix}"

    def make_segment(self, size: int, most: int, *, is_synced: bool) -> Segment | None:
        """
        Make a segment of *size* bytes; None where there are *most* already.

        Raises:
            OSError: It cannot be made.
        """
        with self.making:
            if self.count_segments() >= most:
                return None
            path = self.next_path(SUFFIX)
            try:
                return Segment.make(path, size, self.instance_id, self.number, is_synced=is_synced)
            except FileNotFoundError:  # somebody has removed the folder: the next try makes it anew
                if self.claim is not None:
                    self.claim.release()
                    self.claim = None
                raise

    def _next_marks(self) -> Path:
        with self.making:
            return self.next_path(MARKS_SUFFIX)

    # -- how it stands ------------------------------------------------------------------------------------------------

    def expose(self, error: OSError, root: Path) -> None:
        """
        From now on memory alone holds what is put.
        """
        if not self.is_exposed:
            self.is_exposed = True
            log.error(
                "The usage spool cannot make a file in %s (%s): until it can, usage that waits is lost if the process "
                "is killed. Make room there, or set `spool_dir`.",
                root,
                error.strerror or type(error).__name__,
            )

    def enter(self, segment: Segment, *, is_synced: bool) -> None:
        """
        Make *segment* the current one. Under the lock.
        """
        if self.segment is not NO_SEGMENT:
            self.sealed.append(self.segment)
        self.segment = segment
        self.wants_care = True
        if is_synced:
            self.syncer.add(segment)
        if self.is_exposed:
            self.is_exposed = False
            log.warning("The usage spool has a file again. %s usage records were in memory only.", self.unprotected)
        if self.is_full:
            self.is_full = False
            log.warning("The usage spool has room again. %s usage records were dropped so far.", self.dropped)

    # -- the flusher's ------------------------------------------------------------------------------------------------

    def reload(self, most: int) -> None:
        """
        Take up to *most* records that memory did not hold.
        """
        while self.spill is not None and most > 0:
            segment, start = self.spill
            stop = segment.end
            try:
                items = segment.load(start, stop, most)
            except FileNotFoundError:
                items, segment.committed = [], stop
                log.error("A segment of the usage spool has been removed: usage in it that waited is lost.")  # noqa: TRY400
            self.taken.extend(items)
            most -= len(items)
            with self.lock:
                self._move_spill(segment, items[-1][2] if items else stop)

    def _move_spill(self, segment: Segment, position: int) -> None:
        if position < segment.end:
            self.spill = (segment, position)
        elif segment is not self.segment:
            following = self.sealed.index(segment) + 1
            self.spill = (self.sealed[following] if following < len(self.sealed) else self.segment, HEADER_SIZE)
        else:
            self.spill = None
            # counted anew, should a frame have been unreadable
            left = len(self.taken) + len(self.waiting) + len(self.heirlooms)
            self.committed = self.recorded + self.inherited - left

    def commit(self, count: int) -> None:
        """
        Note that the *count* oldest of what was taken are in the sink.
        """
        ends: dict[Segment, tuple[int, int]] = {}
        for _ in range(count):
            record, segment, end = self.taken.popleft()
            if segment is not None:
                ends[segment] = (end, record.sequence)
        for segment, (end, sequence) in ends.items():
            try:
                segment.commit(end, sequence)
            except OSError as exc:  # should this process die, they are replayed, and the sink knows them
                log.warning("The progress of the usage spool could not be noted (%s).", type(exc).__name__)
        self.committed += count

    def sweep(self) -> None:
        """
        Remove segments that are done, and unmap those that nobody puts into any more.
        """
        while self.sealed and self.sealed[0].is_done():
            with self.lock:
                segment = self.sealed[0]
                if (
                    self.spill is not None and self.spill[0] is segment
                ):  # memory held its last record, and none behind it
                    self._move_spill(segment, segment.end)
                self.sealed.popleft()
            remove(segment)
            with self.lock:
                self.room.notify_all()
        for segment in tuple(self.sealed):
            segment.close()

    def inherit(self) -> None:
        """
        Open the next segment of a dead process, once the last is done.
        """
        if not self.heirlooms:
            self.heirlooms.extend(self.inheritance.next())
            self.inherited += len(self.heirlooms)

    # -- ends ---------------------------------------------------------------------------------------------------------

    def clear(self) -> None:
        """
        Remove all files. Nothing waits. The marks of calls that run stay, and with them the claim: should they not end
        before the process does, somebody finds them.
        """
        claim = None
        is_idle = self.marks.remove()
        with self.lock:
            segments = [*self.sealed, self.segment, *([self.spare] if self.spare else [])]
            if is_idle:
                claim, self.claim = self.claim, None
            self.sealed.clear()
            self.segment, self.spare = NO_SEGMENT, None
        self.syncer.close(segments)
        self.inheritance.release()
        for segment in segments:
            if segment is not NO_SEGMENT:
                remove(segment)
        if claim is not None:
            claim.remove()

    def abandon(self) -> None:
        """
        Give back what a fork has copied into this process: it is the parent's. Takes no lock, which nobody may hold.
        """
        for segment in (*self.sealed, self.segment, self.spare):
            if segment is not None:
                segment.close()
                segment.close_file()
        self.marks.abandon()
        if self.claim is not None:
            self.claim.release()
        self.inheritance.release()


def remove(segment: Segment) -> None:
    """
    Remove *segment*, unless something in it could not be read.
    """
    try:
        segment.close()
        if segment.is_damaged:
            log.error("A segment of the usage spool is damaged and is kept: %s.", segment.path)
        else:
            segment.remove()
    except OSError as exc:
        log.error("A segment of the usage spool could not be removed (%s).", type(exc).__name__)  # noqa: TRY400
