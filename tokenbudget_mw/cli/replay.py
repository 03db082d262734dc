"""
``tokenbudget-mw replay TRACE``: what would these limits have done to this traffic?

Every request of a recorded trace goes through the real ASGI middleware, with a virtual clock that follows the trace, and
its usage ends in a database, whose books are proved. The trace's formats are those of `replaying.traces`.
"""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from tokenbudget_mw.cli.context import BadUseError, add_json

if TYPE_CHECKING:
    from argparse import Namespace

    from tokenbudget_mw.cli.context import Context
    from tokenbudget_mw.settings import Settings
    from tokenbudget_mw.values import Facts, Limit, Subject

__all__ = ["add_arguments", "run"]

LEAST_DEADLINE = 5.0
"""Seconds that the backend gets at least: a replay measures limits, not this machine's pauses."""


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
    from tokenbudget_mw.cli.replaying.drive import Plan
    from tokenbudget_mw.cli.replaying.journey import replay
    from tokenbudget_mw.cli.replaying.report import lines_of, result_of
    from tokenbudget_mw.cli.replaying.traces import read_trace

    args = context.args
    _check(args)
    trace = read_trace(args.trace)
    name = f"replay-{uuid4().hex[:8]}"
    settings = _settings(context, name)
    plan = Plan(args.model, args.keys, f"{name}-", args.token_ms / 1000, args.max_tokens)
    with open_books(args.database) as engine:
        result = result_of(asyncio.run(replay(settings, trace, engine, plan)))
    context.emit(result, lines_of(result))
    return 0 if result["verified"] and result["limits_held"] and not result["degraded"] else 1


def _check(args: Namespace) -> None:
    if args.keys < 1:
        raise BadUseError(f"--keys: at least 1 is needed, got {args.keys}.")
    if args.token_ms < 0:
        raise BadUseError(f"--token-ms: a time cannot be negative, got {args.token_ms:g}.")
    if args.max_tokens is not None and args.max_tokens < 1:
        raise BadUseError(f"--max-tokens: at least 1 is needed, got {args.max_tokens}.")


# -- settings ---------------------------------------------------------------------------------------------------------


def _settings(context: Context, name: str) -> Settings:
    """
    Return the settings whose limits are tried, changed so that the trace reaches them, and nothing else is reached:
    neither the app's own backend nor its database is used unless an argument names them.
    """
    from tokenbudget_mw.cli.replaying.drive import FORMAT, PATH
    from tokenbudget_mw.rules.routes import RouteTable
    from tokenbudget_mw.settings import Settings
    from tokenbudget_mw.values import Route

    args = context.args
    base = context.settings() if args.config or context.host else Settings.from_mapping({})
    if args.plan is not None and args.plan not in base.plans:
        raise BadUseError(f"--plan: unknown plan {args.plan!r}. Known plans: {', '.join(base.plans) or 'none'}.")
    routes = (*base.routes, Route(PATH, format=FORMAT))
    route = RouteTable(routes).match("POST", PATH)
    if route is None or route.format != FORMAT:
        raise BadUseError(f"A replay sends {FORMAT} to {PATH}, and the settings' route there is of another format.")
    return base.replace(
        backend=args.backend,
        database=args.database,
        database_alias=None,
        spool="memory",  # a replay that is killed is started again
        identify=partial(_identify, plan=args.plan, group=name),
        routes=routes,
        exempt=(),
        limits=(*base.limits, *_more_limits(args.limit, base)),
        deadline=max(base.deadline, LEAST_DEADLINE),
        refusals="auto",
        enabled=True,
        record_refusals=True,
    )


def _more_limits(texts: Sequence[str], base: Settings) -> list[Limit]:
    from tokenbudget_mw.settings import parse_limit
    from tokenbudget_mw.settings.limits import split_limits

    taken = {limit.name for limit in (*base.limits, *(one for plan in base.plans.values() for one in plan.limits))}
    found = []
    for part in [part for text in texts for part in split_limits(text)]:
        limit = parse_limit(part, path="--limit", rates=base.rates)
        if limit.name in taken:
            limit = parse_limit({"limit": part, "name": f"{limit.name}-{len(taken)}"}, rates=base.rates)
        taken.add(limit.name)
        found.append(limit)
    return found


def _identify(facts: Facts, *, plan: str | None, group: str) -> Subject | None:
    """
    Take the key from the drive's header; the whole replay is one tenant, so that every scope has a value.
    """
    from tokenbudget_mw.cli.replaying.drive import KEY_HEADER
    from tokenbudget_mw.values import Subject

    key = facts.header(KEY_HEADER)
    return None if key is None else Subject(key, user=key, team=group, project=group, tenant=group, plan=plan)
