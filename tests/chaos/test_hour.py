"""
A database that is away for an hour, by a clock that only the test moves: what waits, waits on the disk, within its bounds.

500 records a second under ``tox -e chaos``, five elsewhere.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from accounting_rig import FakeTime, put

from tokenbudget_mw.accounting.flusher import Flusher
from tokenbudget_mw.accounting.mmap_spool import MmapSpool
from tokenbudget_mw.values import UsageRecord

HOUR, TICK = 3_600.0, 5.0
RATE = 500 if os.environ.get("TOKENBUDGET_TEST_CHAOS") else 5
RECORDS = int(RATE * HOUR)
MEMORY = 1_000
"""Records that the spool may hold in memory."""
SEGMENT = 2**16
MOST_GROWTH = 64 << 20
"""Of this process's peak memory, in bytes. 11 MB were seen; that many records in memory take more than a gigabyte."""

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="no flock"),
    pytest.mark.timeout(600),
]


class Away:
    """A database that takes nothing, until it is back; it keeps no more than numbers."""

    def __init__(self) -> None:
        self.is_back = False
        self.tries = 0
        self.sequences: list[int] = []

    def write(self, records: Sequence[UsageRecord]) -> int:
        self.tries += 1
        if not self.is_back:
            raise ConnectionError
        self.sequences += [record.sequence for record in records]
        return len(records)

    def close(self) -> None:
        """Nothing is open."""


def held(folder: Path) -> int:
    """How many bytes lie in the folder."""
    return sum(path.stat().st_size for path in folder.rglob("*.segment"))


@pytest.mark.parametrize(
    "most_bytes", [RECORDS * 512, RECORDS * 128], ids=["the disk has room for all", "the disk has not"]
)
def test_t13_an_hour_without_a_database(most_bytes: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """
    Memory and disk stay within their bounds; what has no room is counted and said once; what was kept comes out in order.
    """
    time, away, most_bytes = FakeTime(), Away(), most_bytes // SEGMENT * SEGMENT
    spool = MmapSpool(tmp_path, most_bytes=most_bytes, segment_bytes=SEGMENT, memory=MEMORY)
    flusher = Flusher(spool, away, threads=False, clock=time, pause=time.pause, jitter=lambda _low, high: high)
    end, before, on_disk = time.now + HOUR, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []

    while time.now < end:
        put(spool, int(RATE * TICK))  # type: ignore[arg-type]
        flusher.tick()
        on_disk.append(held(tmp_path))
        time.pause(TICK)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    tries, away.is_back = away.tries, True
    assert flusher.flush(HOUR)

    said = [message for message in caplog.messages if "spool is full" in message]
    assert bool(spool.dropped) == (most_bytes < RECORDS * 150)
    assert spool.recorded + spool.dropped == RECORDS
    assert away.sequences == sorted(away.sequences)
    assert len(set(away.sequences)) == len(away.sequences) == spool.recorded > RECORDS // 3
    assert max(on_disk) <= most_bytes
    assert grown < MOST_GROWTH
    assert 10 < tries < HOUR
    assert len(said) == bool(spool.dropped)
    flusher.close()
