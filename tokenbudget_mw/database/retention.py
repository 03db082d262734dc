"""
Deletes old usage rows, a few at a time. What they added up to is kept, and so is which events they were.

The rollups, the ledger and the balances stay. The sums of deleted rows let `books.verify` close the books of their days, and
the ranges of their sequences keep a spool that turns up late from writing, and charging, the same events again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, delete, select, text

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.deadlocks import in_transaction
from tokenbudget_mw.database.partitions.catalog import is_partitioned
from tokenbudget_mw.database.partitions.retiring import by_rows_only, drop_old
from tokenbudget_mw.database.ranges import Runs, keep_ranges
from tokenbudget_mw.database.rollups import floor_day, model_of
from tokenbudget_mw.database.types import Moment
from tokenbudget_mw.database.upserts import Addition, add_to

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, TextClause

__all__ = ["PurgeReport", "purge"]

FIRST, FEWEST, MOST = 1000, 100, 5000
"""Rows of a batch: of the first one, and bounds of the others."""

_EVER = datetime(1, 1, 2, tzinfo=UTC)
"""Before all moments, whatever zone a driver puts it into."""

_TARGET = 0.025
"""Seconds that the deletion of a batch should take."""


@dataclass(frozen=True, slots=True)
class PurgeReport:
    """
    What `purge` did.

    Attributes:
        rows: Rows it deleted.

        batches: In how many transactions.

        slowest_s: Seconds that the deletion of a batch took at most.

        partitions: Partitions it dropped whole, their rows among *rows*.
    """

    rows: int
    batches: int
    slowest_s: float
    partitions: int = 0


def purge(
    engine: Engine,
    *,
    before: datetime,
    by_rows: bool = False,
    clock: Callable[[], float] = time.perf_counter,
    told: Callable[[int], object] | None = None,
) -> PurgeReport:
    """
    Delete the usage rows from before *before*, the oldest first, in transactions of some milliseconds each.

    It may be stopped at any moment, and run beside writers and beside another purge. Of a table that is made of partitions,
    those go whole that are older, and the rows of one that is older in part stay.

    Args:
        engine: The host's database.

        before: Rows of this moment and later stay.

        by_rows: Whether to delete rows out of partitions, too.

        clock: Seconds; the size of the next batch follows from the time that the last one took.

        told: Called after each batch with the rows deleted so far.
    """
    with engine.connect() as connection:
        has_partitions = is_partitioned(connection)
    if not has_partitions or by_rows:
        return _purge_rows(engine, "tokenbudget_usage", before, PurgeReport(0, 0, 0.0), clock=clock, told=told)
    dropped, rows = drop_old(engine, before)
    report = PurgeReport(rows, 0, 0.0, dropped)
    if told is not None and rows:
        told(rows)
    for name in by_rows_only(engine):
        report = _purge_rows(engine, name, before, report, clock=clock, told=told)
    return report


def _purge_rows(
    engine: Engine,
    name: str,
    before: datetime,
    done: PurgeReport,
    *,
    clock: Callable[[], float],
    told: Callable[[int], object] | None,
) -> PurgeReport:
    """
    Delete the old rows of the table *name*, and add it to what was *done*.
    """
    rows, batches, slowest, size = done.rows, done.batches, done.slowest_s, FIRST
    place = _EVER
    while True:
        step = partial(_purge_some, span=(place, before), size=size, clock=clock, name=name)
        deleted, place_after, took = in_transaction(engine, step)
        if not deleted and place == _EVER:
            return PurgeReport(rows, batches, slowest, done.partitions)
        if not deleted:  # and once more from the start: older rows may have come meanwhile
            place = _EVER
            continue
        # the index is full of what has just been deleted, so the next batch begins where this one has ended
        place = place_after
        rows, batches, slowest = rows + deleted, batches + 1, max(slowest, took)
        size = _next_size(size, took)
        if told is not None:
            told(rows)


def _next_size(size: int, took: float) -> int:
    factor = min(2.0, max(0.25, _TARGET / max(took, 1e-6)))
    return min(MOST, max(FEWEST, int(size * factor)))


def _purge_some(
    connection: Connection,
    span: tuple[datetime, datetime],
    size: int,
    clock: Callable[[], float],
    name: str = tables.usage.name,
) -> tuple[int, datetime, float]:
    """
    Delete at most *size* rows of *span*; return how many, the moment of the newest one, and the seconds it took.
    """
    if connection.dialect.name == "postgresql":
        # a batch that a crash of the server undoes is there whole, and purged again: nobody needs to wait for its disk
        connection.execute(text("SET LOCAL synchronous_commit = off"))
        # waits for writes under way and holds up those that come, for this batch: see writers/postgresql.sql
        connection.execute(text("LOCK TABLE tokenbudget_purged_ranges IN EXCLUSIVE MODE"))
    start = clock()
    if connection.dialect.name == "postgresql":
        runs, deleted, newest = _delete_in_one(connection, span, size, name)
    else:
        runs, deleted, newest = _delete_in_steps(connection, span, size)
    took = clock() - start
    if runs:
        keep_ranges(connection, runs)
    return deleted, newest, took


def _delete_in_one(
    connection: Connection, span: tuple[datetime, datetime], size: int, name: str
) -> tuple[Runs, int, datetime]:
    runs: Runs = {}
    deleted, newest = 0, span[0]
    given = {"since": span[0], "before": span[1], "size": size}
    for instance, first, last, entries, at in connection.execute(_statement(name), given):
        runs.setdefault(instance, []).append((first, last))
        deleted, newest = deleted + entries, max(newest, at)
    return runs, deleted, newest


@cache
def _statement(table: str) -> TextClause:
    sql = files("tokenbudget_mw.database").joinpath("purge.sql").read_text("utf-8")
    lists = {
        "table": table,
        "summed": ", ".join(name for name in tables.PURGED if name != "requests"),
        "names": ", ".join(tables.PURGED),
        "sums": ", ".join("COUNT(*)" if name == "requests" else f"SUM({name})" for name in tables.PURGED),
        "added": ", ".join(f"{name} = purged.{name} + excluded.{name}" for name in tables.PURGED),
    }
    for name, value in lists.items():
        sql = sql.replace(f"{{{name}}}", value)
    return text(sql).bindparams(bindparam("since", type_=Moment), bindparam("before", type_=Moment))


def _delete_in_steps(connection: Connection, span: tuple[datetime, datetime], size: int) -> tuple[Runs, int, datetime]:
    rows = _oldest(connection, span, size)
    runs: Runs = {}
    if rows:
        _keep_sums(connection, rows)
        connection.execute(delete(tables.usage).where(tables.usage.c.id.in_([row.id for row in rows])))
    for row in rows:
        runs.setdefault(row.instance_id, []).append((row.sequence, row.sequence))
    return runs, len(rows), rows[-1].created_at if rows else span[0]


def _oldest(connection: Connection, span: tuple[datetime, datetime], size: int) -> Sequence[Any]:
    usage = tables.usage.c
    figures = [usage[name] for name in tables.PURGED if name != "requests"]
    wanted = (
        select(usage.id, usage.instance_id, usage.sequence, usage.created_at, usage.account, model_of(usage), *figures)
        .where(usage.created_at >= span[0], usage.created_at < span[1])
        .order_by(usage.created_at, usage.id)
        .limit(size)
    )
    return connection.execute(wanted.with_for_update()).all()


def _keep_sums(connection: Connection, rows: Iterable[Any]) -> None:
    sums: dict[tuple[str, datetime, str], list[int]] = {}
    for _id, _instance, _sequence, created_at, account, model, *figures in rows:
        key = account or "", floor_day(created_at), model
        known = sums.get(key)
        new = [1, *figures]
        sums[key] = new if known is None else [a + b for a, b in zip(known, new, strict=True)]
    keys = ("account", "day", "model")
    names = keys + tables.PURGED
    values: list[dict[str, Any]] = [dict(zip(names, (*key, *sums[key]), strict=True)) for key in sorted(sums)]
    add_to(connection, Addition(tables.purged_days, keys, tables.PURGED, values))
