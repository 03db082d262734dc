"""
``tokenbudget-mw explain``: every limit of a key: where it comes from, what is left, when it frees.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from msgspec.structs import replace

from tokenbudget_mw.cli.context import BadUseError, add_json, add_source, table
from tokenbudget_mw.rules.identity import kid_in, subject_at
from tokenbudget_mw.units import format_duration, format_moment, format_quantity, format_usd
from tokenbudget_mw.values import Subject

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Engine

    from tokenbudget_mw.cli.context import Context
    from tokenbudget_mw.database.key_rows import KeyRow
    from tokenbudget_mw.operators import Explained, Explanation
    from tokenbudget_mw.settings import Settings
    from tokenbudget_mw.values import Limit, Route, Unit

__all__ = ["add_arguments", "run"]

PICO_PER_NANO = 1000


def add_arguments(parser: ArgumentParser) -> None:
    """
    Add the command's arguments.
    """
    parser.add_argument(
        "key",
        metavar="KEY",
        type=kid_in,
        help="public id of the key (tb_live_<KEY>_…), or the whole key; or address, or id of another holder",
    )
    for scope in ("user", "team", "project", "tenant", "plan"):
        parser.add_argument(f"--{scope}", metavar="ID", help=f"{scope} of a holder that is no key of the table")
    parser.add_argument("--model", help="with its limits per model")
    parser.add_argument("--route", metavar="PATH", help="with the limits of this route of the settings")
    parser.add_argument(
        "--reset",
        action="append",
        default=[],
        metavar="NAME",
        help="first forget what the limit NAME counts; repeatable",
    )
    add_source(parser, backend=True)
    add_json(parser)


def run(context: Context) -> int:
    """
    Run the command.
    """
    from tokenbudget_mw.backends import is_in_process, open_backend
    from tokenbudget_mw.operators import Operators
    from tokenbudget_mw.rules.admission import Admission
    from tokenbudget_mw.settings.changes import policy_of
    from tokenbudget_mw.wiring import model_names, open_seeder

    settings, args = context.settings(), context.args
    if is_in_process(settings.backend):
        scheme = settings.backend.partition(":")[0]
        raise BadUseError(f"{scheme}:// counters live in each process and cannot be seen from here; use redis://.")
    policy = policy_of(settings, has_books=settings.seed_from_books)
    route = _route(settings, args.route)
    with context.database(make=True) as engine:  # asked for keys and balances only, and not at all by some hosts
        subject, row = _subject(context, settings, engine)
        backend = open_backend(settings.backend, deadline=max(settings.deadline, 1.0), workers=settings.workers)
        seeder = open_seeder(settings, lambda: engine, backend, time.time)
        try:
            admission = Admission(policy, settings.lease)
            operators = Operators(admission, backend, time.time, seeder, model_names(settings))
            if args.reset:
                operators.reset(subject, *args.reset, route=route, model=args.model)
            found = operators.explain(subject, route=route, model=args.model)
        finally:
            seeder.close()
            backend.close()
        balance = _balance(settings, engine, subject)
    told: dict[str, Any] = {} if balance is None else {"balance_pico": balance}
    state = None if row is None else row.state(time.time())
    if state is not None:
        told["status"] = state
    refused = [] if state in {None, "active"} else [f"Key {args.key} is {state}; it is refused."]
    context.emit(_fields(args.key, found) | told, _lines(found, [*refused, *_owed(subject, balance)]))
    return int(found.degraded or not all(line.is_known for line in found.limits))


def _subject(context: Context, settings: Settings, engine: Engine) -> tuple[Subject, KeyRow | None]:
    args = context.args
    named = {name: getattr(args, name) for name in ("user", "team", "project", "tenant", "plan") if getattr(args, name)}
    if settings.identify != "api_key":
        found = subject_at(args.key) if settings.identify == "ip" else None
        return replace(found or Subject(key=args.key), **named), None
    if named:
        raise BadUseError(f"--{next(iter(named))}: the key table knows that of key {args.key}.")
    from tokenbudget_mw.wiring import open_keys

    keys = open_keys(settings, engine)
    row = keys.get(args.key)
    return keys.subject_of(row), row


def _balance(settings: Settings, engine: Engine, subject: Subject) -> int | None:
    """
    Return what the account of *subject* has left, in pico-dollars; None where it need not have anything.
    """
    if not settings.prepaid or subject.account is None:
        return None
    from tokenbudget_mw.database.ledger import balance

    return balance(engine, subject.account)


def _owed(subject: Subject, balance: int | None) -> list[str]:
    if balance is None:
        return []
    refused = "" if balance > 0 else "; it is refused until it is topped up"
    return [f"Balance: {subject.account} has {format_usd(balance)}{refused}."]


def _route(settings: Settings, path: str | None) -> Route | None:
    routes = {route.path: route for route in settings.routes}
    if path is not None and path not in routes:
        raise BadUseError(f"--route: the settings have no route {path!r}. Known: {', '.join(routes) or 'none'}.")
    return None if path is None else routes[path]


def _fields(key: str, found: Explanation) -> dict[str, Any]:
    limits = [
        {
            "name": line.limit.name,
            "limit": line.limit.text,
            "source": line.source,
            "counter": line.counter,
            "mode": line.limit.mode,
            "unit": line.limit.unit,
            "amount": line.limit.amount,
            "remaining": line.remaining,
            "spent": line.is_spent,
            "reset_seconds": line.reset,
            "frees_seconds": line.frees,
            "known": line.is_known,
            "until": None if line.limit.until is None else datetime.fromtimestamp(line.limit.until, UTC).isoformat(),
            "replaces": [{"limit": limit.text, "source": source} for limit, source in line.replaced],
            "looser": [{"limit": limit.text, "source": source} for limit, source in line.looser],
        }
        for line in found.limits
    ]
    return {
        "key": key,
        "plan": found.plan,
        "degraded": found.degraded,
        "away_since": found.away_since,
        "limits": limits,
    }


def _lines(found: Explanation, owed: list[str]) -> list[str]:
    plan = f"Plan: {found.plan or 'none'}."
    if not found.limits:  # so the backend was not asked
        return [plan, *owed, "No limit applies."]
    heads = ("name", "limit", "from", "counter", "left", "of", "empty in", "frees")
    return [plan, _backend(found), *owed, *table(heads, [_cells(line) for line in found.limits]), *_notes(found.limits)]


def _notes(lines: Iterable[Explained]) -> list[str]:
    """
    Say of each limit with an end, or before others, what holds without it, and where the books do not say what is left.
    """
    notes = []
    for line in lines:
        if not line.is_known:
            notes.append(
                f"{line.limit.name}: the books do not say at what it begins; until they do, on_backend_error "
                f"'{line.limit.on_backend_error}' holds."
            )
        until = line.limit.until
        parts = [] if until is None else [f"until {format_moment(until)}"]
        if line.replaced:
            parts.append(f"in the place of {_named(line.replaced)}")
        if line.looser:
            parts.append(f"before {_named(line.looser)}, because it is no larger")
        if parts:
            notes.append(f"{line.limit.name}: holds {', '.join(parts)}.")
    return ["", *notes] if notes else []


def _named(limits: Iterable[tuple[Limit, str]]) -> str:
    return ", ".join(f"{limit.text} ({source})" for limit, source in limits)


def _backend(found: Explanation) -> str:
    if not found.degraded:
        return "Backend: up."
    since = ""
    if found.away_since is not None:
        since = f" since {datetime.fromtimestamp(found.away_since, UTC):%Y-%m-%d %H:%M:%S} UTC"
    return f"Backend: away{since}; this is not what its counters say."


def _cells(line: Explained) -> tuple[str, ...]:
    return (
        line.limit.name + (" (shadow)" if line.limit.mode == "shadow" else ""),
        line.limit.text,
        line.source,
        unquote(line.counter),
        _amount(line.limit.unit, line.remaining) if line.is_known else "unknown",
        _amount(line.limit.unit, line.limit.amount),
        "-" if line.limit.unit == "concurrent" or not line.is_known else _wait(line.reset),
        _frees(line),
    )


def _frees(line: Explained) -> str:
    if not line.is_known:
        return "-"
    if not line.is_spent:
        return "now"
    if line.frees is None:
        return "never"
    # the second that a client is told to wait for a call to end is no forecast
    return "when a call ends" if line.limit.unit == "concurrent" else f"in {_wait(line.frees)}"


def _wait(seconds: float) -> str:
    """
    Return *seconds* for people, in its two largest units.

    >>> _wait(61), _wait(257_161)
    ('1 minute 1 second', '2 days 23 hours')
    """
    whole = round(seconds)
    for large, small in ((86_400, 3_600), (3_600, 60), (60, 1)):
        if whole >= large:
            rest = whole % large // small * small
            return format_duration(whole - whole % large) + (f" {format_duration(rest)}" if rest else "")
    return format_duration(whole)


def _amount(unit: Unit, amount: int) -> str:
    return format_usd(amount * PICO_PER_NANO) if unit == "money" else format_quantity(amount)
