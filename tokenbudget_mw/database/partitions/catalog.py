"""
What PostgreSQL's catalog says of the usage table and its partitions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

from tokenbudget_mw.database.partitions.spans import Span, span_named
from tokenbudget_mw.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

__all__ = [
    "BEFORE",
    "BOUND",
    "EVENTS",
    "GONE",
    "REST",
    "Partition",
    "grants",
    "in_their_schema",
    "is_partitioned",
    "partitions",
]

EVENTS = "tokenbudget_usage_events"
BEFORE = "tokenbudget_usage_before"
"""The partition that was the whole table, up to some day after it became one."""

BOUND = "tokenbudget_usage_before_ck"
"""The constraint by which it is known, just before it becomes that partition, that no row lies beyond."""

REST = "tokenbudget_usage_rest"
"""The partition of rows that no other has."""

GONE = "tokenbudget_usage_gone"
"""What the names of tables begin with whose sums are kept already, and which are about to be dropped."""

_KIND = text("SELECT relkind = 'p' FROM pg_class WHERE oid = TO_REGCLASS('tokenbudget_usage')")
_TABLES = text("""
    SELECT relname, inhparent IS NOT NULL AS attached, GREATEST(reltuples, 0)::bigint AS rows,
        PG_TOTAL_RELATION_SIZE(pg_class.oid) AS bytes
    FROM pg_class LEFT JOIN pg_inherits ON inhrelid = pg_class.oid
    WHERE relkind = 'r' AND (relname LIKE 'tokenbudget!_usage!_p%' ESCAPE '!' OR relname = :before OR relname = :rest)
        AND relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = TO_REGCLASS('tokenbudget_usage'))
    ORDER BY relname = :rest, relname
""")
_SCHEMA = text("""
    SELECT nspname FROM pg_class JOIN pg_namespace ON relnamespace = pg_namespace.oid
    WHERE pg_class.oid = TO_REGCLASS('tokenbudget_usage')
""")
_GRANTS = text("""
    SELECT privilege_type, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE QUOTE_IDENT(PG_GET_USERBYID(grantee)) END, is_grantable
    FROM pg_class, ACLEXPLODE(relacl) WHERE pg_class.oid = TO_REGCLASS('tokenbudget_usage') AND grantee <> relowner
""")


@dataclass(frozen=True, slots=True)
class Partition:
    """
    A table of usage rows.

    Attributes:
        name: Its name.

        span: Its time; None of those two that are no day and no month.

        is_attached: Whether it is a part of the usage table now.

        rows: How many rows it has, by the last ``ANALYZE``.

        size: Bytes on the disk, indexes included.
    """

    name: str
    span: Span | None
    is_attached: bool
    rows: int
    size: int


def is_partitioned(connection: Connection) -> bool:
    """
    Whether the usage table is made of partitions.
    """
    return connection.dialect.name == "postgresql" and bool(connection.execute(_KIND).scalar())


def partitions(connection: Connection) -> list[Partition]:
    """
    Return all partitions, the oldest first, and those that were detached.
    """
    found = connection.execute(_TABLES, {"before": BEFORE, "rest": REST})
    return [Partition(name, span_named(name), attached, rows, size) for name, attached, rows, size in found]


def in_their_schema(connection: Connection) -> None:
    """
    Let the names of tables that are made in this transaction be in the schema of the usage table.

    Raises:
        ConfigurationError: There is no usage table, or no PostgreSQL.
    """
    if connection.dialect.name != "postgresql":
        raise ConfigurationError(f"Partitions are for PostgreSQL; this database is {connection.dialect.name}.")
    schema = connection.execute(_SCHEMA).scalar()
    if schema is None:
        raise ConfigurationError("There is no table tokenbudget_usage. Run `tokenbudget-mw migrate`.")
    connection.execute(
        text("SELECT SET_CONFIG('search_path', QUOTE_IDENT(:schema) || ', ' || CURRENT_SETTING('search_path'), TRUE)"),
        {"schema": schema},
    )


def grants(connection: Connection) -> Iterator[tuple[str, str]]:
    """
    Yield what others than the owner may do with the usage table, as the two halves of a ``GRANT`` about another table.
    """
    for privilege, who, is_grantable in connection.execute(_GRANTS).all():
        yield f"GRANT {privilege} ON", f"TO {who}{' WITH GRANT OPTION' if is_grantable else ''}"
