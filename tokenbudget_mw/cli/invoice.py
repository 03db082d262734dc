"""
``tokenbudget-mw invoice``: what an account owes for a month, as a draft or closed for good.
"""

from __future__ import annotations

import csv
import io
import sys
from argparse import ArgumentParser
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from tokenbudget_mw.cli.context import BadUseError, account, add_json, add_source, cell, table
from tokenbudget_mw.cli.money import parse_usd
from tokenbudget_mw.cli.streams import in_utf8
from tokenbudget_mw.cli.usage import parse_moment
from tokenbudget_mw.units import format_usd, usd_from_pico

if TYPE_CHECKING:
    from tokenbudget_mw.cli.context import Context
    from tokenbudget_mw.database.periods import Invoice

__all__ = ["add_arguments", "run"]


def add_arguments(parser: ArgumentParser) -> None:
    """
    Add the command's arguments.
    """
    add_source(parser)
    add_json(parser)
    parser.add_argument("account", metavar="ACCOUNT", type=account, help="such as tenant:acme")
    parser.add_argument("--month", metavar="YYYY-MM", help="the month, UTC")
    parser.add_argument("--from", dest="starts", metavar="DATE", help="instead of a month: the first day, UTC")
    parser.add_argument("--until", dest="ends", metavar="DATE", help="and the day after the last")
    parser.add_argument(
        "--included",
        metavar="USD",
        help="what is free of charge in the period (default: 0, or what it was closed with)",
    )
    parser.add_argument("--close", action="store_true", help="close the period: its invoice never changes again")
    parser.add_argument("--csv", action="store_true", help="print CSV")


def run(context: Context) -> int:
    """
    Run the command.
    """
    from tokenbudget_mw.database import periods
    from tokenbudget_mw.database.rerating import Selection, without_price

    args = context.args
    starts, ends = _span(args.month, args.starts, args.ends)
    make = periods.close if args.close else periods.draft
    included = None if args.included is None else parse_usd(args.included)
    with context.database() as engine:
        invoice = make(engine, args.account, starts, ends, included_pico=included)
        missing = without_price(engine, Selection(starts, ends, account=invoice.account))
        before = periods.before_all(engine, args.account, starts)
    if args.csv and not args.json:
        with in_utf8():
            sys.stdout.write(_csv(invoice))
    else:
        told = {**msgspec.to_builtins(invoice), "without_price": missing, "before_pico": before}
        context.emit(told, _lines(invoice))
    if before and args.close:
        print(f"Usage of {format_usd(before)} lies before the first period, and stands on no invoice.", file=sys.stderr)
    if any(missing.values()):
        print(_told(missing), file=sys.stderr)  # beside the CSV
    return 0


def _told(missing: dict[str, int]) -> str:
    return (
        f"Requests of models without a price: {missing['unpriced']:,} are charged nothing, {missing['ceiling']:,} the ceiling. "
        "`tokenbudget-mw tariffs add` gives them one, `tokenbudget-mw rerate --unpriced` charges it."
    )


def _span(month: str | None, starts: str | None, ends: str | None) -> tuple[datetime, datetime]:
    if month is not None and starts is None and ends is None:
        try:
            first = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
            return first, (first + timedelta(days=31)).replace(day=1)
        except (ValueError, OverflowError) as exc:
            raise BadUseError(f"--month: {month!r} is no month; write it like 2027-01.") from exc
    if month is not None or starts is None or ends is None:
        raise BadUseError("Give --month, or --from and --until.")
    return parse_moment("--from", starts), parse_moment("--until", ends)


def _amounts(invoice: Invoice) -> list[tuple[str, int]]:
    return [
        ("usage", invoice.usage_pico),
        ("of earlier periods", invoice.earlier_pico),
        ("refunds", -invoice.refunds_pico),
        ("included", invoice.overage_pico - invoice.net_pico),
        ("left over by rounding", invoice.carried_pico),
        ("carried over", -invoice.remainder_pico),
    ]


def _lines(invoice: Invoice) -> list[str]:
    state = f"closed {invoice.closed_at}" if invoice.closed_at else "a draft"
    cells: list[tuple[object, ...]] = [
        (item.model or None, item.requests, item.input_tokens, item.output_tokens, format_usd(item.cost_pico))
        for item in invoice.items
    ]
    cells += [(name, None, None, None, format_usd(pico)) for name, pico in _amounts(invoice) if pico]
    cells.append(("due", None, None, None, _dollars(invoice.due_cents)))
    return [
        f"{invoice.account}, {invoice.starts_at[:10]} until {invoice.ends_at[:10]}, {state}",
        *table(("model", "requests", "input tokens", "output tokens", "cost"), cells),
    ]


def _csv(invoice: Invoice) -> str:
    """
    Return a line for each model, then one for each amount, then what is due; the last column but *usage* adds up to it.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ("account", "starts_at", "ends_at", "line", "model", "requests", "input_tokens", "output_tokens", "usd")
    )
    head = invoice.account, invoice.starts_at, invoice.ends_at
    for item in invoice.items:
        figures = item.requests, item.input_tokens, item.output_tokens, usd_from_pico(item.cost_pico)
        writer.writerow((*head, "model", cell(item.model), *figures))
    for name, pico in _amounts(invoice)[1:]:
        writer.writerow((*head, name, "", "", "", "", usd_from_pico(pico)))
    writer.writerow((*head, "due", "", "", "", "", _dollars(invoice.due_cents).replace("$", "").replace(",", "")))
    return out.getvalue()


def _dollars(cents: int) -> str:
    return format_usd(cents * 10**10)
