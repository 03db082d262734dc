"""
``tokenbudget-mw migrate``: the tables, created or upgraded.
"""

from __future__ import annotations

from argparse import ArgumentParser
from typing import TYPE_CHECKING

from tokenbudget_mw.cli.context import add_json, add_source

if TYPE_CHECKING:
    from tokenbudget_mw.cli.context import Context

__all__ = ["add_arguments", "run"]


def add_arguments(parser: ArgumentParser) -> None:
    """
    Add the command's arguments.
    """
    add_source(parser)
    add_json(parser)
    parser.add_argument("--sql", action="store_true", help="print the statements for an empty database, run nothing")


def run(context: Context) -> int:
    """
    Run the command.
    """
    from tokenbudget_mw_alembic import current, is_known, upgrade

    with context.database(make=True) as engine:
        if context.args.sql:
            statements = upgrade(engine, sql=True)
            context.emit({"sql": statements}, statements.splitlines())
            return 0
        before = current(engine)
        upgrade(engine)
        after = current(engine)
    changed = before != after
    what = f"upgraded from {before or 'nothing'} to {after}" if changed else f"at {after} already"
    if after is not None and not is_known(after):
        what = f"at {after}, which a newer version has made; it serves this one, too"
    context.emit(
        {"before": before, "after": after, "changed": changed}, [f"The tables in {context.place()} are {what}."]
    )
    return 0
