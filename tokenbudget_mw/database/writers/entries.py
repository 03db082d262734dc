"""
Ledger entries of a write, for databases that cannot sum what they have just inserted in one statement.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.rows import COLUMNS

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tokenbudget_mw.database.rows import Row
    from tokenbudget_mw.database.writers import Write

__all__ = ["debits", "new_entries", "stored_rows"]

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


def _spans(rows: Iterable[Row]) -> dict[str, tuple[int, int]]:
    spans: dict[str, tuple[int, int]] = {}
    for row in rows:
        low, high = spans.get(row[_INSTANCE], (row[_SEQUENCE], row[_SEQUENCE]))
        spans[row[_INSTANCE]] = min(low, row[_SEQUENCE]), max(high, row[_SEQUENCE])
    return spans


def new_entries(rows: Iterable[Row], write: Write) -> list[dict[str, Any]]:
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


def debits(entries: Iterable[dict[str, Any]]) -> dict[str, int]:
    """
    Return what each account of *entries* is debited, in pico-dollars, ordered by account.
    """
    totals: dict[str, int] = {}
    for entry in entries:
        totals[entry["account"]] = totals.get(entry["account"], 0) + entry["amount_pico"]
    return dict(sorted(totals.items()))
