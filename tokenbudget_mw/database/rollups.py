"""
What each rollup groups by, and how usage rows are added up for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING, Any

from sqlalchemy import String, cast, func, literal_column, type_coerce
from sqlalchemy.dialects import mysql

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.rows import COLUMNS
from tokenbudget_mw.database.turns import SUMMED, in_turns
from tokenbudget_mw.database.types import Moment

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Table

    from tokenbudget_mw.database.rows import Row

__all__ = ["ROLLUPS", "Rollup", "Sums", "day_of", "floor_day", "floor_hour", "model_of"]

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


@dataclass(frozen=True, slots=True)
class Rollup:
    """
    One way to add usage up.

    Attributes:
        table: Where the sums are kept.

        keys: Columns that a row of it is unique by, in the order of their index.

        start: Which of them is the moment at which its time begins.

        floor: From a usage row's moment to that moment.

        rows_keys: From a usage row to its *keys*, in their order.
    """

    table: Table
    keys: tuple[str, ...]
    start: str
    floor: Callable[[datetime], datetime]
    rows_keys: Callable[[Row], tuple[Any, ...]]

    def add_up(self, rows: Iterable[Row]) -> Sums:
        """
        Return the sums of *rows*, ordered by key: the order in which every writer locks.
        """
        sums: Sums = {}
        for row in chain.from_iterable(in_turns(rows, SUMMED)):
            key = self.rows_keys(row)
            figures = _figures(row)
            known = sums.get(key)
            sums[key] = figures if known is None else [a + b for a, b in zip(known, figures, strict=True)]
        return dict(sorted(sums.items()))

    def values(self, sums: Sums) -> list[dict[str, Any]]:
        """
        Return *sums* as rows of the table.
        """
        names = self.keys + tables.FIGURES
        return [dict(zip(names, (*key, *figures), strict=True)) for key, figures in sums.items()]


# -- from a row, in Python --------------------------------------------------------------------------------------------

_AT = {name: index for index, name in enumerate(COLUMNS)}
_CREATED, _STATUS, _DECISION = _AT["created_at"], _AT["status"], _AT["decision"]
_ACCOUNT, _KEY, _ROUTE = _AT["account"], _AT["key_id"], _AT["route"]
_RESPONSE, _REQUEST = _AT["response_model"], _AT["request_model"]
_SUMMED = tuple(_AT[name] for name in (*tables.TOKENS, "duration_us", "cost_pico"))


def _figures(row: Row) -> list[int]:
    status = row[_STATUS]
    errors = int(status is not None and status >= 500)
    return [1, int(row[_DECISION] == "refused"), errors, *[row[index] for index in _SUMMED]]


def _model(row: Row) -> str:
    found = row[_RESPONSE] if row[_RESPONSE] is not None else row[_REQUEST]
    return found or ""


def _subject(row: Row) -> tuple[Any, ...]:
    return row[_ACCOUNT] or "", floor_day(row[_CREATED]), row[_KEY] or "", _model(row)


def _hour(row: Row) -> tuple[Any, ...]:
    return floor_hour(row[_CREATED]), _model(row), row[_ROUTE] or ""


def _day(row: Row) -> tuple[Any, ...]:
    return floor_day(row[_CREATED]), _model(row), row[_ROUTE] or ""


ROLLUPS = (
    Rollup(tables.rollup_subjects, ("account", "day", "key_id", "model"), "day", floor_day, _subject),
    Rollup(tables.rollup_hours, ("hour", "model", "route"), "hour", floor_hour, _hour),
    Rollup(tables.rollup_days, ("day", "model", "route"), "day", floor_day, _day),
)
"""In the order in which every writer adds to them."""


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
