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
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, insert, select, text, tuple_

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.rollups import floor_day, model_of
from tokenbudget_mw.database.upserts import add_to

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

__all__ = ["PurgeReport", "merge_ranges", "purge"]

FIRST, FEWEST, MOST = 500, 50, 5000
"""Rows of a batch: of the first one, and bounds of the others."""

_TARGET = 0.02
"""Seconds that a batch should take."""

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class PurgeReport:
    """
    What `purge` did.

    Attributes:
        rows: Rows it deleted.

        batches: In how many transactions.

        slowest_s: Seconds of the longest one.
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

        clock: Seconds; the size of the next batch follows from the time of the last one.

        told: Called after each batch with the rows deleted so far.
    """
    rows = batches = 0
    slowest, size = 0.0, FIRST
    while True:
        start = clock()
        with engine.begin() as connection:
            deleted = _purge_some(connection, before, size)
        took = clock() - start
        if not deleted:
            return PurgeReport(rows, batches, slowest)
        rows, batches, slowest = rows + deleted, batches + 1, max(slowest, took)
        size = _next_size(size, took)
        if told is not None:
            told(rows)


def _next_size(size: int, took: float) -> int:
    factor = min(2.0, max(0.25, _TARGET / max(took, 1e-6)))
    return min(MOST, max(FEWEST, int(size * factor)))


def _purge_some(connection: Connection, before: datetime, size: int) -> int:
    if connection.dialect.name == "postgresql":
        # waits for writes under way and holds up those that come, for this batch: see writers/postgresql.sql
        connection.execute(text("LOCK TABLE tokenbudget_purged_ranges IN EXCLUSIVE MODE"))
    rows = _oldest(connection, before, size)
    if rows:
        _keep_sums(connection, rows)
        _keep_ranges(connection, rows)
        connection.execute(delete(tables.usage).where(tables.usage.c.id.in_([row.id for row in rows])))
    return len(rows)


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
    values = [dict(zip(names, (*key, *sums[key]), strict=True)) for key in sorted(sums)]
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


def _keep_ranges(connection: Connection, rows: Iterable[Any]) -> None:
    sequences: dict[str, list[Range]] = {}
    for row in rows:
        sequences.setdefault(row.instance_id, []).append((row.sequence, row.sequence))
    gone: list[tuple[str, int]] = []
    new: list[dict[str, Any]] = []
    for instance, singles in sorted(sequences.items()):
        runs = merge_ranges(singles)
        known = _neighbours(connection, instance, runs)
        merged = merge_ranges([*known, *runs])
        gone += [(instance, found[0]) for found in known if found not in merged]
        new += [
            {"instance_id": instance, "first_sequence": first, "last_sequence": last}
            for first, last in merged
            if (first, last) not in known
        ]
    ranges = tables.purged_ranges.c
    if gone:
        key = tuple_(ranges.instance_id, ranges.first_sequence)
        connection.execute(delete(tables.purged_ranges).where(key.in_(gone)))
    if new:
        connection.execute(insert(tables.purged_ranges), new)


def _neighbours(connection: Connection, instance: str, runs: Sequence[Range]) -> list[Range]:
    ranges = tables.purged_ranges.c
    wanted = select(ranges.first_sequence, ranges.last_sequence).where(
        ranges.instance_id == instance,
        ranges.last_sequence >= runs[0][0] - 1,
        ranges.first_sequence <= runs[-1][1] + 1,
    )
    return [(first, last) for first, last in connection.execute(wanted)]
