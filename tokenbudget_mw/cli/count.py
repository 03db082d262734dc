"""
``tokenbudget-mw count FILE --model M``: the tokens of a text, how they were found, what they cost.
"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenbudget_mw.cli.context import BadUseError, add_json, add_source, table
from tokenbudget_mw.units import format_usd

if TYPE_CHECKING:
    from tokenbudget_mw.cli.context import Context
    from tokenbudget_mw.core import Core
    from tokenbudget_mw.settings import Settings

__all__ = ["add_arguments", "run"]

COLUMNS = ("model", "estimate", "upper", "exact", "method", "ms", "price", "price_kind")
WHOLE = 10**12


def add_arguments(parser: ArgumentParser) -> None:
    """
    Add the command's arguments.
    """
    parser.add_argument("file", metavar="FILE", help="a text in UTF-8; - reads the standard input")
    parser.add_argument(
        "--model", action="append", required=True, help="model to count for; may be given several times"
    )
    depth = parser.add_mutually_exclusive_group()
    depth.add_argument("--precise", action="store_true", help="sample a long text twice as densely")
    depth.add_argument("--exact", action="store_true", help="tokenise the whole text, however long")
    add_source(parser)
    add_json(parser)


def run(context: Context) -> int:
    """
    Run the command.
    """
    from tokenbudget_mw.accounting.sinks import CallableSink
    from tokenbudget_mw.wiring import wire

    text = _text(context.args.file)
    # who asks and where records go do not matter here, and must not need a database
    core = wire(_settings(context), sink=CallableSink(lambda _records: None))
    try:
        rows = [_counted(core, text, model) for model in context.args.model]
    finally:
        core.close()
    shown = [tuple(row[name] for name in COLUMNS) for row in rows]
    result = {"characters": len(text), "bytes": len(text.encode()), "counts": rows}
    context.emit(result, [f"{len(text):,} characters", *table(COLUMNS, shown)])
    return 0


def _settings(context: Context) -> Settings:
    settings = context.settings().replace(identify="ip", routes=(), backend="memory://")
    if context.args.exact:
        return settings.replace(exact_chars=WHOLE)
    return settings.replace(precise_counts=True) if context.args.precise else settings


def _text(source: str) -> str:
    if source == "-" and sys.stdin is None:
        raise BadUseError("Cannot read the standard input: it is closed.")
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as exc:
        raise BadUseError(f"Cannot read {source!r}: {exc.strerror or type(exc).__name__}.") from exc
    return data.decode("utf-8", "replace")


def _counted(core: Core, text: str, model: str) -> dict[str, Any]:
    from tokenbudget_mw.rules.pricing import Moment, price_usage
    from tokenbudget_mw.values import Usage

    core.meter.count("warm", model)  # the tokenizer loads once a process; that is no part of a count
    start = time.perf_counter()
    found = core.meter.count(text, model)
    spent = time.perf_counter() - start
    priced = price_usage(core.tariffs, Usage(input_tokens=found.estimate), Moment(time.time()), asked=model)
    return {
        "model": model,
        "estimate": found.estimate,
        "upper": found.upper,
        "exact": found.exact,
        "method": found.method,
        "ms": f"{spent * 1e3:.2f}",
        "price": format_usd(priced.cost_pico),
        "price_kind": priced.kind,
    }
