"""
``tokenbudget-mw partitions``: usage in a table a day or a month, on PostgreSQL.
"""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tokenbudget_mw.cli.context import BadUseError, add_json, add_source, many, table

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tokenbudget_mw.cli.context import Context

__all__ = ["add_arguments", "run"]

Answer = tuple[dict[str, Any], list[str]]


def add_arguments(parser: ArgumentParser) -> None:
    """
    Add the command's arguments.
    """
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    on = actions.add_parser(
        "on", help="make the usage table one of partitions, while it is in use; there is no way back"
    )
    on.add_argument("--every", choices=("day", "month"), default="month", help="how long a partition is")
    ahead = actions.add_parser("ahead", help="make the partitions of the time to come; from cron, once a day")
    ahead.add_argument("--every", choices=("day", "month"), help="how long a new one is; by default as the last one")
    ahead.add_argument(
        "--count", type=int, metavar="N", help="how many shall stand ready; by default 14 days or 3 months"
    )
    actions.add_parser("list", help="show them")
    for name, what in (
        ("detach", "take one out, keep its sums and leave its table standing"),
        ("attach", "put a detached one back"),
        ("drop", "drop one, and keep its sums"),
    ):
        actions.add_parser(name, help=what).add_argument(
            "name", metavar="NAME", help="such as tokenbudget_usage_p2026_01"
        )
    for action in actions.choices.values():
        add_source(action)
        add_json(action)


def run(context: Context) -> int:
    """
    Run the command.
    """
    from tokenbudget_mw.database.partitions.catalog import in_their_schema

    with context.database() as engine:
        with engine.connect() as connection:
            in_their_schema(connection)  # another database is told as such, whatever the action
        result, lines = _ACTIONS.get(context.args.action, _change)(context, engine)
    context.emit(result, lines)
    return 0


def _on(context: Context, engine: Engine) -> Answer:
    from tokenbudget_mw.database.partitions.conversion import convert

    every = context.args.every
    done = convert(engine, every, now=datetime.now(UTC))
    result = {
        "every": every,
        "rows": done.rows,
        "until": done.until.isoformat(),
        "locked_ms": round(done.swap_s * 1000, 1),
    }
    what = f"tokenbudget_usage has a partition a {every} from {done.until:%Y-%m-%d} on"
    return result, [
        f"{what}. The one before has {many(done.rows, 'row')}; the table was locked for {result['locked_ms']} ms."
    ]


def _ahead(context: Context, engine: Engine) -> Answer:
    from tokenbudget_mw.database.partitions.making import make_ahead

    args = context.args
    if args.count is not None and args.count < 0:
        raise BadUseError(f"--count: {args.count} is less than none.")
    made = make_ahead(engine, args.every, now=datetime.now(UTC), count=args.count)
    return {"made": made}, made or ["All of them are there."]


def _list(_context: Context, engine: Engine) -> Answer:
    from tokenbudget_mw.database.partitions.catalog import in_their_schema, partitions

    with engine.connect() as connection:
        in_their_schema(connection)
        found = partitions(connection)
    rows = [(part.name, "yes" if part.is_attached else "no", part.rows, part.size) for part in found]
    names = ("name", "attached", "rows", "bytes")
    lines = table(("partition", "attached", "rows, about", "bytes"), rows) if rows else ["There are none."]
    return {"partitions": [dict(zip(names, row, strict=True)) for row in rows]}, lines


def _change(context: Context, engine: Engine) -> Answer:
    from tokenbudget_mw.database.partitions import retiring

    action, name = context.args.action, context.args.name
    if action == "drop":
        rows = retiring.drop(engine, name, now=datetime.now(UTC))
    else:
        rows = {"attach": retiring.attach, "detach": retiring.detach}[action](engine, name)
    done = {"attach": "attached: it has", "detach": "detached: it has", "drop": "dropped: it had"}[action]
    return {"name": name, "action": action, "rows": rows}, [f"{name} is {done} {many(rows, 'row')}."]


_ACTIONS = {"on": _on, "ahead": _ahead, "list": _list}
