"""
Turns the usage table into one of partitions, while it is being written. No step holds anybody up for longer than an instant.

The table that was there becomes the first partition as it is: nothing is copied but the identities of its rows. Each step can
be repeated, so a conversion that was broken off is begun again and goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import TYPE_CHECKING

from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.partitions import leaves
from tokenbudget_mw.database.partitions.catalog import BEFORE, BOUND, EVENTS, grants, in_their_schema, is_partitioned
from tokenbudget_mw.database.partitions.making import make_ahead
from tokenbudget_mw.database.partitions.patience import BusyTableError, patiently
from tokenbudget_mw.database.partitions.spans import Every, span_of
from tokenbudget_mw.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

__all__ = ["Conversion", "convert"]

BATCH = 20_000
"""Rows whose identities are copied at a time."""

OLDEST_VERSION = (13,)
"""Before, a partitioned table could not have the trigger that we need."""

_HAS_EVENTS = text(f"SELECT TO_REGCLASS('{EVENTS}') IS NOT NULL")

_DEPENDENTS = text("""
    SELECT DISTINCT COALESCE(rule.ev_class, key.conrelid)::regclass::text
    FROM pg_depend
    LEFT JOIN pg_rewrite AS rule ON classid = 'pg_rewrite'::regclass AND objid = rule.oid AND ev_class <> refobjid
    LEFT JOIN pg_constraint AS key
        ON classid = 'pg_constraint'::regclass AND objid = key.oid AND key.contype = 'f' AND key.confrelid = refobjid
    WHERE refclassid = 'pg_class'::regclass AND refobjid = TO_REGCLASS('tokenbudget_usage')
        AND (rule.oid IS NOT NULL OR key.oid IS NOT NULL)
    ORDER BY 1
""")

_INDEXES = text("""
    SELECT relname, PG_GET_INDEXDEF(indexrelid), conname IS NOT NULL
    FROM pg_index
    JOIN pg_class ON pg_class.oid = indexrelid
    LEFT JOIN pg_constraint ON conindid = indexrelid AND contype IN ('p', 'u')
    WHERE indrelid = TO_REGCLASS('tokenbudget_usage')
    ORDER BY relname
""")

_COPY = text(f"""
    WITH batch AS (
        SELECT created_at, id, instance_id, sequence FROM tokenbudget_usage
        WHERE (created_at, id) > (:at, :id) ORDER BY created_at, id LIMIT :size
    ),
    entered AS (
        INSERT INTO {EVENTS} (id, instance_id, sequence)
        SELECT id, instance_id, sequence FROM batch ORDER BY instance_id, sequence ON CONFLICT DO NOTHING
    )
    SELECT created_at, id, (SELECT COUNT(*) FROM batch) FROM batch ORDER BY created_at DESC, id DESC LIMIT 1
""")  # noqa: S608 - a name of our own


@dataclass(frozen=True, slots=True)
class Conversion:
    """
    What `convert` did.

    Attributes:
        rows: Rows whose identities were copied.

        until: Where the partition ends that was the whole table.

        swap_s: Seconds that the usage table was locked for everybody, at its longest.
    """

    rows: int
    until: datetime
    swap_s: float


def convert(
    engine: Engine,
    every: Every,
    *,
    now: datetime,
    told: Callable[[int], object] = lambda _rows: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Conversion:
    """
    Make the usage table one of partitions.

    Args:
        engine: The host's database, on PostgreSQL.

        every: How long the partitions to come are.

        now: The moment.

        told: Called now and then with the rows that are done.

        clock: Seconds, to measure the swap.

    Raises:
        ConfigurationError: It cannot be done here; the message says why.

        BusyTableError: Somebody holds the table and does not let go of it.
    """
    with engine.connect() as connection:
        _refuse(connection)
    patiently(engine, _prepare)
    rows = _copy(engine, told)
    try:
        # late: what is written beyond it is refused until the swap
        until = patiently(engine, lambda connection: _bound(connection, every, now))
        with engine.begin() as connection:
            in_their_schema(connection)
            connection.exec_driver_sql(f"ALTER TABLE tokenbudget_usage VALIDATE CONSTRAINT {BOUND}")
        swap_s = patiently(engine, lambda connection: _swap(connection, until, clock))
    except BaseException:
        with suppress(SQLAlchemyError, BusyTableError):  # what it refuses waits, until the next run has moved it
            patiently(engine, _unbound)
        raise
    make_ahead(engine, every, now=now)
    return Conversion(rows, until, swap_s)


def _refuse(connection: Connection) -> None:
    in_their_schema(connection)
    if is_partitioned(connection):
        raise ConfigurationError("tokenbudget_usage is made of partitions already.")
    version = connection.dialect.server_version_info or ()
    if version < OLDEST_VERSION:
        raise ConfigurationError(f"Partitions need PostgreSQL 13 or later, this is {'.'.join(map(str, version))}.")
    found = [name for (name,) in connection.execute(_DEPENDENTS)]
    if found:
        raise ConfigurationError(
            f"These of your views or tables refer to tokenbudget_usage and would go on with its first partition alone: "
            f"{', '.join(found)}. Drop them, and make the views again afterwards."
        )


def _until(connection: Connection, every: Every, now: datetime) -> datetime:
    newest: datetime | None = connection.execute(select(func.max(tables.usage.c.created_at))).scalar()
    # no row that is written meanwhile may lie beyond, whatever the clock of who writes it
    return span_of(max(now, newest or now) + timedelta(days=1), every).end


# -- the steps --------------------------------------------------------------------------------------------------------


def _prepare(connection: Connection) -> None:
    in_their_schema(connection)
    if connection.execute(_HAS_EVENTS).scalar():  # of a conversion that was broken off
        return
    connection.exec_driver_sql(
        f"CREATE TABLE {EVENTS} (id varchar(36) PRIMARY KEY, instance_id varchar(36) NOT NULL, sequence bigint NOT NULL, "
        "CONSTRAINT tokenbudget_usage_events_uq UNIQUE (instance_id, sequence))"
    )
    connection.exec_driver_sql(f"ALTER TABLE {EVENTS} OWNER TO {_owner(connection)}")
    for grant, whom in grants(connection):
        connection.exec_driver_sql(f"{grant} {EVENTS} {whom}")
    connection.exec_driver_sql(files("tokenbudget_mw.database.partitions").joinpath("triggers.sql").read_text("utf-8"))
    connection.exec_driver_sql(
        "CREATE TRIGGER tokenbudget_usage_note AFTER INSERT ON tokenbudget_usage REFERENCING NEW TABLE AS added "
        "FOR EACH STATEMENT EXECUTE FUNCTION tokenbudget_usage_note()"
    )
    leaves.forget_deleted(connection, "tokenbudget_usage")


def _bound(connection: Connection, every: Every, now: datetime) -> datetime:
    _unbound(connection)  # that of a conversion that was broken off
    until = _until(connection, every, now)
    connection.exec_driver_sql(
        f"ALTER TABLE tokenbudget_usage ADD CONSTRAINT {BOUND} CHECK (created_at < '{until:%Y-%m-%d}Z') NOT VALID"
    )
    return until


def _unbound(connection: Connection) -> None:
    in_their_schema(connection)
    connection.exec_driver_sql(f"ALTER TABLE tokenbudget_usage DROP CONSTRAINT IF EXISTS {BOUND}")


def _copy(engine: Engine, told: Callable[[int], object]) -> int:
    rows, place = 0, {"at": datetime(1, 1, 2, tzinfo=UTC), "id": ""}
    while True:
        with engine.begin() as connection:
            in_their_schema(connection)
            # a purge that deletes meanwhile what is copied here would leave an event without a row
            connection.exec_driver_sql("LOCK TABLE tokenbudget_purged_ranges IN SHARE MODE")
            last = connection.execute(_COPY, {**place, "size": BATCH}).one_or_none()
        if last is None:
            return rows
        place = {"at": last[0], "id": last[1]}
        rows += last[2]
        told(rows)


def _swap(connection: Connection, until: datetime, clock: Callable[[], float]) -> float:
    in_their_schema(connection)
    connection.exec_driver_sql("LOCK TABLE tokenbudget_usage IN ACCESS EXCLUSIVE MODE")
    start = clock()
    allowed, owner = list(grants(connection)), _owner(connection)
    indexes = [made for _, made, is_constraint in connection.execute(_INDEXES) if not is_constraint]
    _rename(connection)
    run = connection.exec_driver_sql
    run(f"DROP TRIGGER tokenbudget_usage_note ON {BEFORE}")
    run(
        f"CREATE TABLE tokenbudget_usage (LIKE {BEFORE} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE "
        "INCLUDING COMMENTS) PARTITION BY RANGE (created_at)"
    )
    run(f"ALTER TABLE tokenbudget_usage OWNER TO {owner}")
    run(f"ALTER TABLE tokenbudget_usage DROP CONSTRAINT {BOUND}")
    for made in indexes:
        run(made)
    run(f"ALTER TABLE tokenbudget_usage ATTACH PARTITION {BEFORE} FOR VALUES FROM (MINVALUE) TO ('{until:%Y-%m-%d}Z')")
    run(f"ALTER TABLE {BEFORE} DROP CONSTRAINT {BOUND}")
    leaves.create_rest(connection)
    leaves.forget_deleted(connection, "tokenbudget_usage")
    run(
        "CREATE TRIGGER tokenbudget_usage_claim BEFORE INSERT ON tokenbudget_usage "
        "FOR EACH ROW EXECUTE FUNCTION tokenbudget_usage_claim()"
    )
    for grant, whom in allowed:
        run(f"{grant} tokenbudget_usage {whom}")
    return clock() - start


def _rename(connection: Connection) -> None:
    """
    Leave the names of the table and its indexes to the one of partitions.
    """
    names = [name for name, _, _ in connection.execute(_INDEXES)]
    connection.exec_driver_sql(f"ALTER TABLE tokenbudget_usage RENAME TO {BEFORE}")
    for name in names:
        connection.exec_driver_sql(f'ALTER INDEX "{name}" RENAME TO "{name.replace("usage", "usage_before", 1)}"')


def _owner(connection: Connection) -> str:
    sql = "SELECT QUOTE_IDENT(PG_GET_USERBYID(relowner)) FROM pg_class WHERE oid = TO_REGCLASS('tokenbudget_usage')"
    owner: str = connection.exec_driver_sql(sql).scalar_one()
    return owner
