"""
Ledger entries and rollups of a write, for databases that cannot sum what they have just inserted in one statement.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, insert, select

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.latencies import count_latencies
from tokenbudget_mw.database.rollups import ROLLUPS, sum_rows
from tokenbudget_mw.database.rows import COLUMNS
from tokenbudget_mw.database.upserts import Addition, add_to

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tokenbudget_mw.database.rows import Row
    from tokenbudget_mw.database.writers import Write

__all__ = ["Postings", "new_postings", "post", "stored_rows", "without_purged"]

_ID, _INSTANCE, _SEQUENCE, _ACCOUNT, _COST = (
    COLUMNS.index(name) for name in ("id", "instance_id", "sequence", "account", "cost_pico")
)


def stored_rows(connection: Connection, write: Write, rows: Sequence[Row]) -> list[Row]:
    """
    Return those of *rows* that *write* added itself, read back by one index range an instance.
    """
    usage = tables.usage.c
    stored: set[tuple[str, int, str]] = set()
    for instance, (low, high) in _spans(rows).items():
        ours = usage.instance_id == instance, usage.sequence.between(low, high), usage.write_id == write.id
        found = connection.execute(select(usage.instance_id, usage.sequence, usage.id).where(*ours))
        stored.update((row[0], row[1], row[2]) for row in found)
    # of two equal events in one batch the first was stored
    first: dict[tuple[str, int, str], Row] = {}
    for row in rows:
        first.setdefault((row[_INSTANCE], row[_SEQUENCE], row[_ID]), row)
    return [row for event, row in first.items() if event in stored]


def without_purged(connection: Connection, write: Write, rows: Sequence[Row]) -> Sequence[Row]:
    """
    Return *rows*, just inserted by *write*, without those that retention had deleted before; these are deleted again.

    Asked after the insert, which waits for a purge that is under way: then its ranges can be seen.
    """
    usage, purged = tables.usage.c, tables.purged_ranges.c
    gone: list[tuple[str, int, int]] = []
    for instance, (low, high) in _spans(rows).items():
        of_instance = purged.instance_id == instance, purged.last_sequence >= low, purged.first_sequence <= high
        wanted = select(purged.first_sequence, purged.last_sequence).where(*of_instance)
        gone += [(instance, first, last) for first, last in connection.execute(wanted)]
    for instance, first, last in gone:
        ours = usage.instance_id == instance, usage.sequence.between(first, last), usage.write_id == write.id
        connection.execute(delete(tables.usage).where(*ours))
    return [row for row in rows if not _is_within(row, gone)] if gone else rows


def _is_within(row: Row, ranges: list[tuple[str, int, int]]) -> bool:
    return any(row[_INSTANCE] == name and first <= row[_SEQUENCE] <= last for name, first, last in ranges)


def _spans(rows: Iterable[Row]) -> dict[str, tuple[int, int]]:
    spans: dict[str, tuple[int, int]] = {}
    for row in rows:
        low, high = spans.get(row[_INSTANCE], (row[_SEQUENCE], row[_SEQUENCE]))
        spans[row[_INSTANCE]] = min(low, row[_SEQUENCE]), max(high, row[_SEQUENCE])
    return spans


@dataclass(frozen=True, slots=True)
class Postings:
    """
    What rows bring to the other tables.

    Attributes:
        entries: Ledger entries, ordered by account.

        sums: For the rollups and the latencies, in the order in which every writer adds them.
    """

    entries: list[dict[str, Any]]
    sums: list[Addition]


def new_postings(rows: Sequence[Row], write: Write) -> Postings:
    """
    Return what *rows* bring to the other tables, should they be the rows that *write* adds.
    """
    grains = sum_rows(rows)
    sums = [rollup.addition(rollup.add_up(grains)) for rollup in ROLLUPS]
    return Postings(_new_entries(rows, write), sums + count_latencies(rows))


def post(connection: Connection, postings: Postings, take: Callable[[Connection, dict[str, int]], object]) -> None:
    """
    Store *postings*; *take* lowers the balances of accounts by pico-dollars.
    """
    if postings.entries:
        connection.execute(insert(tables.ledger), postings.entries)
        take(connection, _debits(postings.entries))
    for addition in postings.sums:
        add_to(connection, addition)


def _new_entries(rows: Iterable[Row], write: Write) -> list[dict[str, Any]]:
    """
    Return one ledger entry for each account and instance of *rows* that costs something, ordered by account.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row[_ACCOUNT] is not None and row[_COST] > 0:
            groups.setdefault((row[_ACCOUNT], row[_INSTANCE]), []).append(row)
    return [_entry(account, instance, groups[account, instance], write) for account, instance in sorted(groups)]


def _entry(account: str, instance: str, rows: list[Row], write: Write) -> dict[str, Any]:
    sequences = [row[_SEQUENCE] for row in rows]
    source = f"usage:{instance}:{min(sequences)}:{account}"
    return {
        # the source is unique, so is its digest; the same on every database
        "id": hashlib.md5(source.encode(), usedforsecurity=False).hexdigest(),
        "account": account,
        "contra": tables.REVENUE,
        "amount_pico": sum(row[_COST] for row in rows),
        "kind": "usage",
        "source_id": source,
        "write_id": write.id,
        "instance_id": instance,
        "first_sequence": min(sequences),
        "last_sequence": max(sequences),
        "entries": len(rows),
        "created_at": write.at,
        "note": None,
    }


def _debits(entries: Iterable[dict[str, Any]]) -> dict[str, int]:
    """
    Return what each account of *entries* is debited, in pico-dollars, ordered by account.
    """
    totals: dict[str, int] = {}
    for entry in entries:
        totals[entry["account"]] = totals.get(entry["account"], 0) + entry["amount_pico"]
    return dict(sorted(totals.items()))
