"""
The questions of a dashboard. Each is answered from a rollup or from one range of an index, however many rows there are.

Moments are aware; days and hours are those of UTC. Where a rollup answers, its grain holds: hours for everything that names
no subject, days for what does, and a time that is asked for is widened to whole ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Integer, bindparam, case, func, or_, select

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.answers import Cursor, Endpoint, Figures, Line, Month, Page
from tokenbudget_mw.database.differences import HALF, exact_sum, exact_sum_in, joined_pairs
from tokenbudget_mw.database.engine import reader
from tokenbudget_mw.database.latencies import percentile
from tokenbudget_mw.database.rollups import floor_day, floor_hour

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Engine, Select, Table

__all__ = [
    "GROUPS",
    "Cursor",
    "Endpoint",
    "Figures",
    "Line",
    "Month",
    "Page",
    "endpoints",
    "last_seconds",
    "log_page",
    "month_to_date",
    "top_keys",
    "totals",
    "usage_by",
]

GROUPS = ("day", "model", "route", "account", "key_id")
"""What `usage_by` can group by."""

_SUBJECT = frozenset({"account", "key_id"})
_DAY, _HOUR, _MICROSECOND = timedelta(days=1), timedelta(hours=1), timedelta(microseconds=1)


# -- from the rollups -------------------------------------------------------------------------------------------------


def usage_by(
    engine: Engine,
    *groups: str,
    since: datetime,
    until: datetime,
    account: str | None = None,
    key_id: str | None = None,
) -> list[Line]:
    """
    Add usage up, the most expensive line first.

    Args:
        engine: The host's database.

        groups: Names out of `GROUPS`; none for one line about everything.

        since: The first moment.

        until: The first moment that no longer counts.

        account: Only this account's usage.

        key_id: Only this key's usage.

    Raises:
        ValueError: No rollup knows routes of subjects, a group is unknown, or a moment is naive.
    """
    filters = {name: value for name, value in (("account", account), ("key_id", key_id)) if value is not None}
    of_subject = not _SUBJECT.isdisjoint({*groups, *filters})
    _check(groups, of_subject)
    sums: dict[tuple[Any, ...], Figures] = {}
    with reader(engine).connect() as connection:
        for table, start, end in _parts(since, until, of_subject):
            for group, figures in _grouped(connection, table, groups, (start, end), filters):
                known = sums.get(group)
                sums[group] = figures if known is None else known + figures
    return sorted((Line(group, figures) for group, figures in sums.items()), key=_by_cost)


def totals(
    engine: Engine, *, since: datetime, until: datetime, account: str | None = None, key_id: str | None = None
) -> Figures:
    """
    Add up everything between *since* and *until*, or an account's or a key's part of it.
    """
    lines = usage_by(engine, since=since, until=until, account=account, key_id=key_id)
    return lines[0].figures if lines else Figures()


def top_keys(
    engine: Engine, *, since: datetime, until: datetime, limit: int = 10, account: str | None = None
) -> list[Line]:
    """
    Return the *limit* keys that cost most, of all or of an account.
    """
    filters: _Filters = {} if account is None else {"account": account}
    found: list[Line] = []
    with reader(engine).connect() as connection:
        for table, start, end in _parts(since, until, of_subject=True):  # which is one
            # by their cost alone, then the figures of these few: of a thousand keys a day has ten thousands of rows
            dearest = _dearest(connection.dialect.name, table, _shape(filters))
            keys = [*connection.execute(dearest, {**_values((start, end), filters), "most": limit}).scalars()]
            of_them = {**filters, "key_id": keys}
            found += [Line(*line) for line in _grouped(connection, table, ("key_id",), (start, end), of_them)]
    return sorted(found, key=_by_cost)


def _by_cost(line: Line) -> tuple[Any, ...]:
    return -line.figures.cost_pico, -line.figures.requests, line.group


def endpoints(engine: Engine, *, since: datetime, until: datetime) -> list[Endpoint]:
    """
    Return the routes with their requests, error rate, percentiles of their durations and cost.
    """
    lines = usage_by(engine, "route", since=since, until=until)
    counts: dict[str, dict[int, int]] = {}
    with reader(engine).connect() as connection:
        for rollup, start, end in _parts(since, until, of_subject=False):
            table = tables.latency_hours if rollup is tables.rollup_hours else tables.latency_days
            begin = _start(table)
            group = table.c.route, table.c.up_to_us
            wanted = select(*group, func.sum(table.c.requests)).where(begin >= start, begin < end).group_by(*group)
            for route, bound, requests in connection.execute(wanted):
                known = counts.setdefault(route, {})
                known[bound] = known.get(bound, 0) + int(requests)
    return [_endpoint(line, counts.get(line.group[0], {})) for line in lines]


def _endpoint(line: Line, counts: Mapping[int, int]) -> Endpoint:
    return Endpoint(line.group, line.figures, *(percentile(counts, share) for share in (0.5, 0.95, 0.99)))


def month_to_date(engine: Engine, *, now: datetime, account: str | None = None, key_id: str | None = None) -> Month:
    """
    Return the month of *now* so far, in UTC, of everything, an account or a key, and what it comes to at this pace.
    """
    now = _in_utc(now)
    since = floor_day(now).replace(day=1)
    until = (since + timedelta(days=31)).replace(day=1)
    figures = totals(engine, since=since, until=now, account=account, key_id=key_id)
    passed = max(now - since, timedelta(microseconds=1))
    forecast = figures.cost_pico * ((until - since) // _MICROSECOND) // (passed // _MICROSECOND)
    return Month(since, until, figures, forecast)


def _check(groups: Iterable[str], of_subject: bool) -> None:
    unknown = [group for group in groups if group not in GROUPS]
    if unknown:
        raise ValueError(f"Unknown group {unknown[0]!r}. Known: {', '.join(GROUPS)}.")
    if of_subject and "route" in groups:
        raise ValueError("No rollup knows the routes of an account or a key; ask for one of them.")


def _parts(since: datetime, until: datetime, of_subject: bool) -> Iterator[tuple[Table, datetime, datetime]]:
    """
    Cut the time into whole days, and hours at its ends, each with the rollup that knows them.
    """
    since, until = _in_utc(since), _in_utc(until)
    if of_subject:
        yield tables.rollup_subjects, floor_day(since), _ceil(until, floor_day, _DAY)
        return
    start, end = floor_hour(since), _ceil(until, floor_hour, _HOUR)
    first, last = _ceil(start, floor_day, _DAY), floor_day(end)
    if first > last:
        yield tables.rollup_hours, start, end
        return
    for table, begin, stop in (
        (tables.rollup_hours, start, first),
        (tables.rollup_days, first, last),
        (tables.rollup_hours, last, end),
    ):
        if begin < stop:
            yield table, begin, stop


def _in_utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:  # Python would take it for one of the machine's zone
        raise ValueError(f"a moment needs a time zone, got the naive {moment!r}")
    return moment.astimezone(UTC)


def _ceil(moment: datetime, floor: Any, step: timedelta) -> datetime:
    down: datetime = floor(moment)
    return down if down == moment else down + step


_Filters = Mapping[str, str | list[str]]
"""Column -> the value that is wanted of it, or several."""


def _grouped(
    connection: Connection, table: Table, groups: tuple[str, ...], span: tuple[datetime, datetime], filters: _Filters
) -> Iterator[tuple[tuple[Any, ...], Figures]]:
    wanted, join = _grouping(connection.dialect.name, table, groups, _shape(filters))
    is_hour, count = "hour" in table.c, len(groups)
    for row in connection.execute(wanted, _values(span, filters)).all():
        group = tuple(row[:count])
        if is_hour and "day" in groups:
            group = tuple(floor_day(value) if isinstance(value, datetime) else value for value in group)
        figures = Figures(*join(row[count:]))
        if figures.requests:
            yield group, figures


# -- their statements: to build one takes longer than to fetch what it finds ------------------------------------------


_Join = Callable[[Sequence[Any]], Iterable[int]]
"""What makes whole numbers of the sums in a row."""

_Shape = tuple[tuple[str, bool], ...]
"""Columns of filters, and whether several values of it are wanted."""


def _shape(filters: _Filters) -> _Shape:
    return tuple((name, isinstance(value, list)) for name, value in filters.items())


def _values(span: tuple[datetime, datetime], filters: _Filters) -> dict[str, Any]:
    return {"since": span[0], "until": span[1], **{f"only_{name}": value for name, value in filters.items()}}


@cache
def _grouping(dialect: str, table: Table, groups: tuple[str, ...], shape: _Shape) -> tuple[Select[Any], _Join]:
    """
    Return what asks for the sums of the figures, and what makes whole numbers of them.
    """
    columns = [_start(table) if group == "day" else table.c[group] for group in groups]
    sums, join = _sums(dialect, [table.c[name] for name in tables.FIGURES])
    wanted = _where(select(*columns, *sums), table, shape)
    return wanted.group_by(*columns) if columns else wanted, join


def _sums(dialect: str, figures: Iterable[ColumnElement[Any]]) -> tuple[Sequence[ColumnElement[Any]], _Join]:
    if dialect == "sqlite":
        return [half for column in figures for half in exact_sum_in(dialect, column)], joined_pairs
    # in one text, which is the quickest way for sums of any size: a month by day and model has some thousand of them
    return [func.concat_ws(" ", *(func.coalesce(func.sum(column), 0) for column in figures))], _whole


def _whole(values: Sequence[Any]) -> Iterable[int]:
    return map(int, values[0].split())


@cache
def _dearest(dialect: str, table: Table, shape: _Shape) -> Select[Any]:
    """
    Return what asks for the keys that cost most, in this order.
    """
    upper, lower = exact_sum_in(dialect, table.c.cost_pico)
    # the halves of SQLite's sum, the lower one below 2^31; elsewhere the upper one is nothing
    order = (upper + lower // HALF, lower % HALF) if dialect == "sqlite" else (lower,)
    key = table.c.key_id
    wanted = _where(select(key).where(key != ""), table, shape)
    return wanted.group_by(key).order_by(*(part.desc() for part in order), key).limit(bindparam("most", type_=Integer))


def _where(wanted: Select[Any], table: Table, shape: _Shape) -> Select[Any]:
    start = _start(table)
    for name, has_several in shape:
        value: Any = bindparam(f"only_{name}", expanding=has_several)
        wanted = wanted.where(table.c[name].in_(value) if has_several else table.c[name] == value)
    return wanted.where(start >= bindparam("since"), start < bindparam("until"))


def _start(table: Table) -> ColumnElement[datetime]:
    return table.c.hour if "hour" in table.c else table.c.day


# -- from the rows ----------------------------------------------------------------------------------------------------


def last_seconds(
    engine: Engine, *, now: datetime, seconds: int = 60, account: str | None = None, key_id: str | None = None
) -> Figures:
    """
    Add up the last *seconds* before *now*: with 60, requests and tokens a minute.
    """
    usage = tables.usage.c
    refused = func.coalesce(func.sum(case((usage.decision == "refused", 1), else_=0)), 0)
    errors = func.coalesce(func.sum(case((usage.status >= 500, 1), else_=0)), 0)
    with reader(engine).connect() as connection:
        summed = [half for name in tables.FIGURES[3:] for half in exact_sum(connection, usage[name])]
        wanted = select(func.count(), refused, errors, *summed).where(
            usage.created_at > now - timedelta(seconds=seconds), usage.created_at <= now, *_owned(account, key_id)
        )
        requests, refusals, failed, *halves = tuple(connection.execute(wanted).one())
    return Figures(requests, int(refusals), int(failed), *joined_pairs(halves))


def log_page(
    engine: Engine,
    *,
    account: str | None = None,
    key_id: str | None = None,
    after: Cursor | None = None,
    limit: int = 50,
) -> Page:
    """
    Return *limit* rows of the log, the newest first, of all, an account or a key; any page costs what the first one does.

    Args:
        engine: The host's database.

        account: Only this account's rows.

        key_id: Only this key's rows.

        after: `Page.next` of the page before.

        limit: Most rows of a page.
    """
    usage = tables.usage.c
    wanted = select(tables.usage).where(*_owned(account, key_id))
    if after is not None:
        older = or_(usage.created_at < after.created_at, usage.id < after.id)
        wanted = wanted.where(usage.created_at <= after.created_at, older)
    wanted = wanted.order_by(usage.created_at.desc(), usage.id.desc()).limit(limit + 1)
    with reader(engine).connect() as connection:
        rows = connection.execute(wanted).mappings().all()
    page = tuple({str(name): value for name, value in row.items()} for row in rows[:limit])
    more = len(rows) > limit
    return Page(page, Cursor(page[-1]["created_at"], page[-1]["id"]) if more else None)


def _owned(account: str | None, key_id: str | None) -> Iterator[ColumnElement[bool]]:
    for name, value in (("account", account), ("key_id", key_id)):
        if value is not None:
            yield tables.usage.c[name] == value
