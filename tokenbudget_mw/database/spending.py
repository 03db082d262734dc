"""
What the books say was used, for counters that start: whole days and hours from the rollups, the rest from one range of an
index. Refused requests do not count.

A rollup's current day or hour is as new as the rows, because one transaction writes both.
"""

from __future__ import annotations

from bisect import bisect
from datetime import timedelta
from itertools import chain
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, case, func, literal_column, select, type_coerce, union_all

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.differences import exact_sum, joined_pairs
from tokenbudget_mw.database.engine import reader
from tokenbudget_mw.database.rollups import model_of
from tokenbudget_mw.database.rows import EPOCH, clean_id, clean_text, moment
from tokenbudget_mw.units import nano_from_pico_ceil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy import ColumnElement, Connection, Engine, Select, Table

    from tokenbudget_mw.rules.seeding import Question, Span
    from tokenbudget_mw.values import Scope

__all__ = ["statements", "used"]

HOUR_US, DAY_US = 3_600_000_000, 86_400_000_000
_MICROSECOND = timedelta(microseconds=1)

FEW = 5_000
"""Up to how many rows of a window of many slots are read as they are."""

_COLUMNS: dict[Scope, str] = {
    "key": "key_id",
    "user": "user_id",
    "team": "team_id",
    "project": "project_id",
    "tenant": "tenant_id",
    "route": "route",
}
_FIGURES = {
    "tokens": ("input_tokens", "output_tokens"),
    "input_tokens": ("input_tokens",),
    "output_tokens": ("output_tokens",),
    "money": ("cost_pico",),
}


def used(engine: Engine, questions: Sequence[Question], model_name: Callable[[str], str]) -> list[tuple[int, ...]]:
    """
    Answer *questions*, in one snapshot where the database keeps one: an amount for each span, in the limit's unit.

    Args:
        engine: The host's database.

        questions: What is asked.

        model_name: Gives a model's one name, for limits per model.
    """
    with reader(engine).connect() as connection:
        return [_answer(connection, question, model_name) for question in questions]


def _answer(connection: Connection, question: Question, model_name: Callable[[str], str]) -> tuple[int, ...]:
    few = _few(connection, question)
    added = chain.from_iterable(map(connection.execute, statements(connection, question)))
    sums = [0] * len(question.spans)
    for at, model, *halves in added if few is None else few:
        if question.model is None or (model and model_name(model) == question.model):
            sums[int(at)] += _amount(question, joined_pairs(halves))
    return tuple(nano_from_pico_ceil(total) if question.unit == "money" else total for total in sums)


def _few(connection: Connection, question: Question) -> list[tuple[Any, ...]] | None:
    """
    Return the usage rows of a window of many spans where they are few, which is quicker than to have each span added up.
    """
    filters = _filters(question)
    if filters is None or len(question.spans) == 1:
        return None
    starts = [span.since_us for span in question.spans]
    since, until = moment(starts[0]), moment(question.spans[-1].until_us)
    columns = tables.usage.c
    figures = [half for figure in _figures(question, tables.usage) for half in (literal_column("0"), figure)]
    wanted = select(columns.created_at, _model(tables.usage), *figures).where(
        columns.created_at >= since, columns.created_at < until, *_equal(columns, filters)
    )
    rows = connection.execute(wanted.limit(FEW + 1)).all()
    if len(rows) > FEW:
        return None
    return [(bisect(starts, (at - EPOCH) // _MICROSECOND) - 1, *rest) for at, *rest in rows]


def _amount(question: Question, figures: list[int]) -> int:
    return figures[0] - figures[1] if question.unit == "requests" else sum(figures)


def statements(connection: Connection, question: Question) -> Iterator[Select[Any] | Any]:
    """
    Give the statements that answer *question*. Their rows: a span's position, a model, sums in two halves each.
    """
    filters = _filters(question)
    if filters is None:
        return
    parts: dict[Table, list[Select[Any]]] = {}
    for at, span in enumerate(question.spans):
        for table, since, until in _parts(question, span):
            parts.setdefault(table, []).append(_sum(connection, question, table, filters, (at, since, until)))
    for selects in parts.values():
        yield selects[0] if len(selects) == 1 else union_all(*selects)


def _filters(question: Question) -> dict[str, str] | None:
    """
    Return column -> value of the rows that count; None where no index finds them.
    """
    found: dict[str, str] = {}
    for scope, value in question.scopes:
        column = tables.usage.c[_COLUMNS[scope]]
        length: int = column.type.length  # type: ignore[attr-defined]
        found[column.name] = (clean_text if scope == "route" else clean_id)(value, length)
    if "key_id" in found or not found.keys() - {"route"}:
        return found
    if question.account is None:
        return None
    length = tables.usage.c.account.type.length  # type: ignore[attr-defined]
    found["account"] = clean_id(question.account, length)
    for scope, value in question.scopes:
        if question.account == f"{scope}:{value}":
            del found[_COLUMNS[scope]]  # the account itself says who the widest holder is
    return found


def _parts(question: Question, span: Span) -> Iterator[tuple[Table, int, int]]:
    """
    Cut *span* into times, in microseconds, each with the table that knows them.
    """
    since, until = span.since_us, span.until_us
    steps: list[tuple[Table, int]] = []
    if len(question.spans) == 1 and (filters := _filters(question)) is not None:
        if not filters.keys() - {"route"}:
            steps = [(tables.rollup_hours, HOUR_US), (tables.rollup_days, DAY_US)]
        elif filters.keys() <= {"key_id", "account"}:
            steps = [(tables.rollup_subjects, DAY_US)]
    table = tables.usage
    for coarser, length in steps:
        whole = -(-since // length) * length
        if whole >= until:
            break
        if since < whole:
            yield table, since, whole
        table, since = coarser, whole
    yield table, since, until


def _sum(
    connection: Connection,
    question: Question,
    table: Table,
    filters: dict[str, str],
    part: tuple[int, int, int],
) -> Select[Any]:
    at, since, until = part
    columns = table.c
    start = columns.created_at if table is tables.usage else columns["hour" if "hour" in columns else "day"]
    position: ColumnElement[int] = literal_column(str(at)).label("position")
    model = literal_column("''") if question.model is None else _model(table)
    sums = [half for figure in _figures(question, table) for half in exact_sum(connection, figure)]
    wanted = select(position, model.label("model"), *sums).where(
        start >= moment(since), start < moment(until), *_equal(columns, filters)
    )
    return wanted if question.model is None else wanted.group_by("model")


def _equal(columns: Any, filters: dict[str, str]) -> list[ColumnElement[bool]]:
    return [columns[name] == value for name, value in filters.items()]


def _model(table: Table) -> ColumnElement[str]:
    found: ColumnElement[str] = model_of(table.c) if table is tables.usage else table.c.model
    return found


def _figures(question: Question, table: Table) -> list[ColumnElement[Any]]:
    if question.unit != "requests":
        return [table.c[name] for name in _FIGURES[question.unit]]
    if table is not tables.usage:
        return [table.c.requests, table.c.refused]
    is_refused = case((table.c.decision == "refused", 1), else_=0)
    return [type_coerce(literal_column("1"), BigInteger), type_coerce(func.coalesce(is_refused, 0), BigInteger)]
