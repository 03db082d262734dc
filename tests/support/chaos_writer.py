"""
A process that records at full speed and acknowledges every record on its standard output, until it is killed.

Run as ``python chaos_writer.py MODE FOLDER DATABASE``. Every record's call is marked before, and its mark cleared behind. First it says its instance id and a newline, then, after each
record, eight bytes: the sequence number. `cost_of` says what a record costs.
"""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

from tokenbudget_mw.accounting.base import Spool
from tokenbudget_mw.accounting.flusher import Flusher
from tokenbudget_mw.accounting.mmap_spool import MmapSpool
from tokenbudget_mw.accounting.spool import MemorySpool
from tokenbudget_mw.calls.orphaned import Executor
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.writer import DatabaseSink
from tokenbudget_mw.rules.tariffs import Tariffs
from tokenbudget_mw.settings.model import DEFAULT_CEILING
from tokenbudget_mw.values import Opened, UsageRecord

ACK = struct.Struct("<Q")


def cost_of(sequence: int) -> int:
    """
    Return what the record with *sequence* costs, in pico-dollars: no two sums of costs are alike.
    """
    return sequence * sequence % 1_000_003 + 1


def open_spool(mode: str, folder: str) -> Spool:
    """
    Open the spool of *mode*; small segments, so that kills hit every moment of their life.
    """
    if mode == "memory":
        return MemorySpool()
    heir = Executor(Tariffs((), lambda _: (), "flag", DEFAULT_CEILING, str), lambda *_: None)  # nothing is priced here
    return MmapSpool(Path(folder), most_bytes=2**26, segment_bytes=2**18, memory=2_000, durability=mode, heir=heir)


def opened(call_id: str) -> Opened:
    """
    Return the mark of a call that is charged nothing should it be an orphan.
    """
    moment, path = 1_760_000_000_000_000, "/v1/chat/completions"
    return Opened(call_id, moment, "refund", "POST", path, input_tokens=1, held_input=1, held_output=1)


def main(mode: str, folder: str, url: str) -> None:
    spool = open_spool(mode, folder)
    flusher = Flusher(spool, DatabaseSink(open_engine(url)), interval=0.02)
    flusher.wake()
    os.write(1, spool.instance_id.encode() + b"\n")
    while True:
        sequence = spool.next_sequence()
        record = UsageRecord(
            id=f"{spool.instance_id[:20]}{sequence:012x}",
            instance_id=spool.instance_id,
            sequence=sequence,
            created_at_us=1_760_000_000_000_000 + sequence,
            method="POST",
            path="/v1/chat/completions",
            account=f"tenant:t{sequence % 7}",
            input_tokens=sequence % 1_000,
            cost_pico=cost_of(sequence),
        )
        slot = spool.mark(opened(record.id))
        if spool.put(record):
            os.write(1, ACK.pack(sequence))
        if slot is not None:
            spool.unmark(slot)


if __name__ == "__main__":
    main(*sys.argv[1:])
