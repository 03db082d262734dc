"""
``tokenbudget-mw tariffs``: prices in the database, from their beginning to their end.
"""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from tokenbudget_mw.cli.context import BadUseError, add_json, add_source, table
from tokenbudget_mw.cli.usage import parse_moment
from tokenbudget_mw.units import usd_from_pico

if TYPE_CHECKING:
    from tokenbudget_mw.cli.context import Context
    from tokenbudget_mw.database.tariffs import TariffStore
    from tokenbudget_mw.settings import Settings
    from tokenbudget_mw.values import Price

__all__ = ["add_arguments", "run"]

CLASSES = (
    "input",
    "output",
    "cache_read",
    "cache_write",
    "cache_write_1h",
    "reasoning",
    "audio_input",
    "audio_output",
)
PER_MILLION = 10**6


def add_arguments(parser: ArgumentParser) -> None:
    """
    Add the command's arguments.
    """
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    add = actions.add_parser("add", help="let a price hold, from now or from a moment on")
    add.add_argument("model", metavar="MODEL")
    for name in CLASSES:
        flag = f"--{name.replace('_', '-')}"
        add.add_argument(flag, required=name in ("input", "output"), metavar="PRICE", help=f"{name.replace('_', ' ')}")
    add.add_argument("--per", default="1M tokens", help="how many tokens the prices are for (default: 1M tokens)")
    add.add_argument("--currency", default="USD", help="needs its rate in the settings' `rates` (default: USD)")
    add.add_argument("--purpose", help="only for keys of this purpose: realtime, batch, playground, platform")
    add.add_argument("--completion-window", metavar="WINDOW", help="only for batches with this window: 24h")
    add.add_argument("--service-tier", metavar="TIER", help="only for calls that this tier served: flex, priority")
    add.add_argument("--above-input", metavar="TOKENS", help="only for calls with more input tokens: 200k")
    add.add_argument("--from", dest="valid_from", metavar="DATE", help="from when on, in the settings' time zone (now)")
    add.add_argument("--until", dest="valid_until", metavar="DATE", help="until when, not included (for ever)")
    add.add_argument("--note", help="where it comes from, for people")
    end = actions.add_parser("end", help="let a price hold no longer")
    end.add_argument("id", metavar="ID", help="as `list` shows it")
    end.add_argument("--at", metavar="DATE", help="from when it no longer holds (default: now)")
    listing = actions.add_parser("list", help="list the prices, by model and from when they hold")
    listing.add_argument("--model")
    listing.add_argument("--at", metavar="DATE", help="only those that hold at this moment")
    for action in actions.choices.values():
        add_source(action)
        add_json(action)


def run(context: Context) -> int:
    """
    Run the command.
    """
    from tokenbudget_mw.database.tariffs import TariffStore

    settings = context.settings()
    with context.database() as engine:
        result, lines = _ACTIONS[context.args.action](context, settings, TariffStore(engine))
    context.emit(result, lines)
    return 0


def _add(context: Context, settings: Settings, store: TariffStore) -> tuple[dict[str, Any], list[str]]:
    from tokenbudget_mw.settings.tariffs import MoneyContext, read_tariff

    args = context.args
    given = {name: getattr(args, name) for name in (*CLASSES, *_CONDITIONS) if getattr(args, name) is not None}
    try:
        price = read_tariff({"model": args.model, **given}, MoneyContext(settings.rates, settings.timezone))
    except ValueError as exc:
        raise BadUseError(f"{exc}.") from exc
    added = store.add(price, note=args.note)
    return _fields(added), [
        f"{added.id} holds from {_day(added.valid_from)} on.",
        f"The app knows within {settings.tariff_ttl:g} s. Rows of before: `tokenbudget-mw rerate`.",
    ]


_CONDITIONS = (
    "per",
    "currency",
    "purpose",
    "completion_window",
    "service_tier",
    "above_input",
    "valid_from",
    "valid_until",
)


def _end(context: Context, settings: Settings, store: TariffStore) -> tuple[dict[str, Any], list[str]]:
    ended = store.end(context.args.id, _at(context.args.at, settings))
    return _fields(ended), [
        f"{ended.id} holds until {_day(ended.valid_until)}. The app knows within {settings.tariff_ttl:g} s."
    ]


def _list(context: Context, settings: Settings, store: TariffStore) -> tuple[dict[str, Any], list[str]]:
    found = store.find(model=context.args.model, at=_at(context.args.at, settings))
    heads = (
        "id",
        "input",
        "output",
        "cache read",
        "cache write",
        "for an hour",
        "reasoning",
        "audio in",
        "audio out",
        "until",
    )
    cells = [(price.id, *_dollars(price).values(), _day(price.valid_until)) for price in found]
    lines = [*table(heads, cells), "Dollars per 1M tokens."] if found else ["There are no tariffs in the database."]
    return {"tariffs": [_fields(price) for price in found]}, lines


def _at(text: str | None, settings: Settings) -> float | None:
    if text is None:
        return None
    return parse_moment("--at", text, ZoneInfo(settings.timezone)).timestamp()


def _dollars(price: Price) -> dict[str, str | None]:
    pico = {name: getattr(price, name) for name in CLASSES}
    return {name: None if value is None else usd_from_pico(value * PER_MILLION) for name, value in pico.items()}


def _fields(price: Price) -> dict[str, Any]:
    return {
        "id": price.id,
        "model": price.model,
        **_dollars(price),
        "purpose": price.purpose,
        "completion_window": price.completion_window,
        "service_tier": price.service_tier,
        "above_input": price.above_input,
        "valid_from": _day(price.valid_from),
        "valid_until": _day(price.valid_until),
    }


def _day(moment: float | None) -> str | None:
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")


_ACTIONS = {"add": _add, "end": _end, "list": _list}
