"""
A whole replay: the drive through the middleware, the wait for the database, the proof.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from tokenbudget_mw.asgi import ASGIMiddleware
from tokenbudget_mw.cli.replaying.books import written
from tokenbudget_mw.cli.replaying.drive import Clock, Drive, Flight, Plan
from tokenbudget_mw.cli.replaying.history import History
from tokenbudget_mw.cli.replaying.provider import bare, witnessed
from tokenbudget_mw.cli.replaying.report import Outcome
from tokenbudget_mw.cli.replaying.tallies import Tallies, percentiles
from tokenbudget_mw.database.books import verify
from tokenbudget_mw.rules.tariffs import cost_pico
from tokenbudget_mw.wiring import wire

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tokenbudget_mw.cli.replaying.traces import Traced
    from tokenbudget_mw.core import Core
    from tokenbudget_mw.settings import Settings

__all__ = ["replay"]

BARE_SAMPLE = 2_000
"""Requests that are also sent through the bare app, to know what the drive itself takes."""

EVERY = 2_000
"""Requests after which the replay waits for the database, so that no record finds the spool full."""

FLUSH_TIMEOUT = 120.0
"""Seconds that the database gets for what waits."""


async def replay(settings: Settings, trace: Sequence[Traced], engine: Engine, plan: Plan) -> Outcome:
    """
    Send *trace* through the middleware under *settings*; its usage goes to *engine*.
    """
    clock = Clock(trace[0].at)
    bare_ns = await _bare_times(trace[:BARE_SAMPLE], plan)
    core = wire(settings, clock=clock, engine=engine)
    history, tallies = History(), Tallies(partial(_price, core))
    drive = Drive(ASGIMiddleware(witnessed(history), core), clock, plan, tallies.add)
    started, cpu = time.perf_counter(), time.process_time()
    try:
        await _send_all(drive, trace, core)
        is_flushed = await asyncio.to_thread(core.flush, FLUSH_TIMEOUT)
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
        return Outcome(
            tallies=tallies,
            history=history,
            database=written(engine, core.spool.instance_id),
            is_proved=is_flushed and verify(engine).verified,
            dropped=core.spool.dropped,
            latency_us=percentiles(tallies.busy_ns, bare_ns),
            seconds=round(seconds, 2),
            cpu_seconds=round(cpu_seconds, 2),
        )
    finally:
        core.close()
        await core.async_guard.backend.aclose()


async def _bare_times(trace: Sequence[Traced], plan: Plan) -> list[int]:
    flights: list[Flight] = []
    drive = Drive(bare, Clock(trace[0].at), plan, flights.append)
    for traced in trace:
        await drive.arrive(traced)
    await drive.end_until(float("inf"))
    return [flight.busy_ns for flight in flights]


async def _send_all(drive: Drive, trace: Sequence[Traced], core: Core) -> None:
    is_shown = sys.stderr.isatty()
    for number, traced in enumerate(trace, 1):
        await drive.arrive(traced)
        if number % EVERY == 0:
            await asyncio.to_thread(core.flush, FLUSH_TIMEOUT)
            if is_shown:
                print(f"\r{number:,} of {len(trace):,} requests", end="", file=sys.stderr, flush=True)
    await drive.end_until(float("inf"))
    if is_shown:
        print("\r", end="", file=sys.stderr)


def _price(core: Core, flight: Flight) -> int:
    price = core.tariffs.quote(flight.model, at=flight.traced.at).price
    return 0 if price is None else cost_pico(price, flight.usage)
