"""
``tokenbudget-mw replay TRACE``: what would these limits have done to this traffic?

Every request of a recorded trace goes through the real ASGI middleware, with a virtual clock that follows the trace, and
its usage ends in a database, whose books are proved. The trace's formats are those of `replaying.traces`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tokenbudget_mw.cli.context import BadUseError, add_json, table
from tokenbudget_mw.units import format_usd

if TYPE_CHECKING:
    from argparse import Namespace

    from sqlalchemy import Engine

    from tokenbudget_mw.cli.context import Context
    from tokenbudget_mw.cli.replaying.drive import Drive, Flight, Plan
    from tokenbudget_mw.cli.replaying.history import History
    from tokenbudget_mw.cli.replaying.tallies import Tallies
    from tokenbudget_mw.cli.replaying.traces import Traced
    from tokenbudget_mw.core import Core
    from tokenbudget_mw.settings import Settings
    from tokenbudget_mw.values import Facts, Subject

__all__ = ["add_arguments", "run"]

BARE_SAMPLE = 2_000
"""Requests that are also sent through the bare app, to know what the drive itself takes."""

EVERY = 2_000
"""Requests after which the replay waits for the database, so that no record finds the spool full."""

LEAST_DEADLINE = 5.0
"""Seconds that the backend gets at least: a replay measures limits, not this machine's pauses."""

FLUSH_TIMEOUT = 120.0


def add_arguments(parser: ArgumentParser) -> None:
    """
    Add the command's arguments.
    """
    add = parser.add_argument
    add("trace", type=Path, metavar="TRACE", help=".csv: TIMESTAMP,ContextTokens,GeneratedTokens; .jsonl: time, …")
    add("--config", metavar="FILE", help="settings with the limits: .toml, .json or module:NAME; by default no limits")
    add("--limit", action="append", default=[], metavar="TEXT", help="one more limit: '100k tokens/minute per key'")
    add("--plan", metavar="NAME", help="plan of all keys; by default the settings' default plan")
    add("--keys", type=int, default=1, metavar="N", help="how many keys take turns, where the trace names none")
    add("--model", default="gpt-4o", metavar="NAME", help="model of requests that name none (default: gpt-4o)")
    add(
        "--max-tokens",
        type=int,
        metavar="N",
        help="output that each request asks for; by default what it got, rounded up",
    )
    add("--token-ms", type=float, default=20.0, metavar="MS", help="virtual time of an output token (default: 20)")
    add("--backend", default="memory://", metavar="URL", help="where counters live: one that no app uses, and empty")
    add("--database", metavar="URL", help="where usage is written; by default a temporary SQLite file")
    add_json(parser)


def run(context: Context) -> int:
    """
    Run the command.
    """
    from tokenbudget_mw.cli.replaying.books import open_books
    from tokenbudget_mw.cli.replaying.traces import read_trace

    args = context.args
    _check(args)
    trace = read_trace(args.trace)
    run_id = uuid4().hex[:8]
    settings = _settings(context, run_id)
    with open_books(args.database) as engine:
        outcome = asyncio.run(_replay(args, settings, trace, engine, f"replay-{run_id}-"))
    result = _result(outcome)
    context.emit(result, _lines(result))
    return 0 if result["verified"] and result["limits_held"] else 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    What a replay came to.

    Attributes:
        tallies: Its own sums.

        history: Its own windows.

        database: What the database holds of it.

        is_proved: Whether the books of the database agree.

        dropped: Records that were lost.

        latency_us: What the middleware added, in microseconds.

        seconds: Real time of the drive.

        cpu_seconds: Processor time of the drive.
    """

    tallies: Tallies
    history: History
    database: dict[str, int]
    is_proved: bool
    dropped: int
    latency_us: dict[str, float]
    seconds: float
    cpu_seconds: float


def _check(args: Namespace) -> None:
    if args.keys < 1:
        raise BadUseError(f"--keys: at least 1 is needed, got {args.keys}.")
    if args.token_ms < 0:
        raise BadUseError(f"--token-ms: a time cannot be negative, got {args.token_ms:g}.")
    if args.max_tokens is not None and args.max_tokens < 1:
        raise BadUseError(f"--max-tokens: at least 1 is needed, got {args.max_tokens}.")


# -- settings ---------------------------------------------------------------------------------------------------------


def _settings(context: Context, run_id: str) -> Settings:
    """
    Return the settings whose limits are tried, changed so that the trace reaches them, and nothing else is reached:
    neither the app's own backend nor its database is used unless an argument names them.
    """
    from tokenbudget_mw.cli.replaying.drive import PATH
    from tokenbudget_mw.settings import Settings
    from tokenbudget_mw.values import Route

    args = context.args
    base = context.settings() if args.config or context.host else Settings.from_mapping({})
    if args.plan is not None and args.plan not in base.plans:
        raise BadUseError(f"--plan: unknown plan {args.plan!r}. Known plans: {', '.join(base.plans) or 'none'}.")
    return base.replace(
        backend=args.backend,
        database=args.database,
        database_alias=None,
        identify=partial(_identify, plan=args.plan, group=f"replay-{run_id}"),
        routes=(*base.routes, Route(PATH, format="openai.chat")),
        exempt=(),
        limits=(*base.limits, *_more_limits(args.limit, base)),
        deadline=max(base.deadline, LEAST_DEADLINE),
        refusals="auto",
        enabled=True,
        record_refusals=True,
    )


def _more_limits(texts: Sequence[str], base: Settings) -> list[Any]:
    from tokenbudget_mw.settings import parse_limit
    from tokenbudget_mw.settings.limits import split_limits

    parts = [part for text in texts for part in split_limits(text)]
    limits = [parse_limit(part, path=f"--limit[{at}]", rates=base.rates) for at, part in enumerate(parts)]
    taken = {limit.name for limit in (*base.limits, *(one for plan in base.plans.values() for one in plan.limits))}
    found = []
    for at, limit in enumerate(limits):
        name = f"{limit.name}-{at + 1}" if limit.name in taken else limit.name
        taken.add(name)
        found.append(parse_limit({"limit": parts[at], "name": name}, rates=base.rates))
    return found


def _identify(facts: Facts, *, plan: str | None, group: str) -> Subject | None:
    """
    Take the key from the drive's header; the whole replay is one tenant, so that every scope has a value.
    """
    from tokenbudget_mw.cli.replaying.drive import KEY_HEADER
    from tokenbudget_mw.values import Subject

    key = facts.header(KEY_HEADER)
    return None if key is None else Subject(key, user=key, team=group, project=group, tenant=group, plan=plan)


# -- the drive --------------------------------------------------------------------------------------------------------


async def _replay(args: Namespace, settings: Settings, trace: Sequence[Traced], engine: Engine, prefix: str) -> Outcome:
    from tokenbudget_mw.asgi import ASGIMiddleware
    from tokenbudget_mw.cli.replaying.books import written
    from tokenbudget_mw.cli.replaying.drive import Clock, Drive, Plan
    from tokenbudget_mw.cli.replaying.history import History
    from tokenbudget_mw.cli.replaying.provider import bare, witnessed
    from tokenbudget_mw.cli.replaying.tallies import Tallies, percentiles
    from tokenbudget_mw.database.books import verify
    from tokenbudget_mw.wiring import wire

    clock = Clock(trace[0].at)
    plan = Plan(args.model, args.keys, prefix, args.token_ms / 1000, args.max_tokens)
    bare_ns = await _bare_times(Drive, bare, trace[:BARE_SAMPLE], plan)
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


async def _bare_times(drive: type[Drive], app: Any, trace: Sequence[Traced], plan: Plan) -> list[int]:
    from tokenbudget_mw.cli.replaying.drive import Clock

    times: list[int] = []
    on_end: Callable[[Flight], None] = lambda flight: times.append(flight.busy_ns)  # noqa: E731 - typed by its target
    bare = drive(app, Clock(trace[0].at), plan, on_end)
    for traced in trace:
        await bare.arrive(traced)
    await bare.end_until(float("inf"))
    return times


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
    from tokenbudget_mw.rules.tariffs import cost_pico

    price = core.tariffs.quote(flight.model, at=flight.traced.at).price
    return 0 if price is None else cost_pico(price, flight.usage)


# -- the result -------------------------------------------------------------------------------------------------------


def _result(outcome: Outcome) -> dict[str, Any]:
    tallies, database = outcome.tallies, outcome.database
    mine = {
        "rows": tallies.admitted + tallies.refusals,
        "input_tokens": tallies.input_tokens,
        "output_tokens": tallies.output_tokens,
        "cost_pico": tallies.cost_pico,
    }
    worst = outcome.history.worst
    return {
        "requests": tallies.admitted + tallies.refusals,
        "admitted": tallies.admitted,
        "refused": dict(tallies.refused),
        "would_refuse": dict(tallies.would_refuse),
        "tokens": tallies.input_tokens + tallies.output_tokens,
        "input_tokens": tallies.input_tokens,
        "output_tokens": tallies.output_tokens,
        "cost_pico": tallies.cost_pico,
        "rows": database["rows"],
        "verified": outcome.is_proved and outcome.dropped == 0 and mine == database,
        "latency_us": outcome.latency_us,
        "database": database,
        "worst_window": {
            name: {"key": found.key, "tokens": found.tokens, "cap": found.cap, "at": found.at}
            for name, found in worst.items()
        },
        "limits_held": all(found.tokens <= found.cap for found in worst.values()),
        "hours": [
            {"hour": name, "admitted": hour.admitted, "refused": dict(hour.refused)}
            for name, hour in sorted(tallies.hours.items())
        ],
        "seconds": outcome.seconds,
        "cpu_seconds": outcome.cpu_seconds,
    }


def _lines(result: dict[str, Any]) -> list[str]:
    names = sorted(result["refused"])
    hours = [
        (hour["hour"], hour["admitted"], *(hour["refused"].get(name, 0) for name in names)) for hour in result["hours"]
    ]
    database = result["database"]
    lines = [
        (
            f"{result['requests']:,} requests: {result['admitted']:,} admitted, "
            f"{result['requests'] - result['admitted']:,} refused"
        ),
        *(f"  {count:,} refused by '{name}'" for name, count in sorted(result["refused"].items())),
        *(
            f"  {count:,} would be refused by '{name}' (shadow)"
            for name, count in sorted(result["would_refuse"].items())
        ),
        "",
        *table(("hour", "admitted", *names), hours),
        "",
        (
            f"used      {result['input_tokens']:,} input and {result['output_tokens']:,} output tokens, "
            f"{format_usd(result['cost_pico'])}"
        ),
        (
            f"database  {database['input_tokens']:,} input and {database['output_tokens']:,} output tokens, "
            f"{format_usd(database['cost_pico'])}, on {database['rows']:,} rows"
        ),
        f"books     {'agree' if result['verified'] else 'do NOT agree'}",
    ]
    for name, worst in result["worst_window"].items():
        verdict = "" if worst["tokens"] <= worst["cap"] else ": BROKEN"
        lines.append(f"fullest   '{name}': {worst['tokens']:,} of {worst['cap']:,} tokens, by {worst['key']}{verdict}")
    latency = result["latency_us"]
    lines.append(
        f"time      {latency['p50']} us added to a request (p99 {latency['p99']} us); {result['seconds']} s in all, "
        f"{result['cpu_seconds']} s of them CPU"
    )
    return lines
