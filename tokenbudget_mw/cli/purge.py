"""
``tokenbudget-mw purge``: deletes old usage rows; rollups, ledger and balances stay.
"""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from tokenbudget_mw.cli.context import BadUseError, add_json, add_source, many
from tokenbudget_mw.units import parse_duration

if TYPE_CHECKING:
    from tokenbudget_mw.cli.context import Context

__all__ = ["add_arguments", "run"]


def add_arguments(parser: ArgumentParser) -> None:
    """
    Add the command's arguments.
    """
    add_source(parser)
    add_json(parser)
    parser.add_argument("--older-than", required=True, metavar="AGE", help="for example 90d; a day at least")
    parser.add_argument(
        "--by-rows", action="store_true", help="of partitions that are older in part, delete the rows that are older"
    )


def run(context: Context) -> int:
    """
    Run the command.
    """
    from tokenbudget_mw.database.retention import purge

    before = _before(context.args.older_than)
    with context.database() as engine:
        report = purge(engine, before=before, by_rows=context.args.by_rows)
    result = {
        "before": before.isoformat(),
        "rows": report.rows,
        "partitions": report.partitions,
        "batches": report.batches,
        "slowest_ms": round(report.slowest_s * 1000, 1),
    }
    done = f"{many(report.rows, 'row')} from before {before:%Y-%m-%d %H:%M:%S} UTC deleted"
    whole = f" {many(report.partitions, 'partition')} dropped whole." if report.partitions else ""
    context.emit(
        result, [f"{done}, in {many(report.batches, 'transaction')} of {result['slowest_ms']} ms at most.{whole}"]
    )
    return 0


def _before(age: str) -> datetime:
    try:
        passed = timedelta(seconds=parse_duration(age))
        before = datetime.now(UTC) - passed
    except (ValueError, OverflowError) as exc:
        raise BadUseError(f"--older-than: {age!r} is no age; write it like 90d.") from exc
    if passed < timedelta(days=1):
        raise BadUseError(f"--older-than: {age!r} is less than a day; younger rows stay.")
    return before
