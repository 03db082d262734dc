"""
``tokenbudget-mw money``: what goes into an account, each time once by a key of the caller's.
"""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tokenbudget_mw.cli.context import BadUseError, account, add_json, add_source, table
from tokenbudget_mw.cli.usage import parse_moment
from tokenbudget_mw.units import format_usd, parse_dollars, pico_from_usd

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tokenbudget_mw.cli.context import Context
    from tokenbudget_mw.database.ledger import Entry

__all__ = ["add_arguments", "parse_usd", "run"]


def add_arguments(parser: ArgumentParser) -> None:
    """
    Add the command's arguments.
    """
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, what in (
        ("topup", "put money in"),
        ("refund", "give back what usage has cost"),
        ("adjust", "change a balance, up or down"),
        ("grant", "give money for a time"),
    ):
        action = actions.add_parser(name, help=what)
        action.add_argument("account", metavar="ACCOUNT", type=account, help="such as tenant:acme")
        action.add_argument("amount", metavar="USD", help="such as 25 or 0.50")
        action.add_argument("--key", required=True, help="yours, such as the payment's id: the same again does nothing")
        action.add_argument("--note", help="for people")
    actions.choices["grant"].add_argument(
        "--expires", required=True, metavar="DATE", help="when the rest goes back, UTC"
    )
    reverse = actions.add_parser(
        "reverse", help="take back what was posted wrongly, by an entry of the opposite amount"
    )
    reverse.add_argument("kind", choices=("topup", "refund", "adjust"), help="what it was posted as")
    reverse.add_argument("--key", required=True, help="by which it was posted")
    reverse.add_argument("--note", help="for people: why")
    actions.add_parser("expire", help="take back what is unused of grants that have ended; from cron")
    balance = actions.add_parser("balance", help="tell what is left")
    balance.add_argument("account", metavar="ACCOUNT", type=account, help="such as tenant:acme")
    for action in actions.choices.values():
        add_source(action)
        add_json(action)


def run(context: Context) -> int:
    """
    Run the command.
    """
    with context.database() as engine:
        try:
            result, lines = _ACTIONS.get(context.args.action, _post)(context, engine)
        except ValueError as exc:
            raise BadUseError(f"{exc}.") from exc
    context.emit(result, lines)
    return 0


def parse_usd(text: str) -> int:
    """
    Read dollars, with or without their sign, as pico-dollars.

    Raises:
        BadUseError: It is no amount.
    """
    try:
        return pico_from_usd(parse_dollars(text))
    except ValueError as exc:
        raise BadUseError(f"{text!r} is no amount of dollars: {exc}. Write it like 25 or 0.50.") from exc


def _post(context: Context, engine: Engine) -> tuple[dict[str, Any], list[str]]:
    from tokenbudget_mw.database import grants, ledger

    args = context.args
    amount = parse_usd(args.amount)
    if amount <= 0 and args.action != "adjust":
        raise BadUseError(f"{args.amount!r} is not above 0. `adjust` takes money off an account.")
    if args.action == "grant":
        ends = parse_moment("--expires", args.expires).timestamp()
        entry = grants.grant(engine, args.account, amount, key=args.key, expires_at=ends, note=args.note)
    else:
        entry = getattr(ledger, args.action)(engine, args.account, amount, key=args.key, note=args.note)
    return _told(engine, entry)


def _reverse(context: Context, engine: Engine) -> tuple[dict[str, Any], list[str]]:
    from tokenbudget_mw.database import ledger

    args = context.args
    return _told(engine, ledger.reverse(engine, args.kind, key=args.key, note=args.note))


def _told(engine: Engine, entry: Entry) -> tuple[dict[str, Any], list[str]]:
    from tokenbudget_mw.database import ledger

    left = ledger.balance(engine, entry.account)
    done = "Posted." if entry.is_new else "This key has posted it before; nothing changed."
    return {**_fields(entry), "balance_pico": left}, [done, f"{entry.account} has {format_usd(left)}."]


def _expire(context: Context, engine: Engine) -> tuple[dict[str, Any], list[str]]:
    from tokenbudget_mw.database.grants import expire

    del context
    entries = expire(engine)
    cells = [(entry.account, format_usd(-entry.change_pico)) for entry in entries]
    lines = table(("account", "taken back"), cells) if entries else ["Nothing is to be taken back."]
    return {"entries": [_fields(entry) for entry in entries]}, lines


def _balance(context: Context, engine: Engine) -> tuple[dict[str, Any], list[str]]:
    from tokenbudget_mw.database import grants, ledger

    name = context.args.account
    left, granted = ledger.balance(engine, name), grants.unused(engine, name)
    more = f", {format_usd(granted)} of it granted for a time" if granted else ""
    return (
        {"account": name, "balance_pico": left, "granted_pico": granted},
        [f"{name} has {format_usd(left)}{more}."],
    )


def _fields(entry: Entry) -> dict[str, Any]:
    return {**asdict(entry), "created_at": entry.created_at.isoformat()}


_ACTIONS = {"reverse": _reverse, "expire": _expire, "balance": _balance}
