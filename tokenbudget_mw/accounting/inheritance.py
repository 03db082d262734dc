"""
What processes that died have left behind: found, replayed once, and cleared away.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

from tokenbudget_mw.accounting.claims import Claim, seize_dead
from tokenbudget_mw.accounting.segments import DamagedSegmentError, Item, Segment

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Inheritance"]

log = logging.getLogger("tokenbudget_mw")

DAMAGED = "damaged"
"""Folder that segments go to of which not everything could be read. Nobody but a person looks into it."""


class Inheritance:
    """
    The segments of dead processes that this process has claimed, opened one at a time.

    Only the flusher's thread uses it.

    Args:
        root: Folder of the spool.

        instance_id: This process's own, which is no inheritance.

    Attributes:
        replayed: Records of others that are in the sink now.

        quarantined: Segments that were put aside because something in them could not be read.
    """

    def __init__(self, root: Path, instance_id: str) -> None:
        self.replayed = 0
        self.quarantined = 0
        self._root = root
        self._own = instance_id
        self._claims: deque[Claim] = deque()
        self._paths: deque[Path] = deque()  # of the first claim, not opened yet
        self._segment: Segment | None = None
        self._count = 0  # records of the first claim

    def claim(self) -> None:
        """
        Claim what belongs to nobody any more.
        """
        for claim in seize_dead(self._root, self._own):
            self._claims.append(claim)
            if len(self._claims) == 1:
                self._begin(claim)

    def next(self) -> list[Item]:
        """
        Return the records of the next segment that has some, once all of the last one are in the sink; else nothing.
        """
        while self._claims:
            if self._segment is not None:
                if not self._segment.is_done():
                    return []
                self._clear(self._segment)
                self._segment = None
            if not self._paths:
                self._end()
                continue
            items = self._open(self._paths.popleft())
            if items:
                self._count += len(items)
                return items
        return []

    def release(self) -> None:
        """
        Leave everything to other processes.
        """
        while self._claims:
            self._claims.pop().release()
        self._segment = None

    def _begin(self, claim: Claim) -> None:
        self._paths = deque(claim.segments())
        self._count = 0

    def _end(self) -> None:
        claim = self._claims.popleft()
        claim.remove()
        self.replayed += self._count
        if self._count:
            log.warning(
                "Replayed %s usage records of a process that ended before they were written: instance %s.",
                self._count,
                claim.instance_id,
            )
        if self._claims:
            self._begin(self._claims[0])

    def _open(self, path: Path) -> list[Item]:
        try:
            segment, items = Segment.open(path)
        except DamagedSegmentError:
            self._quarantine(path)
            return []
        except OSError as exc:  # it stays where it is, for the next look
            log.error("A segment of the usage spool cannot be read now (%s).", type(exc).__name__)  # noqa: TRY400
            return []
        segment.end = items[-1][2] if items else segment.committed  # what lies behind can never be committed
        self._segment = segment
        return items

    def _clear(self, segment: Segment) -> None:
        try:
            if segment.is_damaged:
                self._quarantine(segment.path)
            else:
                segment.remove()
        except OSError as exc:
            log.error("A replayed segment could not be removed (%s).", type(exc).__name__)  # noqa: TRY400

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
