"""
Indexes on tables that are large and in use: made without keeping anybody from writing, and mended where that was broken off.

On PostgreSQL such an index is made ``CONCURRENTLY``, outside of a transaction. If that fails in the middle, an index is left
that costs every write and answers nothing; PostgreSQL calls it invalid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Connection

__all__ = ["OnlineIndex", "Run", "broken", "create", "mend", "runner"]

Run = Callable[[str], Sequence[Any]]
"""Runs a statement outside of a transaction and gives its rows."""

_OURS = "(SELECT relnamespace FROM pg_class WHERE oid = TO_REGCLASS('tokenbudget_usage'))"
_INVALID = f"""
    SELECT relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
    WHERE NOT indisvalid AND relkind = 'i' AND LEFT(relname, 12) = 'tokenbudget_' AND relnamespace = {_OURS}
    ORDER BY relname
"""  # noqa: S608 - texts of our own
_LEAVES = """
    SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = TO_REGCLASS('{table}') ORDER BY relname
"""
_VALID = """
    SELECT indisvalid FROM pg_index WHERE indexrelid = TO_REGCLASS('{name}')
"""
_KNOWN = {
    "sqlite": "SELECT 1 FROM sqlite_master WHERE type = 'index' AND name = '{name}'",
    "mysql": "SELECT 1 FROM information_schema.statistics WHERE table_schema = DATABASE() AND table_name = '{table}' "
    "AND index_name = '{name}' LIMIT 1",
}
_KIND = "SELECT relkind = 'p' FROM pg_class WHERE oid = TO_REGCLASS('{table}')"
_ATTACHED = "SELECT 1 FROM pg_inherits WHERE inhrelid = TO_REGCLASS('{leaf}') AND inhparent = TO_REGCLASS('{name}')"


@dataclass(frozen=True, slots=True)
class OnlineIndex:
    """
    An index as a migration wants it.

    Attributes:
        name: Its name.

        table: The table's.

        columns: Of it, in order.

        where: Which rows are in it, in SQL, where the database knows partial indexes; empty for all.
    """

    name: str
    table: str
    columns: tuple[str, ...]
    where: str = ""

    def sql(self, dialect: str, *, how: str = "") -> str:
        """
        Return the statement that makes it on an empty table, or *how* PostgreSQL shall make it.
        """
        columns = ", ".join(self.columns)
        if dialect in ("mysql", "mariadb"):  # an error, where it would have to keep writers out
            return f"CREATE INDEX {self.name} ON {self.table} ({columns}) ALGORITHM=INPLACE LOCK=NONE"
        where = f" WHERE {self.where}" if self.where else ""
        return f"CREATE INDEX {how}{self.name} ON {self.table} ({columns}){where}"


def runner(connection: Connection) -> Run:
    """
    Return what runs a statement on *connection*, which must be in autocommit mode.
    """

    def run(sql: str) -> Sequence[Any]:
        result = connection.exec_driver_sql(sql)
        return result.all() if result.returns_rows else ()

    return run


def create(run: Run, dialect: str, index: OnlineIndex) -> None:
    """
    Make *index*, whatever an earlier run has left of it.
    """
    if dialect != "postgresql":
        known = _KNOWN["mysql" if dialect == "mariadb" else dialect]
        if not run(known.format(table=index.table, name=index.name)):
            run(index.sql(dialect))
        return
    with _patient(run):
        _create(run, index)


@contextmanager
def _patient(run: Run) -> Iterator[None]:
    """
    Let statements take their time: they wait for transactions that are under way, and hold nobody up meanwhile.

    Outside of a transaction that is a setting of the session, so it is made where there is another one alone.
    """
    changed: list[tuple[str, str]] = []
    for name in ("lock_timeout", "statement_timeout"):
        ((before,),) = run(f"SELECT CURRENT_SETTING('{name}')")
        if before != "0":
            changed.append((name, before))
            run(f"SET {name} = 0")
    try:
        yield
    finally:
        for name, before in changed:
            run(f"SET {name} = '{before}'")


def _create(run: Run, index: OnlineIndex) -> None:
    if run(_KIND.format(table=index.table))[0][0]:
        _create_parted(run, index)
        return
    known = run(_VALID.format(name=index.name))
    if known and known[0][0]:
        return
    if known:
        run(f"DROP INDEX CONCURRENTLY {index.name}")
    run(index.sql("postgresql", how="CONCURRENTLY "))


def _create_parted(run: Run, index: OnlineIndex) -> None:
    """
    Make it for each partition, then for all of them: a table of partitions cannot have it made at once.
    """
    where = f" WHERE {index.where}" if index.where else ""
    run(f"CREATE INDEX IF NOT EXISTS {index.name} ON ONLY {index.table} ({', '.join(index.columns)}){where}")
    for (leaf,) in run(_LEAVES.format(table=index.table)):
        part = OnlineIndex(index.name.replace(index.table, leaf, 1), leaf, index.columns, index.where)
        if run(_ATTACHED.format(leaf=part.name, name=index.name)):
            continue
        _create(run, part)
        run(f"ALTER INDEX {index.name} ATTACH PARTITION {part.name}")


def broken(connection: Connection) -> list[str]:
    """
    Return the names of our indexes that are invalid.
    """
    if connection.dialect.name != "postgresql":
        return []
    return [name for (name,) in runner(connection)(_INVALID)]


def mend(connection: Connection) -> list[str]:
    """
    Make our invalid indexes anew, on a connection in autocommit mode; return their names.
    """
    names, run = broken(connection), runner(connection)
    if not names:
        return []
    with _patient(run):
        for name in names:
            if "_ccnew" in name or "_ccold" in name:  # what a REINDEX has left beside the index
                run(f"DROP INDEX CONCURRENTLY {name}")
            else:
                run(f"REINDEX INDEX CONCURRENTLY {name}")
    return names
