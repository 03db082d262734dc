"""
What a spool and a sink are: the way of a usage record from the request to its last place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from tokenbudget_mw.errors import PermanentSinkError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tokenbudget_mw.values import Mark, UsageRecord

__all__ = ["PermanentSinkError", "Sink", "Spool"]


class Spool(Protocol):
    """
    Where records wait for the flusher. One a process.
    """

    @property
    def instance_id(self) -> str:
        """
        Names this process in `UsageRecord.instance_id`: 32 hexadecimal digits, new in every process (also after a fork).
        """
        ...

    @property
    def dropped(self) -> int:
        """
        Number of records of this process that found the spool full.
        """
        ...

    @property
    def is_exposed(self) -> bool:
        """
        Whether records that should outlive their process are in memory only at present.
        """
        ...

    @property
    def folder(self) -> Path | None:
        """
        Where the spool keeps its files; None where it has none.
        """
        ...

    def next_sequence(self) -> int:
        """
        Return the next sequence number of this instance, from 1 on, never the same twice.
        """
        ...

    def listen(self, wake: Callable[[int], None]) -> None:
        """
        Call *wake* after every put, with the number of records that wait: 1 where none did. One listener a spool.

        The number is `sys.maxsize` where the spool wants `tend` to be called soon.
        """
        ...

    def put(self, record: UsageRecord) -> bool:
        """
        Keep *record* until it is committed. Never waits, never raises, unless the spool was told to when it is full.

        Returns:
            False where the spool is full and the record was dropped (and counted).

        Raises:
            SpoolFullError: The spool is full, and was told to raise.
        """
        ...

    def mark(self, mark: Mark) -> Any:
        """
        Keep *mark* until `unmark`, or until another process finds it because this one has died. Never waits or raises.

        Returns:
            What `unmark` takes; None where nothing was kept.
        """
        ...

    def unmark(self, slot: Any) -> None:
        """
        Forget the mark that `mark` returned *slot* for. Once for each, by whoever was given it.
        """
        ...

    def tend(self) -> float | None:
        """
        Do what must not be done in `put`, in the flusher's thread: make room, look for records of dead processes.

        Returns:
            Seconds until it wants to be called again; None where that does not matter.
        """
        ...

    def take(self, most: int) -> list[UsageRecord]:
        """
        Return up to *most* of the oldest records without forgetting them. Those of dead processes may be among them.

        `take`, `commit`, `tend` and `close` are called by one thread at a time.
        """
        ...

    def commit(self, count: int) -> None:
        """
        Forget the *count* oldest records: they are in the sink.
        """
        ...

    def close(self) -> None:
        """
        Give back what nothing waits in. A later `put` starts again.
        """
        ...

    def __len__(self) -> int:
        """
        Number of records that wait.
        """
        ...


class Sink(Protocol):
    """
    Where records end: a database, a file, a function.

    It may be carried over a fork: connections of the parent must not be used in the child. After `close` it may be
    written to again.
    """

    def write(self, records: Sequence[UsageRecord]) -> int:
        """
        Store *records* in one atomic step, each at most once ever (by instance and sequence, and by id).

        Called by one thread at a time, never by an event loop's.

        Returns:
            How many were new.

        Raises:
            PermanentSinkError: Some record can never be stored. Nothing of this batch was.
        """
        ...

    def close(self) -> None:
        """
        Give back connections.
        """
        ...
