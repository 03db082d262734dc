"""
Ranges of sequences: which events retention has deleted, so that none of them is written again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, bindparam, delete, insert, or_, select, update

from tokenbudget_mw.database import tables

if TYPE_CHECKING:
    from sqlalchemy import Connection

__all__ = ["Range", "Runs", "forget_ranges", "keep_ranges", "merge_ranges", "without_ranges"]

Range = tuple[int, int]
Runs = dict[str, list[Range]]
"""Instance -> ranges of its sequences."""

_MOST_CONDITIONS = 100


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


def keep_ranges(connection: Connection, runs: Runs) -> None:
    """
    Add *runs* to the ranges that are kept.
    """
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


def without_ranges(ranges: Iterable[Range], gone: Iterable[Range]) -> list[Range]:
    """
    Return what is left of *ranges* without the numbers in *gone*.

    >>> without_ranges([(1, 9)], [(3, 4), (9, 12)])
    [(1, 2), (5, 8)]
    """
    left = merge_ranges(ranges)
    for first, last in gone:
        left = [
            piece
            for low, high in left
            for piece in ((low, min(high, first - 1)), (max(low, last + 1), high))
            if piece[0] <= piece[1]
        ]
    return merge_ranges(left)


def forget_ranges(connection: Connection, runs: Runs) -> None:
    """
    Take *runs* out of the ranges that are kept.
    """
    merged = {instance: merge_ranges(some) for instance, some in runs.items()}
    for instance, known in sorted(_touched(connection, merged).items()):
        left = without_ranges(known, merged[instance])
        connection.execute(_FORGET, [{"name": instance, "first": first} for first, _ in known])
        if left:
            new = [{"instance_id": instance, "first_sequence": first, "last_sequence": last} for first, last in left]
            connection.execute(insert(tables.purged_ranges), new)


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
