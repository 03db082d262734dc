"""
``tokenbudget-mw verify``: proves that usage, rollups, ledger and balances agree, and counters of limits with them.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tokenbudget_mw.cli.context import add_json, add_source, many
from tokenbudget_mw.cli.counters import compared_counters, told_counters
from tokenbudget_mw.units import format_usd

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tokenbudget_mw.cli.context import Context
    from tokenbudget_mw.database.books import BooksReport
    from tokenbudget_mw.database.repair import RepairReport

__all__ = ["add_arguments", "run"]


def add_arguments(parser: ArgumentParser) -> None:
    """
    Add the command's arguments.
    """
    add_source(parser, backend=True)
    add_json(parser)
    parser.add_argument(
        "--repair",
        action="store_true",
        help="put right what differs, by further entries; nothing is changed or deleted",
    )
    parser.add_argument(
        "--counters",
        action="store_true",
        help="hold the counters of calendar limits against the books, too; while no call runs they say the same",
    )
    parser.add_argument("--note", help="why it is repaired, for people; stands on every entry")


def run(context: Context) -> int:
    """
    Run the command.
    """
    from tokenbudget_mw.database.books import verify
    from tokenbudget_mw.database.repair import repair

    with context.database() as engine:
        report = found = verify(engine)
        repaired = None
        if context.args.repair and not found.verified:
            repaired = repair(engine, note=context.args.note)
            report = verify(engine)
        refused = _refused(engine)
        compared = compared_counters(context, engine) if context.args.counters else None
    result = _result(report, refused)
    lines = _lines(report)
    if repaired is not None:
        result |= {"repaired": asdict(repaired), "found": [asdict(difference) for difference in found.differences]}
        lines = [*_lines(found), _told(repaired), *lines]
    if compared is not None:
        result["counters"] = [{**asdict(each), "agrees": each.agrees} for each in compared]
        lines += told_counters(compared)
    context.emit(result, lines)
    return 0 if report.verified and not any(each.lacks for each in compared or ()) else 1


def _told(repaired: RepairReport) -> str:
    return (
        f"Repaired: {many(repaired.entries, 'entry', 'entries')} of {format_usd(repaired.posted_pico)} posted, "
        f"{many(repaired.rollups, 'line')} of rollups changed, {many(repaired.balances, 'balance')} made anew. Now:"
    )


def _refused(engine: Engine) -> dict[str, int]:
    """
    Count the rows of refused requests by the limit that refused them, or by their status where none did.
    """
    from sqlalchemy import func, select

    from tokenbudget_mw.database.engine import reader
    from tokenbudget_mw.database.tables import usage

    wanted = (
        select(usage.c.limit_name, usage.c.status, func.count())
        .where(usage.c.decision == "refused")
        .group_by(usage.c.limit_name, usage.c.status)
    )
    counts: Counter[str] = Counter()
    with reader(engine).connect() as connection:
        for limit, status, count in connection.execute(wanted):
            counts[limit or f"status {status}"] += count
    return dict(counts)


def _result(report: BooksReport, refused: dict[str, int]) -> dict[str, Any]:
    return {
        "admitted": report.rows - sum(refused.values()),
        "refused": refused,
        "rows": report.rows,
        "tokens": report.tokens["input_tokens"] + report.tokens["output_tokens"],
        **report.tokens,
        "cost_pico": report.usage_pico + report.unowned_pico,
        "unowned_pico": report.unowned_pico,
        "corrected_pico": report.corrected_pico,
        "ledger_usage_pico": report.ledger_usage_pico,
        "ledger_pico": report.ledger_pico,
        "balance_pico": report.balance_pico,
        "rollup_pico": report.rollup_pico,
        "purged": report.purged,
        "purged_pico": report.purged_pico,
        "verified": report.verified,
        "differences": [asdict(difference) for difference in report.differences],
        "truncated": report.truncated,
    }


def _lines(report: BooksReport) -> list[str]:
    lines = [
        f"usage    {format_usd(report.usage_pico)} on {many(report.rows, 'row')}"
        + (f", and {format_usd(report.unowned_pico)} that nobody owns" if report.unowned_pico else ""),
        *([f"purged   {format_usd(report.purged_pico)} on {many(report.purged, 'row')}"] if report.purged else []),
        *([f"changed  {format_usd(report.corrected_pico)} by later prices"] if report.corrected_pico else []),
        f"rollups  {format_usd(report.rollup_pico)}",
        f"ledger   {format_usd(report.ledger_usage_pico)} for usage, {format_usd(report.ledger_pico)} in all",
        f"balances {format_usd(report.balance_pico)}",
    ]
    if report.verified:
        return [*lines, "The books agree."]
    places = many(len(report.differences), "place")
    return [*lines, f"The books do NOT agree, in {places}{' or more' if report.truncated else ''}:", *_by_day(report)]


def _by_day(report: BooksReport) -> Iterator[str]:
    days: dict[str, list[str]] = {}
    for difference in report.differences:
        days.setdefault(difference.day, []).append(str(difference))
    for day in sorted(days):
        yield f"  {day or 'of no day'}"
        yield from (f"    {line}" for line in days[day])
