"""
``tokenbudget-mw export``: usage rows for other programs, as CSV or as lines of JSON.
"""

from __future__ import annotations

import csv
import json
import sys
from argparse import ArgumentParser
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tokenbudget_mw.cli.context import BadUseError, add_source, cell
from tokenbudget_mw.cli.streams import in_utf8
from tokenbudget_mw.cli.usage import parse_moment
from tokenbudget_mw.rules.identity import kid_in
from tokenbudget_mw.units import usd_from_pico

if TYPE_CHECKING:
    from tokenbudget_mw.cli.context import Context

__all__ = ["add_arguments", "run"]


def add_arguments(parser: ArgumentParser) -> None:
    """
    Add the command's arguments.
    """
    add_source(parser)
    parser.add_argument("--since", required=True, metavar="DATE", help="from this moment on, in ISO 8601, UTC")
    parser.add_argument("--until", metavar="DATE", help="up to this moment, not included (default: now)")
    parser.add_argument("--account", metavar="ACCOUNT", help="only this account, such as tenant:acme")
    parser.add_argument("--key", metavar="KID", dest="key_id", type=kid_in, help="only this key")
    for name in ("user", "team", "project", "tenant"):
        parser.add_argument(f"--{name}", metavar="ID", dest=f"{name}_id", help=f"only this {name}")
    parser.add_argument("--format", choices=("csv", "jsonl"), default="csv", help="default: csv")


def run(context: Context) -> int:
    """
    Run the command.
    """
    from tokenbudget_mw.database.exporting import OWNERS, rows_of

    args = context.args
    since = parse_moment("--since", args.since)
    until = parse_moment("--until", args.until) if args.until else datetime.now(UTC)
    if until <= since:
        raise BadUseError("--until does not lie after --since.")
    owner = {name: value for name in OWNERS if (value := getattr(args, name)) is not None}
    with context.database() as engine, in_utf8():
        rows = map(_plain, rows_of(engine, since, until, **owner))
        _write_csv(rows) if args.format == "csv" else _write_lines(rows)
    return 0


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """
    Return *row* with moments in ISO 8601, and with what it costs by now in dollars, exact.
    """
    told = {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()}
    return told | {"cost_usd": usd_from_pico(row["cost_pico"] + row["corrected_pico"])}


def _write_csv(rows: Iterable[dict[str, Any]]) -> None:
    from tokenbudget_mw.database.exporting import COLUMNS

    writer = csv.writer(sys.stdout, lineterminator="\n")
    names = (*COLUMNS, "cost_usd")
    writer.writerow(names)
    for row in rows:
        writer.writerow([cell(row[name]) for name in names])


def _write_lines(rows: Iterable[dict[str, Any]]) -> None:
    for row in rows:
        sys.stdout.write(json.dumps(row | {"tags": json.loads(row["tags"])}) + "\n")
