"""
The questions of a dashboard. Each is answered from a rollup or from one range of an index, however many rows there are.

Moments are aware; days and hours are those of UTC. Where a rollup answers, its grain holds: hours for everything that names
no subject, days for what does, and a time that is asked for is widened to whole ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import case, func, or_, select

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.differences import exact_sum, joined_pairs
from tokenbudget_mw.database.engine import reader
from tokenbudget_mw.database.rollups import floor_day, floor_hour

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Engine, Table

__all__ = [
    "GROUPS",
    "Cursor",
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


@dataclass(frozen=True, slots=True)
class Figures:
    """
    Usage added up.

    Attributes:
        requests: All of them.

        refused: Those that a limit refused.

        errors: Those answered with a status of 500 and above.

        input_tokens: Input tokens, cached ones included.

        output_tokens: Output tokens, reasoning included.

        cache_read_tokens: Part of *input_tokens*.

        cache_write_tokens: Part of *input_tokens*.

        cache_write_1h_tokens: Part of *cache_write_tokens*.

        reasoning_tokens: Part of *output_tokens*.

        duration_us: Time that the requests took together, in microseconds.

        cost_pico: Cost in pico-dollars.
    """

    requests: int = 0
    refused: int = 0
    errors: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    duration_us: int = 0
    cost_pico: int = 0

    def __add__(self, other: Figures) -> Figures:
        return Figures(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    @property
    def tokens(self) -> int:
        """
        Input and output tokens together.
        """
        return self.input_tokens + self.output_tokens

    @property
    def error_rate(self) -> float:
        """
        Share of the requests that ended in an error, from 0 to 1.
        """
        return self.errors / self.requests if self.requests else 0.0

    @property
    def mean_duration_us(self) -> int:
        """
        Microseconds that a request took in the mean.
        """
        return self.duration_us // self.requests if self.requests else 0


@dataclass(frozen=True, slots=True)
class Line:
    """
    One line of an answer.

    Attributes:
        group: What it is about, in the order that was asked for; a day is a moment, what rows do not have is empty.

        figures: What was used.
    """

    group: tuple[Any, ...]
    figures: Figures


@dataclass(frozen=True, slots=True)
class Cursor:
    """
    Where a page of the log ended: at this row.

    Attributes:
        created_at: Its moment.

        id: Its id.
    """

    created_at: datetime
    id: str


@dataclass(frozen=True, slots=True)
class Page:
    """
    A page of the log, the newest row first.

    Attributes:
        rows: Column -> value of each.

        next: Where the next page begins; None on the last one.
    """

    rows: tuple[Mapping[str, Any], ...]
    next: Cursor | None


@dataclass(frozen=True, slots=True)
class Month:
    """
    A subject's month so far.

    Attributes:
        since: Its first moment.

        until: The first moment after it.

        figures: What was used.

        forecast_pico: What the whole month costs, if it goes on as it did, in pico-dollars.
    """

    since: datetime
    until: datetime
    figures: Figures
    forecast_pico: int


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
        ValueError: No rollup knows routes of subjects, or a group is unknown.
    """
    filters = {name: value for name, value in (("account", account), ("key_id", key_id)) if value is not None}
    of_subject = not _SUBJECT.isdisjoint({*groups, *filters})
    _check(groups, of_subject)
    sums: dict[tuple[Any, ...], Figures] = {}
    with reader(engine).connect() as connection:
        for table, start, end in _parts(since, until, of_subject):
            for group, figures in _grouped(connection, table, groups, (start, end), filters):
                sums[group] = sums.get(group, Figures()) + figures
    found = sorted(sums.items(), key=lambda item: (-item[1].cost_pico, -item[1].requests, item[0]))
    return [Line(group, figures) for group, figures in found]


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
    lines = usage_by(engine, "key_id", since=since, until=until, account=account)
    return [line for line in lines if line.group != ("",)][:limit]


def endpoints(engine: Engine, *, since: datetime, until: datetime) -> list[Line]:
    """
    Return the routes with their requests, error rate, mean duration and cost.
    """
    return usage_by(engine, "route", since=since, until=until)


def month_to_date(engine: Engine, *, now: datetime, account: str | None = None, key_id: str | None = None) -> Month:
    """
    Return the month of *now* so far, in UTC, of everything, an account or a key, and what it comes to at this pace.
    """
    now = now.astimezone(UTC)
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
    since, until = since.astimezone(UTC), until.astimezone(UTC)
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


def _ceil(moment: datetime, floor: Any, step: timedelta) -> datetime:
    down: datetime = floor(moment)
    return down if down == moment else down + step


def _grouped(
    connection: Connection,
    table: Table,
    groups: tuple[str, ...],
    span: tuple[datetime, datetime],
    filters: dict[str, str],
) -> Iterator[tuple[tuple[Any, ...], Figures]]:
    start = table.c.hour if "hour" in table.c else table.c.day
    columns = [start if group == "day" else table.c[group] for group in groups]
    wanted = _where(select(*columns, *_sums(connection, table)), table, start, span, filters)
    for row in connection.execute(wanted.group_by(*columns) if columns else wanted):
        group = tuple(floor_day(value) if isinstance(value, datetime) else value for value in row[: len(groups)])
        figures = Figures(*joined_pairs(row[len(groups) :]))
        if figures.requests:
            yield group, figures


def _sums(connection: Connection, table: Table) -> list[ColumnElement[Any]]:
    return [half for name in tables.FIGURES for half in exact_sum(connection, table.c[name])]


def _where(
    wanted: Any, table: Table, start: ColumnElement[datetime], span: tuple[datetime, datetime], filters: dict[str, str]
) -> Any:
    return wanted.where(start >= span[0], start < span[1], *(table.c[name] == filters[name] for name in filters))


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
