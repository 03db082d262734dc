"""
What each rollup groups by, and how usage rows are added up for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import String, cast, func, literal_column, type_coerce
from sqlalchemy.dialects import mysql

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.rows import COLUMNS
from tokenbudget_mw.database.turns import SUMMED, in_turns
from tokenbudget_mw.database.types import Moment
from tokenbudget_mw.database.upserts import Addition

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Table

    from tokenbudget_mw.database.rows import Row

__all__ = [
    "ROLLUPS",
    "Grain",
    "Grains",
    "Rollup",
    "Sums",
    "add_figures",
    "day_of",
    "floor_day",
    "floor_hour",
    "model_of",
    "sum_rows",
]

Sums = dict[tuple[Any, ...], list[int]]
"""Keys of a rollup's row -> its figures, in the order of `tables.FIGURES`."""


def floor_day(moment: datetime) -> datetime:
    """
    Return the midnight before *moment*, in its zone.
    """
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def floor_hour(moment: datetime) -> datetime:
    """
    Return the full hour before *moment*.
    """
    return moment.replace(minute=0, second=0, microsecond=0)


class Grain(NamedTuple):
    """
    All that rollups tell apart: usage rows of one grain fall into the same row of each. What a row does not have is empty.
    """

    account: str
    key_id: str
    model: str
    route: str
    hour: datetime


Grains = dict[Grain, list[int]]
"""Figures of each grain, in the order of `tables.FIGURES`."""


@dataclass(frozen=True, slots=True)
class Rollup:
    """
    One way to add usage up.

    Attributes:
        table: Where the sums are kept.

        keys: Columns that a row of it is unique by, in the order of their index.

        start: Which of them is the moment at which its time begins.

        place: From a grain to its *keys*, in their order.
    """

    table: Table
    keys: tuple[str, ...]
    start: str
    place: Callable[[Grain], tuple[Any, ...]]

    def add_up(self, grains: Grains) -> Sums:
        """
        Return the sums of *grains*, ordered by key: the order in which every writer locks.
        """
        groups: dict[tuple[Any, ...], list[list[int]]] = {}
        for grain, figures in grains.items():
            groups.setdefault(self.place(grain), []).append(figures)
        return {key: add_figures(groups[key]) for key in sorted(groups)}

    def addition(self, sums: Sums) -> Addition:
        """
        Return what adds *sums* to the table.
        """
        names = self.keys + tables.FIGURES
        rows = [dict(zip(names, (*key, *figures), strict=True)) for key, figures in sums.items()]
        return Addition(self.table, self.keys, tables.FIGURES, rows)


ROLLUPS = (
    Rollup(
        tables.rollup_subjects,
        ("account", "day", "key_id", "model"),
        "day",
        lambda grain: (grain.account, floor_day(grain.hour), grain.key_id, grain.model),
    ),
    Rollup(
        tables.rollup_hours,
        ("hour", "model", "route"),
        "hour",
        lambda grain: (grain.hour, grain.model, grain.route),
    ),
    Rollup(
        tables.rollup_days,
        ("day", "model", "route"),
        "day",
        lambda grain: (floor_day(grain.hour), grain.model, grain.route),
    ),
)
"""In the order in which every writer adds to them."""


def add_figures(many: Iterable[Sequence[int]]) -> list[int]:
    """
    Return the sums of *many* figures, each on its own.

    >>> add_figures([(1, 20), (2, 30)])
    [3, 50]
    """
    return list(map(sum, zip(*many, strict=True)))


# -- from a row, in Python --------------------------------------------------------------------------------------------

_AT = {name: index for index, name in enumerate(COLUMNS)}
_STATUS, _DECISION = _AT["status"], _AT["decision"]
_summed = itemgetter(*(_AT[name] for name in (*tables.TOKENS, "duration_us", "cost_pico")))
_told_apart = itemgetter(
    *(_AT[name] for name in ("account", "key_id", "response_model", "request_model", "route", "created_at"))
)


def sum_rows(rows: Iterable[Row]) -> Grains:
    """
    Add usage rows up as finely as any rollup needs them.
    """
    grains: Grains = {}
    for some in in_turns(rows, SUMMED):
        groups: dict[Grain, list[Row]] = {}
        for row in some:
            groups.setdefault(_grain(row), []).append(row)
        for grain, members in groups.items():
            figures = _figures(members)
            grains[grain] = add_figures((grains[grain], figures)) if grain in grains else figures
    return grains


def _grain(row: Row) -> Grain:
    account, key_id, answered, asked, route, created_at = _told_apart(row)
    model = answered if answered is not None else asked
    return Grain(account or "", key_id or "", model or "", route or "", floor_hour(created_at))


def _figures(rows: Sequence[Row]) -> list[int]:
    refused = sum(row[_DECISION] == "refused" for row in rows)
    errors = sum(row[_STATUS] is not None and row[_STATUS] >= 500 for row in rows)
    return [len(rows), refused, errors, *add_figures(map(_summed, rows))]


# -- from a row, in SQL -----------------------------------------------------------------------------------------------


def model_of(usage: Any) -> ColumnElement[str]:
    """
    Return a rollup's model of the columns *usage*.
    """
    return func.coalesce(usage.response_model, usage.request_model, "")


def day_of(column: ColumnElement[Any], dialect: str) -> ColumnElement[datetime]:
    """
    Return the midnight (UTC) before the moment in *column*, in the SQL of *dialect*.
    """
    starts: dict[str, ColumnElement[Any]] = {
        "sqlite": func.substr(type_coerce(column, String), 1, 11).concat("00:00:00.000000"),
        "postgresql": func.date_trunc(literal_column("'day'"), column, literal_column("'UTC'")),
    }
    return type_coerce(starts.get(dialect, cast(func.date(column), mysql.DATETIME(fsp=6))), Moment)
