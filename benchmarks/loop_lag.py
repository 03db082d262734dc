"""
What a busy flusher does to the event loop beside it: how late timers are while 2,000 records a second are put and written.

Wall time counts, since lateness is what is asked for; with and without the flusher take turns.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from itertools import count
from pathlib import Path
from statistics import median

from benchmarks.accounting import make
from benchmarks.flushing import POSTGRES, postgres
from benchmarks.harness import Result, Scale, UnavailableError
from tokenbudget_mw.accounting.base import Sink
from tokenbudget_mw.accounting.flusher import Flusher
from tokenbudget_mw.accounting.mmap_spool import MmapSpool
from tokenbudget_mw.database import tables
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.writer import DatabaseSink

__all__ = ["loop_lag"]

RATE = 2_000
"""Records a second."""

TICK = 0.001
SECONDS = 2.0

_numbers = count(1)


def loop_lag(scale: Scale) -> Result:
    """
    The 99th percentile of a timer's lateness, with a flusher that writes to PostgreSQL and without one; in the details the
    same on SQLite, and the longest of all.
    """
    url = os.environ.get(POSTGRES)
    if not url:
        raise UnavailableError(f"needs PostgreSQL; set {POSTGRES}")
    seconds = max(0.1, SECONDS * scale.share)
    names = ("with", "sqlite", "without")
    seen: dict[str, list[list[float]]] = {name: [] for name in names}
    with postgres(url) as engine, tempfile.TemporaryDirectory() as folder:
        lite = open_engine(f"sqlite:///{Path(folder) / 'usage.db'}")
        sinks: dict[str, Sink | None] = {"with": DatabaseSink(engine), "sqlite": DatabaseSink(lite), "without": None}
        for each in (engine, lite):
            tables.metadata.create_all(each)
        for _ in range(scale.rounds):
            for name in names:
                seen[name].append(_turn(sinks[name], seconds))
        lite.dispose()
    late = {name: median(lags[len(lags) * 99 // 100] for lags in rounds) for name, rounds in seen.items()}
    return Result(
        value=late["with"],
        unit="ms p99",
        baseline="the same without a flusher",
        baseline_value=late["without"],
        goal="<= 1.5x of none",
        met=late["with"] <= 1.5 * late["without"],
        details={"on_sqlite_ms": late["sqlite"], "longest_ms": max(lags[-1] for lags in seen["with"])},
    )


def _turn(sink: Sink | None, seconds: float) -> list[float]:
    """
    Return how late timers were, in milliseconds, sorted; and make sure that every record was written where there is a *sink*.
    """
    with tempfile.TemporaryDirectory() as folder:
        spool = MmapSpool(Path(folder) / "spool")
        flusher = None if sink is None else Flusher(spool, sink)
        lags, put = asyncio.run(_serve(spool, seconds))
        if flusher is not None:
            flusher.flush(60)
            written = flusher.stats().flushed
            assert written == put, f"{put} records were put, and {written} written"
            flusher.close()
        return sorted(lags)


async def _serve(spool: MmapSpool, seconds: float) -> tuple[list[float], int]:
    loop = asyncio.get_running_loop()
    lags, put, begun = [], 0, loop.time()
    while (now := loop.time()) < begun + seconds:
        await asyncio.sleep(TICK)
        lags.append((loop.time() - now - TICK) * 1_000)
        for _ in range(int((loop.time() - begun) * RATE) - put):
            spool.put(make(spool.instance_id, next(_numbers)))
            put += 1
    return lags, put
