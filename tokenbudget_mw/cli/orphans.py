"""
``tokenbudget-mw orphans``: calls whose process died, which wait for somebody to say what they are charged.
"""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tokenbudget_mw.cli.context import BadUseError, add_json, add_source, table
from tokenbudget_mw.cli.usage import parse_moment
from tokenbudget_mw.units import format_usd
from tokenbudget_mw.values import Usage

if TYPE_CHECKING:
    from tokenbudget_mw.cli.context import Context
    from tokenbudget_mw.database.reviewing import Waiting

__all__ = ["add_arguments", "run"]

DAYS = 90


def add_arguments(parser: ArgumentParser) -> None:
    """
    Add the command's arguments.
    """
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="show those that wait")
    settle = actions.add_parser("settle", help="say what calls are charged")
    settle.add_argument("ids", nargs="*", metavar="ID", help="ids of their rows, as listed")
    settle.add_argument("--all", action="store_true", help="all that wait")
    how = settle.add_mutually_exclusive_group(required=True)
    how.add_argument("--as", dest="rule", choices=("reserved", "input", "refund"), help="charge them by this rule")
    how.add_argument("--tokens", nargs=2, type=int, metavar=("INPUT", "OUTPUT"), help="charge what the provider says")
    for action in actions.choices.values():
        action.add_argument("--since", metavar="DATE", help=f"from this moment on, UTC (default: {DAYS} days ago)")
        add_source(action)
        add_json(action)


def run(context: Context) -> int:
    """
    Run the command.
    """
    args = context.args
    since = parse_moment("--since", args.since) if args.since else datetime.now(UTC) - timedelta(days=DAYS)
    result, lines = (_list if args.action == "list" else _settle)(context, since)
    context.emit(result, lines)
    return 0


def _list(context: Context, since: datetime) -> tuple[dict[str, Any], list[str]]:
    from tokenbudget_mw.database.reviewing import waiting

    with context.database() as engine:
        calls = waiting(engine, since=since)
    heads = ("id", "began", "account", "model", "prompt", "held input", "held output")
    lines = table(heads, [tuple(_fields(call).values()) for call in calls]) if calls else ["None waits."]
    return {"calls": [_fields(call) for call in calls]}, lines


def _settle(context: Context, since: datetime) -> tuple[dict[str, Any], list[str]]:
    from tokenbudget_mw.database.reviewing import decide, waiting
    from tokenbudget_mw.wiring import open_tariffs

    args = context.args
    if bool(args.ids) == args.all:
        raise BadUseError("Give the ids of rows, or --all.")
    usage = None if args.tokens is None else _usage(*args.tokens)
    settings = context.settings()
    with context.database() as engine:
        tariffs, calls = open_tariffs(settings, engine), waiting(engine, since=since, ids=args.ids)
        done = [decide(engine, call, tariffs=tariffs, rule=args.rule or "", usage=usage) for call in calls]
    settled = [each for each in done if each.is_new]
    cost = sum(each.cost_pico for each in settled)
    missing = sorted(set(args.ids) - {each.id for each in done})
    lines = [f"{len(settled)} settled, {format_usd(cost)} in all."]
    if missing:
        lines.append(f"Not waiting: {', '.join(missing)}.")
    return {"settled": len(settled), "cost_pico": cost, "not_waiting": missing}, lines


def _usage(input_tokens: int, output_tokens: int) -> Usage:
    if input_tokens < 0 or output_tokens < 0:
        raise BadUseError("--tokens: numbers of tokens are not negative.")
    return Usage(input_tokens, output_tokens, source="reported", complete=False)


def _fields(call: Waiting) -> dict[str, Any]:
    row = call.record
    began = datetime.fromtimestamp(row.created_at_us / 1e6, UTC)
    return {
        "id": row.id,
        "began": f"{began:%Y-%m-%d %H:%M:%S}",
        "account": row.account,
        "model": row.response_model or row.request_model,
        "prompt": call.input_tokens,
        "held_input": call.held_input,
        "held_output": call.held_output,
    }
