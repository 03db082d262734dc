"""
A clock that only tests move, a sink that fails by script, records by number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenbudget_mw.accounting.flusher import Flusher
from tokenbudget_mw.accounting.spool import MemorySpool
from tokenbudget_mw.errors import PermanentSinkError
from tokenbudget_mw.values import UsageRecord


class FakeTime:
    """
    Monotonic seconds that move only when somebody pauses.
    """

    def __init__(self) -> None:
        self.now = 1_000.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


class LedgerSink:
    """
    Stores a record once by (instance, sequence), as a database does. *answers* are raised, first come first served.
    """

    def __init__(self) -> None:
        self.rows: dict[tuple[str, int], UsageRecord] = {}
        self.answers: list[Exception | None] = []
        self.poison: set[int] = set()
        self.batches: list[int] = []
        self.duplicates = 0
        self.closed = 0

    def write(self, records: Sequence[UsageRecord]) -> int:
        answer = self.answers.pop(0) if self.answers else None
        if answer is not None:
            raise answer
        if any(record.sequence in self.poison for record in records):
            raise PermanentSinkError("poison")
        self.batches.append(len(records))
        new = {(r.instance_id, r.sequence): r for r in records if (r.instance_id, r.sequence) not in self.rows}
        self.duplicates += len(records) - len(new)
        self.rows |= new
        return len(new)

    def close(self) -> None:
        self.closed += 1

    @property
    def sequences(self) -> list[int]:
        return [sequence for _, sequence in self.rows]


def put(spool: MemorySpool, count: int = 1) -> list[UsageRecord]:
    """
    Put *count* fresh records, and return them.
    """
    records = [make(spool) for _ in range(count)]
    for record in records:
        spool.put(record)
    return records


def make(spool: MemorySpool) -> UsageRecord:
    """
    Return a record with the spool's next sequence number.
    """
    sequence = spool.next_sequence()
    return UsageRecord(
        id=f"{sequence:032x}",
        instance_id=spool.instance_id,
        sequence=sequence,
        created_at_us=0,
        method="POST",
        path="/",
    )


def build(time: FakeTime, size: int = 100_000, **options: Any) -> tuple[MemorySpool, LedgerSink, Flusher]:
    """
    Return spool, sink and flusher on *time*, without a thread: the test steps them.
    """
    spool, sink = MemorySpool(size), LedgerSink()
    settings = {"threads": False, "clock": time, "pause": time.pause, "jitter": lambda _low, high: high, **options}
    return spool, sink, Flusher(spool, sink, **settings)
