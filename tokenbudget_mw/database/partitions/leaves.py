"""
A partition as a table: made beside the usage table, then put into it without holding anybody up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from tokenbudget_mw.database.partitions.catalog import REST

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tokenbudget_mw.database.partitions.spans import Span

__all__ = ["attach", "bounds_check", "catch_up", "create", "create_rest", "forget_deleted", "take_from_rest"]

_STRAYED = text(f"SELECT EXISTS (SELECT FROM {REST} WHERE created_at >= :start AND created_at < :end)")  # noqa: S608
_NEWER = text("""
    SELECT FORMAT('ALTER TABLE %I ADD %I %s', CAST(:name AS text), attname, FORMAT_TYPE(atttypid, atttypmod))
    FROM pg_attribute
    WHERE attrelid = TO_REGCLASS('tokenbudget_usage') AND attnum > 0 AND NOT attisdropped AND attname NOT IN (
        SELECT attname FROM pg_attribute WHERE attrelid = TO_REGCLASS(:name) AND NOT attisdropped
    )
    ORDER BY attnum
""")


def create(connection: Connection, name: str) -> None:
    """
    Make an empty table *name* that looks like the usage table.
    """
    parts = ("DEFAULTS", "CONSTRAINTS", "INDEXES", "STORAGE", "COMMENTS")
    including = " ".join(f"INCLUDING {part}" for part in parts)
    connection.exec_driver_sql(f"CREATE TABLE {name} (LIKE tokenbudget_usage {including})")
    connection.exec_driver_sql(f"ALTER TABLE {name} ADD PRIMARY KEY (id)")


def bounds_check(span: Span) -> str:
    """
    Return the constraint that lets the table of *span* be attached unread.
    """
    return (
        f"CONSTRAINT tokenbudget_usage_span_ck CHECK (created_at >= '{span.start:%Y-%m-%d}Z' "
        f"AND created_at < '{span.end:%Y-%m-%d}Z')"
    )


def catch_up(connection: Connection, name: str) -> None:
    """
    Give the table *name* the columns that migrations have added to the usage table while it was none of its partitions.
    """
    for statement in connection.execute(_NEWER, {"name": name}).scalars().all():
        connection.exec_driver_sql(statement)


def attach(connection: Connection, span: Span) -> None:
    """
    Make the table of *span*, which has its `bounds_check`, a part of the usage table.
    """
    connection.exec_driver_sql(
        f"ALTER TABLE tokenbudget_usage ATTACH PARTITION {span.name} "
        f"FOR VALUES FROM ('{span.start:%Y-%m-%d}Z') TO ('{span.end:%Y-%m-%d}Z')"
    )
    connection.exec_driver_sql(f"ALTER TABLE {span.name} DROP CONSTRAINT tokenbudget_usage_span_ck")
    forget_deleted(connection, span.name)


def take_from_rest(connection: Connection, span: Span) -> None:
    """
    Move the rows of *span* that are in the rest to its table, which is not attached yet; their events stay what they are.
    """
    times = {"start": span.start, "end": span.end}
    if not connection.execute(_STRAYED, times).scalar():
        return
    connection.exec_driver_sql(f"ALTER TABLE {REST} DISABLE TRIGGER tokenbudget_usage_forget")
    moved = text(f"""
        WITH moved AS (DELETE FROM {REST} WHERE created_at >= :start AND created_at < :end RETURNING *)
        INSERT INTO {span.name} SELECT * FROM moved
    """)  # noqa: S608 - names of our own
    connection.execute(moved, times)
    connection.exec_driver_sql(f"ALTER TABLE {REST} ENABLE TRIGGER tokenbudget_usage_forget")


def create_rest(connection: Connection) -> None:
    """
    Make the partition of what no other one takes: a row must never find no place.
    """
    create(connection, REST)
    connection.exec_driver_sql(f"ALTER TABLE tokenbudget_usage ATTACH PARTITION {REST} DEFAULT")
    forget_deleted(connection, REST)


def forget_deleted(connection: Connection, name: str) -> None:
    """
    Let rows that are deleted from the table *name* leave the events, too.

    A trigger of a statement is that of the table which the statement names, so each one needs its own.
    """
    connection.exec_driver_sql(
        f"CREATE TRIGGER tokenbudget_usage_forget AFTER DELETE ON {name} REFERENCING OLD TABLE AS gone "
        "FOR EACH STATEMENT EXECUTE FUNCTION tokenbudget_usage_forget()"
    )
