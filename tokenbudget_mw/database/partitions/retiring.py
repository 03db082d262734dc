"""
Takes whole partitions out of the usage table: what they add up to, and which events they were, is kept as a purge keeps it.

The sums are made while everybody goes on; only who writes into this very partition waits. The usage table is locked for the
instant in which the partition leaves it. In the same transaction its sums appear, so the books are closed at every moment.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING

from sqlalchemy import text

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.partitions import leaves
from tokenbudget_mw.database.partitions.catalog import EVENTS, GONE, REST, Partition, in_their_schema, partitions
from tokenbudget_mw.database.partitions.patience import patiently
from tokenbudget_mw.database.partitions.spans import Span, span_named
from tokenbudget_mw.database.ranges import Runs, forget_ranges, keep_ranges
from tokenbudget_mw.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine, TextClause

__all__ = ["attach", "by_rows_only", "detach", "drop", "drop_old"]

BATCH = 20_000
"""Events that are deleted at a time."""

_LEFTOVERS = text("""
    SELECT relname FROM pg_class WHERE relname LIKE :name AND relkind = 'r'
        AND relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = TO_REGCLASS('tokenbudget_usage'))
""")


def drop(engine: Engine, name: str, *, now: datetime | None = None) -> int:
    """
    Drop the partition *name*. Its sums and its events' ranges are kept.

    Args:
        engine: The database.

        name: The partition.

        now: This moment: the partition to which its rows go is not dropped. None drops any.

    Returns:
        How many rows it had.

    Raises:
        ConfigurationError: There is no such partition, or rows of *now* go there.

        BusyTableError: Somebody holds the table and does not let go of it.
    """
    _finish(engine)
    _require(engine, name, is_attached=True)
    if now is not None:
        _require_idle(engine, name, now)
    gone = GONE + name.removeprefix("tokenbudget_usage")
    rows = _retire(engine, name, gone)
    _finish(engine)
    return rows


def drop_old(engine: Engine, before: datetime) -> tuple[int, int]:
    """
    Drop every partition that ends at *before* or earlier; return how many, and how many rows they had.
    """
    with engine.connect() as connection:
        in_their_schema(connection)
        old = [part.name for part in partitions(connection) if part.is_attached and _is_old(connection, part, before)]
    _finish(engine)
    return len(old), sum(drop(engine, name) for name in old)


def by_rows_only(engine: Engine) -> list[str]:
    """
    Return the partitions that hold rows of no day or month in particular, which go row by row.
    """
    with engine.connect() as connection:
        in_their_schema(connection)
        return [part.name for part in partitions(connection) if part.is_attached and part.span is None]


def detach(engine: Engine, name: str) -> int:
    """
    Take the partition *name* out and leave its table standing, to be archived or attached again; return its rows.

    Raises:
        ConfigurationError: There is no such partition.

        BusyTableError: Somebody holds the table and does not let go of it.
    """
    _span(name)
    _require(engine, name, is_attached=True)
    rows = _retire(engine, name, name)
    _forget_events(engine, name)
    return rows


def attach(engine: Engine, name: str) -> int:
    """
    Put the table *name*, which `detach` has left, back: its rows count as rows again. Returns how many.

    Rows of its time that have come since are moved to it, and it gets the columns that migrations have added since.

    Raises:
        ConfigurationError: There is no such table, or its rows are not what was kept of them.

        BusyTableError: Somebody holds the table and does not let go of it.
    """
    span = _span(name)
    _require(engine, name, is_attached=False)
    with engine.begin() as connection:
        in_their_schema(connection)
        leaves.catch_up(connection, name)
        connection.exec_driver_sql(f"ALTER TABLE {name} DROP CONSTRAINT IF EXISTS tokenbudget_usage_span_ck")
        connection.exec_driver_sql(f"ALTER TABLE {name} ADD {leaves.bounds_check(span)}")
    return patiently(engine, partial(_return, span=span))


# -- out --------------------------------------------------------------------------------------------------------------


def _retire(engine: Engine, name: str, later: str) -> int:
    def step(connection: Connection) -> int:
        in_their_schema(connection)
        run = connection.exec_driver_sql
        savepoint = connection.begin_nested()  # tells early, before the sums are made, that the table is not free
        run("LOCK TABLE tokenbudget_usage IN ACCESS EXCLUSIVE MODE")
        savepoint.rollback()
        run("LOCK TABLE tokenbudget_purged_ranges IN SHARE UPDATE EXCLUSIVE MODE")  # one purge at a time
        run(f"LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE")
        connection.execute(_statement("keep_sums.sql", name))
        runs = _runs(connection, name)
        keep_ranges(connection, runs)
        run(f"ALTER TABLE tokenbudget_usage DETACH PARTITION {name}")
        run(f"DROP TRIGGER tokenbudget_usage_forget ON {name}")
        if later != name:
            run(f"ALTER TABLE {name} RENAME TO {later}")
        return sum(last - first + 1 for some in runs.values() for first, last in some)

    return patiently(engine, step)


def _runs(connection: Connection, name: str) -> Runs:
    runs: Runs = {}
    for instance, first, last in connection.execute(_statement("runs.sql", name)):
        runs.setdefault(instance, []).append((first, last))
    return runs


def _finish(engine: Engine) -> None:
    """
    Drop the tables whose sums are kept, also those that an earlier run has left.
    """
    with engine.connect() as connection:
        names = list(connection.execute(_LEFTOVERS, {"name": GONE.replace("_", r"\_") + "%"}).scalars())
    for name in names:
        _forget_events(engine, name)
        with engine.begin() as connection:
            in_their_schema(connection)
            connection.exec_driver_sql(f"DROP TABLE {name}")


def _forget_events(engine: Engine, name: str) -> None:
    """
    Delete the events of the rows in the table *name*; from here on their ranges tell that they are known.
    """
    with engine.begin() as connection:
        # whoever has begun before the ranges were there, and cannot see them, has ended when this is passed
        connection.exec_driver_sql("LOCK TABLE tokenbudget_purged_ranges IN EXCLUSIVE MODE")
    forget = text(f"""
        WITH batch AS (SELECT id FROM {name} WHERE id > :id ORDER BY id LIMIT :size),
        gone AS (DELETE FROM {EVENTS} AS event USING batch WHERE event.id = batch.id)
        SELECT MAX(id) FROM batch
    """)  # noqa: S608 - names of our own
    last: str | None = ""
    while last is not None:
        with engine.begin() as connection:
            in_their_schema(connection)
            last = connection.execute(forget, {"id": last, "size": BATCH}).scalar()


# -- in ---------------------------------------------------------------------------------------------------------------


def _return(connection: Connection, span: Span) -> int:
    in_their_schema(connection)
    name = span.name
    connection.exec_driver_sql("LOCK TABLE tokenbudget_purged_ranges IN SHARE UPDATE EXCLUSIVE MODE")
    connection.exec_driver_sql(f"LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE")
    rows: int = connection.exec_driver_sql(f"SELECT COUNT(*) FROM {name}").scalar_one()  # noqa: S608
    entered = connection.exec_driver_sql(
        f"INSERT INTO {EVENTS} (id, instance_id, sequence) SELECT id, instance_id, sequence FROM {name} "  # noqa: S608
        "ORDER BY instance_id, sequence ON CONFLICT DO NOTHING"
    ).rowcount
    returned = connection.execute(_statement("return_sums.sql", name)).scalar_one()
    if entered != rows or returned != rows:
        raise ConfigurationError(
            f"{name} cannot be attached: of its {rows} rows, {rows - entered} are in the usage table already, and sums are kept "
            f"of {returned}."
        )
    connection.exec_driver_sql("DELETE FROM tokenbudget_purged_days WHERE requests = 0")
    forget_ranges(connection, _runs(connection, name))
    leaves.take_from_rest(connection, span)  # rows of that time that have come since
    leaves.attach(connection, span)
    return rows


# -- which ------------------------------------------------------------------------------------------------------------


def _require(engine: Engine, name: str, *, is_attached: bool) -> None:
    with engine.connect() as connection:
        in_their_schema(connection)
        known = {part.name for part in partitions(connection) if part.is_attached == is_attached and part.name != REST}
    if name not in known:
        kind = "partition" if is_attached else "detached partition"
        raise ConfigurationError(f"There is no {kind} {name!r}. Known: {', '.join(sorted(known)) or 'none'}.")


def _require_idle(engine: Engine, name: str, now: datetime) -> None:
    with engine.connect() as connection:
        in_their_schema(connection)
        part = next(part for part in partitions(connection) if part.name == name)
        is_idle = _is_old(connection, part, now) or (part.span is not None and part.span.start > now)
    if not is_idle:
        raise ConfigurationError(
            f"{name!r} is not dropped: rows of this moment go there. `tokenbudget-mw purge --by-rows` deletes what is old in it."
        )


def _span(name: str) -> Span:
    span = span_named(name)
    if span is None:
        raise ConfigurationError(f"{name!r} is no day and no month: it stays attached until it is dropped.")
    return span


def _is_old(connection: Connection, part: Partition, before: datetime) -> bool:
    if part.span is not None:
        return part.span.end <= before
    sql = "SELECT PG_GET_EXPR(relpartbound, oid) FROM pg_class WHERE oid = TO_REGCLASS(:name)"
    bound = text(f"SELECT SUBSTRING(({sql}) FROM 'TO [(]''(.+)''[)]')::timestamptz")  # noqa: S608
    end: datetime | None = connection.execute(bound, {"name": part.name}).scalar()
    return end is not None and end <= before


def _statement(file: str, name: str) -> TextClause:
    sql = files("tokenbudget_mw.database.partitions").joinpath(file).read_text("utf-8")
    for mark, value in {"table": name, **dict(_lists())}.items():
        sql = sql.replace(f"{{{mark}}}", value)
    return text(sql)


def _lists() -> Iterator[tuple[str, str]]:
    names = tables.PURGED
    yield "names", ", ".join(names)
    yield "sums", ", ".join(f"{'COUNT(*)' if name == 'requests' else f'SUM({name})'} AS {name}" for name in names)
    yield "added", ", ".join(f"{name} = purged.{name} + excluded.{name}" for name in names)
    yield "taken", ", ".join(f"{name} = purged.{name} - back.{name}" for name in names)
    yield "enough", " AND ".join(f"purged.{name} >= back.{name}" for name in names)
