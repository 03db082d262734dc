"""
``tokenbudget-mw rerate``: prices rows again, and posts what their cost changes by.
"""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tokenbudget_mw.cli.context import BadUseError, add_json, add_source, many, table
from tokenbudget_mw.cli.usage import parse_moment
from tokenbudget_mw.units import format_usd

if TYPE_CHECKING:
    from tokenbudget_mw.cli.context import Context
    from tokenbudget_mw.database.rerating import RerateReport

__all__ = ["add_arguments", "run"]


def add_arguments(parser: ArgumentParser) -> None:
    """
    Add the command's arguments.
    """
    add_source(parser)
    add_json(parser)
    parser.add_argument("--since", required=True, metavar="DATE", help="rows from this moment on, in ISO 8601, UTC")
    parser.add_argument("--until", metavar="DATE", help="up to this moment, not included (default: now)")
    parser.add_argument("--model", help="only rows of this model")
    parser.add_argument("--account", help="only rows of this account, such as tenant:acme")
    parser.add_argument("--unpriced", action="store_true", help="only rows that had no price of their own")
    parser.add_argument("--note", help="why, for people; stands on every entry")
    parser.add_argument("--apply", action="store_true", help="post the changes; without it they are only shown")


def run(context: Context) -> int:
    """
    Run the command.
    """
    from tokenbudget_mw.database.rerating import Selection, rerate
    from tokenbudget_mw.wiring import open_tariffs

    args = context.args
    since = parse_moment("--since", args.since)
    until = parse_moment("--until", args.until) if args.until else datetime.now(UTC)
    if until <= since:
        raise BadUseError("--until does not lie after --since.")
    settings = context.settings()
    with context.database() as engine:
        report = rerate(
            engine,
            open_tariffs(settings, engine),
            Selection(since, until, args.model, args.account, args.unpriced),
            apply=args.apply,
            note=args.note,
        )
    result = {
        "applied": args.apply,
        "rows": report.rows,
        "changed": report.changed,
        "unpriced": report.unpriced,
        "change_pico": report.change_pico,
        "accounts": report.accounts,
    }
    context.emit(result, _lines(report, is_applied=args.apply))
    return 0


def _lines(report: RerateReport, *, is_applied: bool) -> list[str]:
    changed = f"{many(report.changed, 'costs', 'cost')} something else: {format_usd(report.change_pico)} in all."
    lines = [f"{many(report.rows, 'row')} looked at, {changed}"]
    if report.unpriced:
        lines.append(
            f"{many(report.unpriced, 'still has', 'still have')} no price; `tokenbudget-mw tariffs add` gives them one."
        )
    if report.accounts:
        changes = sorted(report.accounts.items())
        lines += table(("account", "change"), [(name or None, format_usd(change)) for name, change in changes])
    if report.changed:
        lines.append("Posted." if is_applied else "Nothing was posted; --apply does it.")
    return lines
