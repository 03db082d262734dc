"""
``tokenbudget-mw reconcile INVOICE.csv``: holds the books against a provider's invoice.
"""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from tokenbudget_mw.cli.context import BadUseError, add_json, add_source, many, table
from tokenbudget_mw.units import format_usd, parse_decimal, parse_dollars, pico_from_usd

if TYPE_CHECKING:
    from tokenbudget_mw.cli.context import Context
    from tokenbudget_mw.database.reconciling import InvoiceLine, Mismatch, Tolerance

__all__ = ["add_arguments", "run"]


def add_arguments(parser: ArgumentParser) -> None:
    """
    Add the command's arguments.
    """
    add_source(parser)
    add_json(parser)
    parser.add_argument(
        "invoice",
        metavar="INVOICE.csv",
        help="with the columns date, model, cost_usd and, as may be, input_tokens, output_tokens, requests",
    )
    parser.add_argument(
        "--tolerance", default="$0.01", metavar="AMOUNT", help="allowed difference of a line: $0.01 (default) or 0.5%%"
    )
    parser.add_argument(
        "--models",
        action="append",
        default=[],
        metavar="PATTERN",
        help="only these of the books: 'gpt-*'; may be repeated",
    )


def run(context: Context) -> int:
    """
    Run the command.
    """
    from tokenbudget_mw.database.reconciling import reconcile
    from tokenbudget_mw.wiring import model_names

    args = context.args
    tolerance = _tolerance(args.tolerance)
    invoice = _read(args.invoice)
    names = model_names(context.settings())
    with context.database() as engine:
        found = reconcile(engine, invoice, tolerance=tolerance, models=args.models, name_of=names)
    total = sum(line.figures["cost_pico"] for line in invoice)
    result = {
        "lines": len(invoice),
        "invoice_pico": total,
        "reconciled": not found,
        "differences": [asdict(mismatch) for mismatch in found],
    }
    context.emit(result, _lines(found, invoice, total, args.tolerance))
    return 1 if found else 0


def _read(name: str) -> list[InvoiceLine]:
    from tokenbudget_mw.database.reconciling import read_invoice

    try:
        with Path(name).open(encoding="utf-8-sig", newline="") as file:
            return read_invoice(file)
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is no UTF-8 text. Save it as 'CSV UTF-8'"
        raise BadUseError(f"Cannot read {name!r}: {reason}.") from exc


def _tolerance(text: str) -> Tolerance:
    from tokenbudget_mw.database.reconciling import Tolerance

    try:
        if text.endswith("%"):
            tolerance = Tolerance(0, parse_decimal(text.removesuffix("%")))
        else:
            tolerance = Tolerance(pico_from_usd(parse_dollars(text)), Decimal(0))
    except ValueError as exc:
        raise BadUseError(f"--tolerance: {text!r} is no amount; write it like $0.01 or 0.5%.") from exc
    if tolerance.cost_pico < 0 or tolerance.percent < 0:
        raise BadUseError(f"--tolerance: {text!r} is below 0.")
    return tolerance


def _lines(found: list[Mismatch], invoice: list[InvoiceLine], total: int, tolerance: str) -> list[str]:
    days = [line.day for line in invoice]
    head = f"{many(len(invoice), 'line')} of the invoice, {min(days):%Y-%m-%d} to {max(days):%Y-%m-%d}, {format_usd(total)}"
    if not found:
        return [f"{head}: the books agree, within {tolerance} a day and model."]
    cells = [
        (mismatch.day, mismatch.model, mismatch.figure.removesuffix("_pico"), *_both(mismatch)) for mismatch in found
    ]
    return [
        f"{head}: {many(len(found), 'difference')} of more than {tolerance}.",
        *table(("day", "model", "figure", "books", "invoice", "difference"), cells),
    ]


def _both(mismatch: Mismatch) -> tuple[str, str, str]:
    values = mismatch.ours, mismatch.theirs, mismatch.ours - mismatch.theirs
    if mismatch.figure == "cost_pico":
        return format_usd(values[0]), format_usd(values[1]), format_usd(values[2])
    return f"{values[0]:,}", f"{values[1]:,}", f"{values[2]:,}"
