"""
Makes partitions for the time to come, and moves rows there that came too early for them.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import text

from tokenbudget_mw.database.partitions import leaves
from tokenbudget_mw.database.partitions.catalog import BEFORE, in_their_schema, is_partitioned, partitions
from tokenbudget_mw.database.partitions.patience import patiently
from tokenbudget_mw.database.partitions.spans import AHEAD, Every, Span, span_of, spans_from
from tokenbudget_mw.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

__all__ = ["make_ahead"]

_END = text("""
    SELECT SUBSTRING(PG_GET_EXPR(relpartbound, oid) FROM 'TO [(]''(.+)''[)]')::timestamptz
    FROM pg_class WHERE oid = TO_REGCLASS(:name)
""")


def make_ahead(engine: Engine, every: Every | None, *, now: datetime, count: int | None = None) -> list[str]:
    """
    Make the partitions that are missing for the time to come. Rows of their time that are in the rest are moved.

    Args:
        engine: The host's database.

        every: How long each is; None for as long as the last one is.

        now: The moment.

        count: How many shall stand ready, besides the one of *now*; by default 14 days or 3 months.

    Returns:
        The names of the new ones.

    Raises:
        ConfigurationError: The table is not made of partitions.

        BusyTableError: Somebody holds the table and does not let go of it.
    """
    with engine.connect() as connection:
        in_their_schema(connection)
        wanted = _missing(connection, every, now, count)
    for span in wanted:
        patiently(engine, lambda connection, span=span: _make(connection, span))  # type: ignore[misc]
    return [span.name for span in wanted]


def _missing(connection: Connection, every: Every | None, now: datetime, count: int | None) -> list[Span]:
    if not is_partitioned(connection):
        raise ConfigurationError("tokenbudget_usage is not made of partitions. Run `tokenbudget-mw partitions on`.")
    known = [part.span for part in partitions(connection) if part.span is not None and part.is_attached]
    every = every or (known[-1].every if known else "month")
    end = span_of(now, every).start
    taken: datetime | None = connection.execute(_END, {"name": BEFORE}).scalar()
    wanted = spans_from(end, every, (AHEAD[every] if count is None else count) + 1)
    return [
        span
        for span in wanted
        if (taken is None or span.start >= taken)
        and not any(span.start < other.end and other.start < span.end for other in known)
    ]


def _make(connection: Connection, span: Span) -> None:
    in_their_schema(connection)
    leaves.create(connection, span.name)
    leaves.take_from_rest(connection, span)
    connection.exec_driver_sql(f"ALTER TABLE {span.name} ADD {leaves.bounds_check(span)}")
    leaves.attach(connection, span)
