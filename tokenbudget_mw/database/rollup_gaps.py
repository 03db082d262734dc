"""
Where the rollups differ: the subjects' from the rows, the hours' from the subjects', the days' from the hours'.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import case, func, literal, select, union_all

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.differences import Difference, exact_sum, joined_pairs, stream
from tokenbudget_mw.database.rollups import day_of, model_of

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, CompoundSelect, Connection, Select

    _Part = Select[Any] | CompoundSelect[Any]

__all__ = ["RollupGap", "rollup_differences", "rollup_gaps"]


class RollupGap(NamedTuple):
    """
    One figure of a rollup's place: *keys* are its day, then account, key, model or route.

    Of subjects on days up to the last one of which retention has deleted rows, no key is among them: what it has kept
    names none.
    """

    rollup: str
    keys: tuple[Any, ...]
    figure: str
    expected: int
    found: int


def rollup_differences(connection: Connection) -> Iterator[Difference]:
    """
    Yield where a rollup differs, for people.
    """
    for gap in rollup_gaps(connection):
        day, *others = gap.keys
        place = f"{gap.rollup} of {day:%Y-%m-%d}, {', '.join(other or 'none' for other in others)}"
        yield Difference("rollup", "", None, gap.expected, gap.found, place, gap.figure, f"{day:%Y-%m-%d}")


def rollup_gaps(connection: Connection) -> Iterator[RollupGap]:
    """
    Yield the same, with all that a repair needs.
    """
    subjects, hours, days = tables.rollup_subjects.c, tables.rollup_hours.c, tables.rollup_days.c
    hours_day = day_of(hours.hour, connection.dialect.name)
    last = connection.scalar(select(func.max(tables.purged_days.c.day)))
    whole = None if last is None else last + timedelta(days=1)
    if whole is not None:
        yield from _compared(
            connection,
            "rollup_subjects",
            tables.PURGED,
            _rows_until(connection, whole),
            _of_rollup(subjects, tables.PURGED, subjects.day, subjects.account, subjects.model).where(
                subjects.day < whole
            ),
        )
    yield from _compared(
        connection,
        "rollup_subjects",
        tables.FIGURES,
        _rows_from(connection, whole),
        _of_rollup(subjects, tables.FIGURES, subjects.day, subjects.account, subjects.key_id, subjects.model).where(
            *_since(subjects.day, whole)
        ),
    )
    yield from _compared(
        connection,
        "rollup_hours",
        tables.FIGURES,
        _of_rollup(subjects, tables.FIGURES, subjects.day, subjects.model),
        _of_rollup(hours, tables.FIGURES, hours_day, hours.model),
    )
    yield from _compared(
        connection,
        "rollup_days",
        tables.FIGURES,
        _of_rollup(hours, tables.FIGURES, hours_day, hours.model, hours.route),
        _of_rollup(days, tables.FIGURES, days.day, days.model, days.route),
    )


def _since(column: ColumnElement[datetime], moment: datetime | None) -> list[ColumnElement[bool]]:
    return [] if moment is None else [column >= moment]


def _rows_from(connection: Connection, whole: datetime | None) -> CompoundSelect[Any]:
    """
    Select the rows from *whole* on, and what their costs were corrected by.
    """
    usage, corrections = tables.usage.c, tables.corrections.c
    dialect = connection.dialect.name
    counted = {
        "requests": literal(1),
        "refused": case((usage.decision == "refused", 1), else_=0),
        "errors": case((usage.status >= 500, 1), else_=0),
    }
    keys = (
        day_of(usage.created_at, dialect),
        func.coalesce(usage.account, ""),
        func.coalesce(usage.key_id, ""),
        model_of(usage),
    )
    rows = _keyed(keys, {name: counted[name] if name in counted else usage[name] for name in tables.FIGURES})
    keys = (
        day_of(corrections.used_at, dialect),
        func.coalesce(corrections.account, ""),
        func.coalesce(corrections.key_id, ""),
        corrections.model,
    )
    changes = _keyed(keys, dict.fromkeys(tables.FIGURES, literal(0)) | {"cost_pico": corrections.change_pico})
    return union_all(rows.where(*_since(usage.created_at, whole)), changes.where(*_since(corrections.used_at, whole)))


def _rows_until(connection: Connection, whole: datetime) -> CompoundSelect[Any]:
    """
    Select the rows of before *whole*, what their costs were corrected by, and what purged rows added up to.
    """
    usage, corrections, purged = tables.usage.c, tables.corrections.c, tables.purged_days.c
    dialect = connection.dialect.name
    keys = day_of(usage.created_at, dialect), func.coalesce(usage.account, ""), model_of(usage)
    rows = _keyed(keys, {name: usage[name] if name in usage else literal(1) for name in tables.PURGED})
    keys = day_of(corrections.used_at, dialect), func.coalesce(corrections.account, ""), corrections.model
    changes = _keyed(keys, dict.fromkeys(tables.PURGED, literal(0)) | {"cost_pico": corrections.change_pico})
    return union_all(
        rows.where(usage.created_at < whole),
        changes.where(corrections.used_at < whole),
        _of_rollup(purged, tables.PURGED, purged.day, purged.account, purged.model),
    )


def _of_rollup(columns: Any, figures: Sequence[str], *keys: ColumnElement[Any]) -> Select[Any]:
    return _keyed(keys, {name: columns[name] for name in figures})


def _keyed(keys: Iterable[ColumnElement[Any]], figures: Mapping[str, ColumnElement[Any]]) -> Select[Any]:
    named = [key.label(f"key_{at}") for at, key in enumerate(keys)]
    return select(*named, *(column.label(name) for name, column in figures.items()))


def _compared(
    connection: Connection, rollup: str, names: Sequence[str], expected: _Part, found: _Part
) -> Iterator[RollupGap]:
    """
    Yield every figure of *names* that is not the same in *expected* and *found*: a full join, by one grouping of both.
    """
    keys = [column.name for column in expected.selected_columns if column.name.startswith("key_")]
    both = union_all(_sided(expected, keys, names, 0), _sided(found, keys, names, 1)).subquery("both")
    figures = [both.c[f"{name}_{side}"] for name in names for side in (0, 1)]
    groups = [both.c[key] for key in keys]
    wanted = select(*groups, *(part for figure in figures for part in exact_sum(connection, figure))).group_by(*groups)
    for row in stream(connection, wanted):
        place, sums = row[: len(keys)], joined_pairs(row[len(keys) :])
        for name, left, right in zip(names, sums[::2], sums[1::2], strict=True):
            if left != right:
                yield RollupGap(rollup, tuple(place), name, left, right)


def _sided(part: _Part, keys: list[str], names: Sequence[str], side: int) -> Select[Any]:
    inner = part.subquery()
    columns = [
        (inner.c[name] if which == side else literal(0)).label(f"{name}_{which}") for name in names for which in (0, 1)
    ]
    return select(*(inner.c[key] for key in keys), *columns)
