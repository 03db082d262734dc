"""
``tokenbudget-mw usage``: what was used, added up.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any

from tokenbudget_mw.cli.context import BadUseError, add_json, add_source, table
from tokenbudget_mw.rules.identity import kid_in
from tokenbudget_mw.units import format_usd

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tokenbudget_mw.cli.context import Context

__all__ = ["add_arguments", "parse_moment", "run"]

GROUPS = ("model", "key", "account", "route", "day")
_Sums = dict[str | None, dict[str, int]]
FIGURES = ("requests", "refused", "input_tokens", "output_tokens", "cost_pico")


MOST_DAYS = 100_000
"""More lie before the calendar."""

LAST_DAY = datetime(9999, 12, 31, tzinfo=UTC)
"""The day after it is one that Python does not know."""


LACKING = "Rows of this time were deleted (`purge`), so there was more: whole days of UTC, without the routes of a key, are told whole."


def add_arguments(parser: ArgumentParser) -> None:
    """
    Add the command's arguments.
    """
    add_source(parser)
    add_json(parser)
    parser.add_argument("--by", choices=GROUPS, default="model", help="a line for each (default: model)")
    parser.add_argument(
        "--days", type=int, default=30, metavar="N", help="today and the N - 1 days before (default: 30)"
    )
    parser.add_argument("--since", metavar="DATE", help="from this moment on, in ISO 8601, UTC; instead of --days")
    parser.add_argument("--until", metavar="DATE", help="up to this moment, not included")
    parser.add_argument("--key", metavar="KID", type=kid_in, help="only this key")


def run(context: Context) -> int:
    """
    Run the command.
    """
    args = context.args
    since, until = _span(args.since, args.until, args.days)
    with context.database() as engine:
        lines = [*_lines(engine, args.by, since, until, args.key)]
        is_whole = _is_told_by_rollups(args.by, since, until, args.key) or not _is_purged(engine, since, until)
    total = {name: sum(line[name] for line in lines) for name in FIGURES}
    result = {
        "since": since.isoformat(),
        "until": until.isoformat(),
        "by": args.by,
        "lines": lines,
        "total": total,
        "whole": is_whole,
    }
    context.emit(result, [*_table(args.by, lines, total), *([] if is_whole else [LACKING])])
    return 0


def _span(since: str | None, until: str | None, days: int) -> tuple[datetime, datetime]:
    now = datetime.now(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if not 1 <= days <= MOST_DAYS:
        raise BadUseError(f"--days: {days} is no number of days from 1 to {MOST_DAYS:,}.")
    start = parse_moment("--since", since) if since else midnight - timedelta(days=days - 1)
    end = parse_moment("--until", until) if until else max(now, start) + timedelta(seconds=1)
    if end <= start:
        raise BadUseError("--until does not lie after --since.")
    return start, end


def parse_moment(flag: str, text: str, zone: tzinfo = UTC) -> datetime:
    """
    Read the moment that *flag* gives, in *zone* unless it says otherwise.

    Raises:
        BadUseError: It is no moment, or one that the calendar does not reach.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise BadUseError(f"{flag}: {text!r} is no date; write it like 2027-01-31 or 2027-01-31T12:00.") from exc
    moment = moment if moment.tzinfo else moment.replace(tzinfo=zone)
    try:
        is_near = moment.astimezone(UTC) <= LAST_DAY
    except OverflowError:  # in UTC it lies before the year 1, or behind 9999
        is_near = False
    if not is_near:
        raise BadUseError(f"{flag}: {text!r} is too far away.")
    return moment


def _lines(engine: Engine, by: str, since: datetime, until: datetime, key: str | None) -> Iterator[dict[str, Any]]:
    """
    Add up usage, from the rollups where they can tell it and from the rows where they cannot.
    """
    add_up = _from_rollups if _is_told_by_rollups(by, since, until, key) else _from_rows
    sums = add_up(engine, by, since, until, key)
    for group in sorted(sums, key=lambda group: (by != "day" and -sums[group]["cost_pico"], str(group))):
        yield {by: group, **sums[group]}


def _is_told_by_rollups(by: str, since: datetime, until: datetime, key: str | None) -> bool:
    """
    Whether days are whole (today's has no end yet), and nobody asks for the routes of a key.
    """
    is_open = until >= datetime.now(UTC)
    return _is_midnight(since) and (is_open or _is_midnight(until)) and not (by == "route" and key is not None)


def _is_midnight(moment: datetime) -> bool:
    moment = moment.astimezone(UTC)
    return moment == moment.replace(hour=0, minute=0, second=0, microsecond=0)


def _from_rollups(engine: Engine, by: str, since: datetime, until: datetime, key: str | None) -> _Sums:
    from tokenbudget_mw.database.analytics import usage_by

    sums: _Sums = {}
    for line in usage_by(engine, "key_id" if by == "key" else by, since=since, until=until, key_id=key):
        (group,) = line.group
        name = f"{group:%Y-%m-%d}" if by == "day" else group or None
        sums[name] = {figure: getattr(line.figures, figure) for figure in FIGURES}
    return sums


def _from_rows(engine: Engine, by: str, since: datetime, until: datetime, key: str | None) -> _Sums:
    """
    Add up the rows, a day at a time: each statement reads one range of an index, and no sum grows past 2^63.
    """
    sums: _Sums = {}
    first, last = _first_and_last(engine)
    # days stay those of the zone that was asked for
    start, until = max(since, first.astimezone(since.tzinfo)), min(until, last + timedelta(microseconds=1))
    while start < until:
        end = min(until, (start + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0))
        for group, figures in _day(engine, by, start, end, key):
            into = sums.setdefault(group, dict.fromkeys(FIGURES, 0))
            for name, value in zip(FIGURES, figures, strict=True):
                into[name] += value
        start = end
    return sums


def _first_and_last(engine: Engine) -> tuple[datetime, datetime]:
    """
    Return between which moments there is anything: days without rows need no question.
    """
    from sqlalchemy import func, select

    from tokenbudget_mw.database.engine import reader
    from tokenbudget_mw.database.tables import corrections, usage

    moments: list[datetime] = []
    with reader(engine).connect() as connection:
        for at in (usage.c.created_at, corrections.c.used_at):
            for end in (func.min, func.max):  # one a statement: each is the end of an index
                found = connection.scalar(select(end(at)))
                moments += [] if found is None else [found]
    return (min(moments), max(moments)) if moments else (LAST_DAY, LAST_DAY)


def _is_purged(engine: Engine, since: datetime, until: datetime) -> bool:
    """
    Whether retention has deleted rows of these days.
    """
    from sqlalchemy import select

    from tokenbudget_mw.database.engine import reader
    from tokenbudget_mw.database.rollups import floor_day
    from tokenbudget_mw.database.tables import purged_days

    days = purged_days.c.day >= floor_day(since.astimezone(UTC)), purged_days.c.day < until
    with reader(engine).connect() as connection:
        return connection.execute(select(purged_days.c.day).where(*days).limit(1)).first() is not None


def _day(
    engine: Engine, by: str, start: datetime, end: datetime, key: str | None
) -> Iterator[tuple[Any, tuple[int, ...]]]:
    from sqlalchemy import case, func, literal, select, union_all

    from tokenbudget_mw.database.engine import reader
    from tokenbudget_mw.database.tables import corrections, usage

    refused = case((usage.c.decision == "refused", 1), else_=0)
    rows = select(
        *_group(by, start, usage.c, func.coalesce(usage.c.response_model, usage.c.request_model)),
        literal(1).label("requests"),
        refused.label("refused"),
        *(usage.c[name] for name in FIGURES[2:]),
    ).where(usage.c.created_at >= start, usage.c.created_at < end)
    changes = select(
        *_group(by, start, corrections.c, func.nullif(corrections.c.model, "")),
        *(literal(0) for _ in FIGURES[1:]),
        corrections.c.change_pico,
    ).where(corrections.c.used_at >= start, corrections.c.used_at < end)
    if key is not None:
        rows, changes = rows.where(usage.c.key_id == key), changes.where(corrections.c.key_id == key)
    both = union_all(rows, changes).subquery()
    wanted = select(both.c.line, *(func.sum(both.c[name]) for name in FIGURES)).group_by(both.c.line)
    with reader(engine).connect() as connection:
        for group, *figures in connection.execute(wanted):
            yield group, tuple(int(figure) for figure in figures)


def _group(by: str, start: datetime, columns: Any, model: Any) -> tuple[Any]:
    from sqlalchemy import literal

    if by == "day":
        return (literal(start.strftime("%Y-%m-%d")).label("line"),)
    names = {"key": "key_id", "account": "account", "route": "route"}
    return ((model if by == "model" else columns[names[by]]).label("line"),)


def _table(by: str, lines: list[dict[str, Any]], total: dict[str, int]) -> list[str]:
    if not lines:
        return ["Nothing was used in this time."]
    heads = (by, "requests", "refused", "input tokens", "output tokens", "cost")
    rows = [(*tuple(line[name] for name in (by, *FIGURES[:-1])), format_usd(line["cost_pico"])) for line in lines]
    rows.append(("total", *(total[name] for name in FIGURES[:-1]), format_usd(total["cost_pico"])))
    return table(heads, rows)
