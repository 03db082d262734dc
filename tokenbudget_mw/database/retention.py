"""
Deletes old usage rows, a few at a time. What they added up to is kept, and so is which events they were.

The rollups, the ledger and the balances stay. The sums of deleted rows let `books.verify` close the books of their days, and
the ranges of their sequences keep a spool that turns up late from writing, and charging, the same events again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, bindparam, delete, insert, or_, select, text, update

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.rollups import floor_day, model_of
from tokenbudget_mw.database.types import Moment
from tokenbudget_mw.database.upserts import add_to

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, TextClause

__all__ = ["PurgeReport", "merge_ranges", "purge"]

FIRST, FEWEST, MOST = 1000, 100, 5000
"""Rows of a batch: of the first one, and bounds of the others."""

_TARGET = 0.025
"""Seconds that the deletion of a batch should take."""

Range = tuple[int, int]
Runs = dict[str, list[Range]]

_MOST_CONDITIONS = 100


@dataclass(frozen=True, slots=True)
class PurgeReport:
    """
    What `purge` did.

    Attributes:
        rows: Rows it deleted.

        batches: In how many transactions.

        slowest_s: Seconds that the deletion of a batch took at most.
    """

    rows: int
    batches: int
    slowest_s: float


def purge(
    engine: Engine,
    *,
    before: datetime,
    clock: Callable[[], float] = time.perf_counter,
    told: Callable[[int], object] | None = None,
) -> PurgeReport:
    """
    Delete the usage rows from before *before*, the oldest first, in transactions of some milliseconds each.

    It may be stopped at any moment, and run beside writers and beside another purge.

    Args:
        engine: The host's database.

        before: Rows of this moment and later stay.

        clock: Seconds; the size of the next batch follows from the time that the last one took.

        told: Called after each batch with the rows deleted so far.
    """
    rows = batches = 0
    slowest, size = 0.0, FIRST
    while True:
        with engine.begin() as connection:
            deleted, took = _purge_some(connection, before, size, clock)
        if not deleted:
            return PurgeReport(rows, batches, slowest)
        rows, batches, slowest = rows + deleted, batches + 1, max(slowest, took)
        size = _next_size(size, took)
        if told is not None:
            told(rows)


def _next_size(size: int, took: float) -> int:
    factor = min(2.0, max(0.25, _TARGET / max(took, 1e-6)))
    return min(MOST, max(FEWEST, int(size * factor)))


def _purge_some(connection: Connection, before: datetime, size: int, clock: Callable[[], float]) -> tuple[int, float]:
    if connection.dialect.name == "postgresql":
        # waits for writes under way and holds up those that come, for this batch: see writers/postgresql.sql
        connection.execute(text("LOCK TABLE tokenbudget_purged_ranges IN EXCLUSIVE MODE"))
    delete_some = _delete_in_one if connection.dialect.name == "postgresql" else _delete_in_steps
    start = clock()
    runs, deleted = delete_some(connection, before, size)
    took = clock() - start
    if runs:
        _keep_ranges(connection, runs)
    return deleted, took


def _delete_in_one(connection: Connection, before: datetime, size: int) -> tuple[Runs, int]:
    runs: Runs = {}
    deleted = 0
    for instance, first, last, entries in connection.execute(_statement(), {"before": before, "size": size}):
        runs.setdefault(instance, []).append((first, last))
        deleted += entries
    return runs, deleted


@cache
def _statement() -> TextClause:
    sql = files("tokenbudget_mw.database").joinpath("purge.sql").read_text("utf-8")
    lists = {
        "names": ", ".join(tables.PURGED),
        "sums": ", ".join("COUNT(*)" if name == "requests" else f"SUM({name})" for name in tables.PURGED),
        "added": ", ".join(f"{name} = purged.{name} + excluded.{name}" for name in tables.PURGED),
    }
    for name, value in lists.items():
        sql = sql.replace(f"{{{name}}}", value)
    return text(sql).bindparams(bindparam("before", type_=Moment))


def _delete_in_steps(connection: Connection, before: datetime, size: int) -> tuple[Runs, int]:
    rows = _oldest(connection, before, size)
    runs: Runs = {}
    if rows:
        _keep_sums(connection, rows)
        connection.execute(delete(tables.usage).where(tables.usage.c.id.in_([row.id for row in rows])))
    for row in rows:
        runs.setdefault(row.instance_id, []).append((row.sequence, row.sequence))
    return runs, len(rows)


def _oldest(connection: Connection, before: datetime, size: int) -> Sequence[Any]:
    usage = tables.usage.c
    figures = [usage[name] for name in tables.PURGED if name != "requests"]
    wanted = (
        select(usage.id, usage.instance_id, usage.sequence, usage.created_at, usage.account, model_of(usage), *figures)
        .where(usage.created_at < before)
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
    add_to(connection, tables.purged_days, keys, tables.PURGED, values)


# -- ranges of sequences ----------------------------------------------------------------------------------------------


def merge_ranges(ranges: Iterable[Range]) -> list[Range]:
    """
    Return *ranges* in order, those that touch or overlap as one.

    >>> merge_ranges([(5, 5), (1, 3), (4, 4), (8, 9)])
    [(1, 5), (8, 9)]
    """
    merged: list[Range] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return merged


def _keep_ranges(connection: Connection, runs: Runs) -> None:
    touched = _touched(connection, {instance: merge_ranges(some) for instance, some in runs.items()})
    gone: list[dict[str, Any]] = []
    longer: list[dict[str, Any]] = []
    new: list[dict[str, Any]] = []
    for instance, some in sorted(runs.items()):
        known = dict(touched.get(instance, ()))
        merged = dict(merge_ranges([*known.items(), *some]))
        gone += [{"name": instance, "first": first} for first in known if first not in merged]
        for first, last in merged.items():
            if first not in known:
                new.append({"instance_id": instance, "first_sequence": first, "last_sequence": last})
            elif known[first] != last:
                longer.append({"name": instance, "first": first, "last": last})
    for statement, values in ((_FORGET, gone), (_LENGTHEN, longer), (insert(tables.purged_ranges), new)):
        if values:
            connection.execute(statement, values)


_RANGE = (
    tables.purged_ranges.c.instance_id == bindparam("name"),
    tables.purged_ranges.c.first_sequence == bindparam("first"),
)
_FORGET = delete(tables.purged_ranges).where(*_RANGE)
_LENGTHEN = update(tables.purged_ranges).where(*_RANGE).values(last_sequence=bindparam("last"))


def _touched(connection: Connection, runs: Runs) -> Runs:
    """
    Return the ranges kept already that *runs* may extend.
    """
    ranges = tables.purged_ranges.c
    near = [
        and_(
            ranges.instance_id == instance,
            ranges.last_sequence >= some[0][0] - 1,
            ranges.first_sequence <= some[-1][1] + 1,
        )
        for instance, some in runs.items()
    ]
    found: Runs = {}
    for at in range(0, len(near), _MOST_CONDITIONS):
        wanted = select(ranges.instance_id, ranges.first_sequence, ranges.last_sequence)
        for instance, first, last in connection.execute(wanted.where(or_(*near[at : at + _MOST_CONDITIONS]))):
            found.setdefault(instance, []).append((first, last))
    return found
