"""
Column types that hold the same value on every database.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, DateTime, Integer, Numeric, String, Text, types
from sqlalchemy.dialects import mysql

if TYPE_CHECKING:
    from sqlalchemy import Dialect
    from sqlalchemy.types import TypeEngine

__all__ = [
    "MAX_BIGINT",
    "MYSQL_CHARSET",
    "MYSQL_COLLATION",
    "Moment",
    "Pico",
    "Total",
    "document",
    "serial",
    "text",
    "varchar",
]

MAX_BIGINT = 2**63 - 1

MYSQL_CHARSET = "utf8mb4"
MYSQL_COLLATION = "utf8mb4_bin"
"""Ids differ by case (``aB`` and ``Ab`` are two keys), so nothing of ours is compared by a language's rules."""

_MYSQL = ("mysql", "mariadb")


def varchar(length: int) -> TypeEngine[str]:
    """
    Return a string type of at most *length* characters, compared byte by byte.
    """
    binary = mysql.VARCHAR(length, charset=MYSQL_CHARSET, collation=MYSQL_COLLATION)
    return String(length).with_variant(binary, *_MYSQL)


def text() -> TypeEngine[str]:
    """
    Return the type of a longer text (64 KiB on MySQL).
    """
    return Text().with_variant(mysql.TEXT(charset=MYSQL_CHARSET, collation=MYSQL_COLLATION), *_MYSQL)


def document() -> TypeEngine[str]:
    """
    Return the type of a text without a bound (16 MiB on MySQL).
    """
    return Text().with_variant(mysql.MEDIUMTEXT(charset=MYSQL_CHARSET, collation=MYSQL_COLLATION), *_MYSQL)


def serial() -> TypeEngine[int]:
    """
    Return the type of a primary key that the database counts up; SQLite does so for its own ``INTEGER`` only.
    """
    return BigInteger().with_variant(Integer(), "sqlite")


class Moment(types.TypeDecorator[datetime]):
    """
    A moment in UTC, to the microsecond; aware in Python whatever the database keeps.

    ``timestamptz`` on PostgreSQL, ``DATETIME(6)`` on MySQL, ISO text on SQLite, the latter two without a zone.
    """

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """
        Pick the widest type of the database.
        """
        if dialect.name in _MYSQL:
            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        return dialect.type_descriptor(DateTime(timezone=dialect.name == "postgresql"))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """
        Turn an aware moment into what the database keeps.
        """
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a moment needs a time zone, got the naive {value!r}")
        moment = value.astimezone(UTC)
        return moment if dialect.name == "postgresql" else moment.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """
        Turn what the database kept into an aware moment.
        """
        del dialect
        if value is None or value.tzinfo is UTC:
            return value
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Pico(types.TypeDecorator[int]):
    """
    Money in whole pico-dollars, as a Python ``int``.

    ``NUMERIC(38, 0)`` where that is exact; on SQLite, whose NUMERIC is a float, a 64-bit integer (9.2 million dollars).
    """

    impl = Numeric
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """
        Pick the type of the database that keeps every digit.
        """
        if dialect.name == "sqlite":
            return dialect.type_descriptor(BigInteger())
        return dialect.type_descriptor(Numeric(38, 0))

    def process_bind_param(self, value: int | None, dialect: Dialect) -> int | None:
        """
        Let whole numbers pass, and nothing else: a float has lost digits already.
        """
        del dialect
        if value is not None and type(value) is not int:
            raise TypeError(f"money and totals are whole numbers (int), got {type(value).__name__}")
        return value

    def process_result_value(self, value: Any, dialect: Dialect) -> int | None:
        """
        Return the driver's number as an ``int``.
        """
        del dialect
        return None if value is None else int(value)


class Total(Pico):
    """
    A sum of whole numbers, as wide as money: what one row may hold at most, a day of rows can exceed.
    """

    cache_ok = True
