"""
What processes that died have left behind: found, replayed once, and cleared away.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from typing import TYPE_CHECKING, Protocol

from tokenbudget_mw.accounting.claims import Claim, seize_dead
from tokenbudget_mw.accounting.marks import read_orphans
from tokenbudget_mw.accounting.segments import DamagedSegmentError, Item, Segment, ids_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from tokenbudget_mw.values import Orphan, UsageRecord

__all__ = ["DAMAGED", "Heir", "Inheritance"]

log = logging.getLogger("tokenbudget_mw")

DAMAGED = "damaged"
"""Folder that segments go to of which not everything could be read. Nobody but a person looks into it."""


_ALIKE = -4
"""Where ids of one call's rows begin to differ: they are numbered from the call's id on."""


class Heir(Protocol):
    """
    Says what becomes of calls whose process died. Called in the flusher's thread.
    """

    def records_of(self, orphan: Orphan) -> list[UsageRecord]:
        """
        Return the rows of *orphan*: the same whenever it is asked, so that they are written once.
        """
        ...

    def take_over(self, orphans: Sequence[Orphan]) -> None:
        """
        Do what is left to do for *orphans*, whose rows are in the sink. Must not raise.
        """
        ...


class Inheritance:
    """
    What dead processes have left behind, claimed one folder at a time and opened one segment at a time: a claim is an open file, and
    of folders there may be more than a process may open.

    Only the flusher's thread uses it.

    Args:
        root: Folder of the spool.

        instance_id: This process's own, which is no inheritance.

        heir: Says what becomes of calls that were under way; None leaves their marks where they are.

    Attributes:
        replayed: Records of others that are in the sink now.

        orphaned: Calls of others that were under way, and are in the sink now.

        quarantined: Segments that were put aside because something in them could not be read.
    """

    def __init__(self, root: Path, instance_id: str, heir: Heir | None = None) -> None:
        self.replayed = 0
        self.orphaned = 0
        self.quarantined = 0
        self._root = root
        self._own = instance_id
        self._heir = heir
        self._dead: Iterator[Claim] = iter(())  # what is left of the last look
        self._claim: Claim | None = None
        self._marks: deque[Path] = deque()  # of the claim, read when its records are in the sink
        self._paths: deque[Path] = deque()  # of the claim, not opened yet
        self._segment: Segment | None = None
        self._count = 0  # records of the claim
        self._under_way: frozenset[str] = frozenset()  # how the ids of its marked calls begin
        self._recorded: set[str] = set()  # ids of its records that may be of these
        self._has_told_of_closed = False

    def claim(self) -> None:
        """
        Look what belongs to nobody any more, unless something that does is being replayed.
        """
        if self._claim is None:
            self._dead = seize_dead(self._root, self._own, self._tell_of_closed)
            self._seize_next()

    def next(self) -> list[Item]:
        """
        Return the records of the next segment that has some, once all of the last one are in the sink; else nothing.
        """
        while self._claim is not None:
            if self._segment is not None:
                if not self._segment.is_done():
                    return []
                self._clear(self._segment)
                self._segment = None
            if self._paths:
                items = self._open(self._paths.popleft())
                self._count += len(items)
            else:
                # a call that has a record is no orphan: so first its record, then its mark
                items = self._open_marks(self._claim.instance_id)
            if items:
                return items
            if not (self._paths or self._marks) and self._segment is None:
                self._end(self._claim)
        return []

    def release(self) -> None:
        """
        Leave everything to other processes.
        """
        claim, self._claim, self._dead = self._claim, None, iter(())
        if claim is not None:
            claim.release()
        self._segment = None

    def _seize_next(self) -> None:
        self._claim = None
        for claim in self._dead:
            try:
                self._begin(claim)
            except OSError:  # it has just gone, or no file can be opened: the next look finds what there is
                claim.release()
                continue
            self._claim = claim
            return

    def _begin(self, claim: Claim) -> None:
        self._paths = deque(claim.segments())
        self._marks = deque(claim.marks() if self._heir is not None else ())
        self._count = 0
        self._recorded.clear()
        self._under_way = frozenset(_beginnings(claim.instance_id, self._marks))

    def _end(self, claim: Claim) -> None:
        claim.remove()
        self.replayed += self._count
        if self._count:
            log.warning(
                "Replayed %s usage records of a process that ended before they were written: instance %s.",
                self._count,
                claim.instance_id,
            )
        self._seize_next()

    def _open(self, path: Path) -> list[Item]:
        try:
            segment, items = Segment.open(path)
            if self._under_way:
                self._recorded.update(each for each in ids_in(path) if each[:_ALIKE] in self._under_way)
        except DamagedSegmentError:
            self._quarantine(path)
            return []
        except OSError as exc:  # it stays where it is, for the next look
            log.error("A segment of the usage spool cannot be read now (%s).", type(exc).__name__)  # noqa: TRY400
            return []
        self._segment = segment
        return items

    def _open_marks(self, instance_id: str) -> list[Item]:
        paths, heir = list(self._marks), self._heir
        self._marks.clear()
        if not paths or heir is None:
            return []
        try:
            rows = [
                (orphan, [row for row in heir.records_of(orphan) if row.id not in self._recorded])
                for orphan in read_orphans(instance_id, [path.read_bytes() for path in paths])
            ]
            orphans = [
                orphan for orphan, some in rows if some
            ]  # the process was killed behind the records of the others
            remains = _Remains(paths, orphans, heir)
            items: list[Item] = [
                (row, remains, place) for place, row in enumerate((each for _, some in rows for each in some), start=1)
            ]
        except Exception as exc:  # noqa: BLE001 - prices may be out of reach: the marks stay, for the next look
            log.error("The marks of calls that were under way cannot be read now (%s).", type(exc).__name__)  # noqa: TRY400
            return []
        remains.end = len(items)
        if not items:
            self._clear(remains)
            return []
        self.orphaned += len(orphans)
        log.warning(
            "%s calls were under way in a process that ended: instance %s. Each gets a row, charged by its route's rule for "
            "'orphaned'; `tokenbudget-mw orphans list` shows those that wait for a decision.",
            len(orphans),
            instance_id,
        )
        self._segment = remains
        return items

    def _clear(self, segment: Segment) -> None:
        try:
            if segment.is_damaged:
                self._quarantine(segment.path)
            else:
                segment.remove()
        except OSError as exc:
            log.error("A replayed segment could not be removed (%s).", type(exc).__name__)  # noqa: TRY400

    def _tell_of_closed(self, folder: Path) -> None:
        if not self._has_told_of_closed:
            self._has_told_of_closed = True
            log.error(
                "The usage spool holds another user's folders, which this process (uid %s) may not open, such as %s: usage in "
                "them waits as long. Run all processes of the app as one user, and give it those folders (chown -R).",
                os.geteuid(),
                folder,
            )

    def _quarantine(self, path: Path) -> None:
        self.quarantined += 1
        log.error(
            "A segment of the usage spool is damaged: what could be read is replayed, and the file is kept as %s/%s-%s.",
            DAMAGED,
            path.parent.name,
            path.name,
        )
        folder = self._root / DAMAGED
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            path.rename(folder / f"{path.parent.name}-{path.name}")
        except OSError as exc:
            log.error("The damaged segment could not be put aside (%s).", type(exc).__name__)  # noqa: TRY400


def _beginnings(instance_id: str, paths: Iterable[Path]) -> Iterator[str]:
    try:
        for orphan in read_orphans(instance_id, [path.read_bytes() for path in paths]):
            yield orphan.opened.call_id[:_ALIKE]
    except OSError:
        return  # it is said when they are read for their rows


class _Remains(Segment):
    """
    The marks of one dead process, as a segment whose records are the rows of its orphans.
    """

    __slots__ = ("_heir", "_orphans", "_paths")

    def __init__(self, paths: Sequence[Path], orphans: Sequence[Orphan], heir: Heir) -> None:
        super().__init__(paths[0], 0)
        self._paths = paths
        self._orphans = orphans
        self._heir = heir

    def commit(self, end: int, sequence: int) -> None:
        del sequence  # nothing is noted: the sink knows rows that come again
        self.committed = end

    def remove(self) -> None:
        if self._orphans:
            self._heir.take_over(self._orphans)
        for path in self._paths:
            path.unlink(missing_ok=True)
