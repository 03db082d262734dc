"""
The spool on disk: a record that was put outlives its process, because it lies in the system's memory, not in the process's.
"""

from __future__ import annotations

import logging
import sys
import time
from itertools import islice
from typing import TYPE_CHECKING, Literal
from zlib import crc32

from tokenbudget_mw.accounting.encoding import bounded, encode, encode_mended
from tokenbudget_mw.accounting.segments import FRAME, Segment
from tokenbudget_mw.accounting.store import NO_SEGMENT, Store
from tokenbudget_mw.errors import SpoolFullError
from tokenbudget_mw.processes import PerProcess

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tokenbudget_mw.accounting.inheritance import Heir
    from tokenbudget_mw.accounting.marks import Slot
    from tokenbudget_mw.values import Mark, UsageRecord

__all__ = ["Durability", "Full", "MmapSpool"]

log = logging.getLogger("tokenbudget_mw")

Durability = Literal["kill_safe", "power_safe_window", "power_safe"]
Full = Literal["drop_newest", "block", "raise"]

SYNC_EVERY = 0.1
"""Seconds between two syncs under ``power_safe_window``."""

MAKE_AGAIN = 5.0
"""Seconds after which the disk is asked for room again."""

_SMALL = 4096
_FRAME_SIZE = FRAME.size
_NOW = sys.maxsize
_put_frame = FRAME.pack_into


class MmapSpool:
    """
    Records in memory and, at the same time, in mapped files that another process replays should this one die.

    `put` copies a record into mapped memory. No disk is waited for, and the GIL is never given away, as a `write` would:
    beside a thread that computes, getting it back takes milliseconds. Where no file can be made (no room, no permission)
    records are kept in memory only; this is said once, counted in `unprotected`, and ends when the disk has room again.

    Args:
        root: Folder of the spool, made where it is missing. All processes of an app share it, no two apps do.

        memory: Most records kept in memory beside the files; the flusher reads further ones from the files.

        queue: Most records kept in memory while no file can be made.

        most_bytes: Most bytes of files that this process makes.

        segment_bytes: Size of one file; None takes a sixteenth of *most_bytes*, at most 4 MiB.

        full: What happens to a record for which there is no room: it is dropped and counted (``drop_newest``), waits up
            to *patience* seconds and is then dropped (``block``), or raises `SpoolFullError` (``raise``).

        patience: How long ``block`` waits, in seconds. An event loop that puts waits, too.

        durability: What a record outlives once it was put: its process (``kill_safe``), also the machine, but for the
            last tenth of a second (``power_safe_window``), or the machine at once (``power_safe``: `put` waits for the
            disk, together with others that wait).

        look_every: Seconds between two looks for segments of dead processes.

        heir: Says what becomes of calls whose process died. Without one their marks stay where they are.

        clock: Gives monotonic seconds.
    """

    def __init__(
        self,
        root: Path,
        *,
        memory: int = 10_000,
        queue: int = 100_000,
        most_bytes: int = 2**30,
        segment_bytes: int | None = None,
        full: Full = "drop_newest",
        patience: float = 0.1,
        durability: Durability = "kill_safe",
        look_every: float = 60.0,
        heir: Heir | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._memory = memory
        self._queue = queue
        self._segment_bytes = segment_bytes or max(2**16, min(2**22, most_bytes // 16))
        self._most_segments = max(2, most_bytes // self._segment_bytes)
        self._full = full
        self._patience = patience
        self._durability = durability
        self._is_synced = durability != "kill_safe"
        self._is_safe_at_once = durability == "power_safe"
        self._look_every = look_every
        self._clock = clock
        self._wake: Callable[[int], None] | None = None
        self._mine: PerProcess[Store] = PerProcess(lambda: Store(root, heir), Store.abandon)

    @property
    def instance_id(self) -> str:
        """
        Names this process: 32 hexadecimal digits.
        """
        return self._mine.get().instance_id

    @property
    def folder(self) -> Path:
        """
        Folder of the spool.
        """
        return self._root

    @property
    def recorded(self) -> int:
        """
        Number of records that this process has put, dropped ones not counted.
        """
        return self._mine.get().recorded

    @property
    def dropped(self) -> int:
        """
        Number of records of this process that found the spool full.
        """
        return self._mine.get().dropped

    @property
    def unprotected(self) -> int:
        """
        Number of records of this process that only memory held, because no file could be made.
        """
        return self._mine.get().unprotected

    @property
    def is_exposed(self) -> bool:
        """
        Whether what is put is in memory only at present, because no file can be made.
        """
        store = self._mine.get()
        return store.is_exposed and store.spare is None

    @property
    def replayed(self) -> int:
        """
        Number of records of dead processes that this process has brought to the sink.
        """
        return self._mine.get().inheritance.replayed

    @property
    def orphaned(self) -> int:
        """
        Number of calls of dead processes that this process has brought to the sink.
        """
        return self._mine.get().inheritance.orphaned

    @property
    def unmarked(self) -> int:
        """
        Number of marks of this process for which there was no room.
        """
        return self._mine.get().marks.unmarked

    @property
    def quarantined(self) -> int:
        """
        Number of damaged segments that this process has put aside.
        """
        return self._mine.get().inheritance.quarantined

    @property
    def disk_bytes(self) -> int:
        """
        Size of the files of this process, in bytes.
        """
        return self._mine.get().count_segments() * self._segment_bytes

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

    # -- putting ------------------------------------------------------------------------------------------------------

    def put(self, record: UsageRecord) -> bool:
        """
        Keep *record* until it is committed.

        Returns:
            False where the spool is full and the record was dropped.

        Raises:
            SpoolFullError: The spool is full, and *full* is ``raise``.
        """
        store = self._mine.get()
        try:
            body = encode(record)
        except Exception:  # noqa: BLE001 - a value of any type may refuse in its own way
            body = encode_mended(record)
        size = len(body)
        if size > _SMALL:
            body, check = bounded(record, body)
            size = len(body)
        else:
            check = crc32(body)
        with store.lock:
            if store.is_busy:  # the garbage collector, or a signal, runs this within a put of the same thread
                store.aside.append(record)
                return True
            store.is_busy = True
            try:
                segment: Segment | None = store.segment
                if segment.end + _FRAME_SIZE + size > segment.size:  # type: ignore[union-attr]  # it is there
                    segment = self._make_room(store, record, _FRAME_SIZE + size)
                if segment is None:
                    is_kept = store.is_exposed and self._keep_exposed(store, record)
                else:
                    start = segment.end
                    end = start + _FRAME_SIZE + size
                    memory = segment.map
                    memory[start + _FRAME_SIZE : end] = body  # type: ignore[index]  # the current segment is mapped
                    _put_frame(memory, start, check, size)  # type: ignore[arg-type]
                    segment.end = end  # from here to the append nothing interrupts: frame and item appear together
                    store.recorded += 1  # first: the flusher may be done with the record as soon as it is appended
                    if store.spill is None:
                        store.waiting.append((record, segment, end))
                        if len(store.waiting) >= self._memory:
                            store.spill = (segment, end)
                    is_kept = True
            finally:
                store.is_busy = False
            depth = store.recorded + store.inherited - store.committed
            while store.aside:
                self.put(store.aside.popleft())
        if store.wants_care:
            store.wants_care, depth = False, _NOW
        if self._wake is not None and is_kept:
            self._wake(depth)
        if self._is_safe_at_once:
            store.syncer.sync()
        return is_kept

    def _keep_exposed(self, store: Store, record: UsageRecord) -> bool:
        if len(store.waiting) >= self._queue:
            self._refuse(store)
            return False
        store.recorded += 1
        store.waiting.append((record, None, 0))
        store.unprotected += 1
        return True

    def _make_room(self, store: Store, record: UsageRecord, size: int) -> Segment | None:
        # under the lock; None where no segment has room for *size* bytes, nor will have
        deadline = self._clock() + self._patience
        while store.segment.end + size > store.segment.size:
            if self._roll(store, record):
                continue
            if store.is_exposed:
                return None
            left = deadline - self._clock()
            if self._full != "block" or left <= 0:
                self._refuse(store)
                return None
            store.is_busy = False  # others may try meanwhile
            store.room.wait(left)
            store.is_busy = True
        return store.segment

    def _roll(self, store: Store, record: UsageRecord) -> bool:
        fresh, store.spare = store.spare, None
        if fresh is None and not store.is_exposed:  # the flusher was not quick enough
            try:
                fresh = self._make(store)
            except OSError as exc:
                store.expose(exc, self._root)
        if fresh is None:
            return False
        fresh.write_first(record.sequence)
        store.enter(fresh, is_synced=self._is_synced)
        if self._durability == "power_safe_window":
            store.syncer.start(SYNC_EVERY)
        return True

    def _refuse(self, store: Store) -> None:
        store.dropped += 1
        if not store.is_full:
            store.is_full = True
            log.error(
                "The usage spool is full (%s bytes): usage is dropped and counted until the sink takes records again.",
                store.count_segments() * self._segment_bytes,
            )
        if self._full == "raise":
            raise SpoolFullError

    def _make(self, store: Store) -> Segment | None:
        return store.make_segment(self._segment_bytes, self._most_segments, is_synced=self._is_synced)

    # -- marks --------------------------------------------------------------------------------------------------------

    def mark(self, mark: Mark) -> Slot | None:
        """
        Keep *mark* until `unmark` is given what this returns; None where there was no room.
        """
        return self._mine.get().marks.put(mark)

    def unmark(self, slot: Slot) -> None:
        """
        Forget the mark in *slot*.
        """
        self._mine.get().marks.clear(slot)

    # -- taking: one thread at a time -----------------------------------------------------------------------------------

    def take(self, most: int) -> list[UsageRecord]:
        """
        Return up to *most* of the oldest records without forgetting them.
        """
        store = self._mine.get()
        taken, waiting = store.taken, store.waiting
        is_spilled = store.spill is not None  # asked first: what spills later lies behind what waits
        while waiting and len(taken) < most:
            taken.append(waiting.popleft())
        if is_spilled and len(taken) < most:
            store.reload(most - len(taken))
        while store.heirlooms and len(taken) < most:
            taken.append(store.heirlooms.popleft())
        return [item[0] for item in islice(taken, most)]

    def commit(self, count: int) -> None:
        """
        Forget the *count* oldest records.

        Raises:
            ValueError: Fewer records were taken.
        """
        store = self._mine.get()
        if count > len(store.taken):
            raise ValueError(f"Only records that were taken can be committed: {len(store.taken)} are, got {count}.")
        store.commit(count)
        store.sweep()
        store.inherit()

    def tend(self) -> float | None:
        """
        Make the next segment ready, remove those that are done, and look for segments of dead processes.
        """
        store, now = self._mine.get(), self._clock()
        store.sweep()
        self._prepare(store, now)
        store.marks.tend()
        if now >= store.look_at:
            store.look_at = now + self._look_every
            store.inheritance.claim()
        store.inherit()
        return max(0.0, store.look_at - now)

    def _prepare(self, store: Store, now: float) -> None:
        is_needed = store.segment is not NO_SEGMENT or store.is_exposed
        if not is_needed or store.spare is not None or now < store.make_at:
            return
        try:
            spare = self._make(store)
        except OSError:  # said when it is needed
            store.make_at = now + MAKE_AGAIN
            return
        if spare is not None:
            spare.warm()
        with store.lock:
            store.spare = spare

    def close(self) -> None:
        """
        Remove the files where nothing waits any more; else leave them to the process that finds them.
        """
        store = self._mine.get()
        with store.lock:
            if not len(store):
                store.clear()

    def __len__(self) -> int:
        return len(self._mine.get())
