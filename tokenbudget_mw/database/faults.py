"""
What a database error means: refused for good, a schema that is not there, or worth another try.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from tokenbudget_mw.database.partitions.catalog import BOUND

__all__ = [
    "advice",
    "is_being_changed",
    "is_deadlock",
    "is_forbidden",
    "is_full",
    "is_locked",
    "is_missing_schema",
    "is_permanent",
    "is_read_only",
    "is_there_already",
    "is_timeout",
    "is_unopened",
]

# 3819, 4025: a CHECK; the others: a value that does not fit. PyMySQL files most of them under OperationalError.
_MYSQL_PERMANENT = frozenset({1264, 1265, 1292, 1366, 1406, 3819, 4025})
_MYSQL_MISSING = frozenset({1054, 1146})
_MYSQL_DEADLOCK, _PG_DEADLOCK = 1213, "40P01"
_PG_LOCKED = frozenset({"55P03", _PG_DEADLOCK})  # lock_not_available
_MYSQL_CHANGING = 1684  # ER_WARN_I_S_SKIPPED_TABLE
_MYSQL_THERE = frozenset({1050, 1060, 1061, 1062})

# 1290: --read-only and --super-read-only; 1792: a transaction; 1836: the server
_MYSQL_READ_ONLY, _PG_READ_ONLY = frozenset({1290, 1792, 1836}), "25006"
_MYSQL_FORBIDDEN, _PG_FORBIDDEN = frozenset({1142, 1143}), "42501"
_MYSQL_FULL, _PG_FULL = frozenset({1021, 1114}), "53100"
_MYSQL_TIMEOUT, _PG_TIMEOUT = frozenset({1969, 3024}), "57014"

# data exceptions, integrity violations, program limits (a parameter that is too large: a smaller batch helps)
_PG_PERMANENT = ("22", "23", "54")
_PG_MISSING = frozenset({"42P01", "42703", "3F000"})
_PG_THERE = frozenset({"42P07", "42701", "42710", "23505"})

_SQLITE_THERE = re.compile(r"already exists|duplicate column name")
_SQLITE_MISSING = re.compile(r"no such (table|column)|has no column named")
_SQLITE_UNOPENED = re.compile(r"unable to open database file")
_SQLITE_FULL = re.compile(r"database or disk is full")
_SQLITE_READ_ONLY = re.compile(r"attempt to write a readonly database")


def _mysql_code(exc: DBAPIError) -> int | None:
    arguments = getattr(exc.orig, "args", ())
    return arguments[0] if arguments and isinstance(arguments[0], int) else None


def _sqlstate(exc: DBAPIError) -> str:
    return getattr(exc.orig, "sqlstate", None) or getattr(exc.orig, "pgcode", None) or ""


def is_permanent(exc: Exception) -> bool:
    """
    Whether writing the same rows again cannot help. Locks, deadlocks and lost connections are not permanent.
    """
    if isinstance(exc, DBAPIError) and BOUND in str(exc.orig):
        return False  # of a conversion that goes on, or is begun again
    if isinstance(exc, OverflowError | UnicodeError | IntegrityError | DataError):
        return True
    if not isinstance(exc, DBAPIError):
        return False
    return _mysql_code(exc) in _MYSQL_PERMANENT or _sqlstate(exc).startswith(_PG_PERMANENT)


def is_deadlock(exc: DBAPIError) -> bool:
    """
    Whether the database has ended a transaction because it and another one waited for each other.
    """
    return _mysql_code(exc) == _MYSQL_DEADLOCK or _sqlstate(exc) == _PG_DEADLOCK


def is_locked(exc: DBAPIError) -> bool:
    """
    Whether PostgreSQL has given a lock to somebody else, so that one steps back and tries again.
    """
    return _sqlstate(exc) in _PG_LOCKED


def is_missing_schema(exc: Exception) -> bool:
    """
    Whether a table or column of ours is not there (yet).
    """
    if not isinstance(exc, DBAPIError):
        return False
    return (
        _mysql_code(exc) in _MYSQL_MISSING
        or _sqlstate(exc) in _PG_MISSING
        or _SQLITE_MISSING.search(str(exc.orig)) is not None
    )


def is_read_only(exc: BaseException | None) -> bool:
    """
    Whether the database only reads at present: a replica, or a server on which somebody has said so.
    """
    if not isinstance(exc, DBAPIError):
        return False
    return (
        _mysql_code(exc) in _MYSQL_READ_ONLY
        or _sqlstate(exc) == _PG_READ_ONLY
        or _SQLITE_READ_ONLY.search(str(exc.orig)) is not None
    )


def is_forbidden(exc: Exception) -> bool:
    """
    Whether the role may not do this with a table.
    """
    return isinstance(exc, DBAPIError) and (_mysql_code(exc) in _MYSQL_FORBIDDEN or _sqlstate(exc) == _PG_FORBIDDEN)


def is_timeout(exc: Exception) -> bool:
    """
    Whether the server has ended a statement that took longer than it lets one take.
    """
    return isinstance(exc, DBAPIError) and (_mysql_code(exc) in _MYSQL_TIMEOUT or _sqlstate(exc) == _PG_TIMEOUT)


def is_being_changed(exc: Exception) -> bool:
    """
    Whether a table could not be looked at because somebody else is changing it right now: MariaDB's alone.
    """
    return isinstance(exc, DBAPIError) and _mysql_code(exc) == _MYSQL_CHANGING


def is_there_already(exc: Exception) -> bool:
    """
    Whether a table, a column, an index or a row is there that was to be made.
    """
    if not isinstance(exc, DBAPIError):
        return False
    return (
        _mysql_code(exc) in _MYSQL_THERE
        or _sqlstate(exc) in _PG_THERE
        or _SQLITE_THERE.search(str(exc.orig)) is not None
    )


def is_full(exc: Exception) -> bool:
    """
    Whether the database has no room on its disk.
    """
    if not isinstance(exc, DBAPIError):
        return False
    return (
        _mysql_code(exc) in _MYSQL_FULL or _sqlstate(exc) == _PG_FULL or _SQLITE_FULL.search(str(exc.orig)) is not None
    )


def is_unopened(exc: Exception) -> bool:
    """
    Whether the file of an SQLite database, or one that it needs beside it, could not be opened.
    """
    return isinstance(exc, DBAPIError) and _SQLITE_UNOPENED.search(str(exc.orig)) is not None


_ADVICE: dict[Callable[[Exception], bool], str] = {
    is_missing_schema: (
        "The usage tables are missing or older than this version. "
        "Run `tokenbudget-mw migrate` (Django: `manage.py migrate tokenbudget_mw_django`, with `--database ALIAS` where the books "
        "have a database of their own)."
    ),
    is_read_only: (
        "The database only reads at present, as a replica does. If it stays so, give the URL of the server that writes."
    ),
    is_forbidden: (
        "The database's role lacks rights. The app's needs SELECT, INSERT, UPDATE and DELETE on the tables named "
        "tokenbudget_…, that of migrations owns them."
    ),
    is_timeout: (
        "The database ends what takes too long. Give the role a longer statement_timeout (MariaDB: max_statement_time)."
    ),
    is_full: "The database's disk is full. Make room.",
    is_unopened: (
        "The folder of the SQLite file must be there, and be one that this process may write to; a copy that can only be read "
        "is sqlite:///file:/path/books.db?immutable=1&uri=true."
    ),
}


def advice(exc: Exception) -> str | None:
    """
    Say what somebody has to do about *exc*; None where it may pass, or where its own words must do.
    """
    return next((what for is_it, what in _ADVICE.items() if is_it(exc)), None)
