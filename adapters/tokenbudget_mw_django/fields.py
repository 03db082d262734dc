"""
Model fields with the column types of `tokenbudget_mw.database.types`, whatever the host's ``USE_TZ`` and charset are.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from django.db import models

from tokenbudget_mw.database.types import MYSQL_CHARSET, MYSQL_COLLATION

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

__all__ = ["DocumentField", "LongTextField", "MomentField", "PicoField", "VarcharField"]

_MYSQL_TEXT = f"CHARACTER SET {MYSQL_CHARSET} COLLATE {MYSQL_COLLATION}"


class VarcharField(models.CharField):
    """
    Text up to a length, compared byte by byte.
    """

    def db_type(self, connection: BaseDatabaseWrapper) -> str:
        """
        Return the column's type. On PostgreSQL its long name, for which Django adds no second index.
        """
        if connection.vendor == "mysql":
            return f"varchar({self.max_length}) {_MYSQL_TEXT}"
        if connection.vendor == "postgresql":
            return f"character varying({self.max_length})"
        return f"varchar({self.max_length})"


class LongTextField(models.TextField):
    """
    Text up to 64 KiB.
    """

    def db_type(self, connection: BaseDatabaseWrapper) -> str:
        """
        Return the column's type.
        """
        return f"text {_MYSQL_TEXT}" if connection.vendor == "mysql" else "text"


class DocumentField(models.TextField):
    """
    Text without a bound (16 MiB on MySQL).
    """

    def db_type(self, connection: BaseDatabaseWrapper) -> str:
        """
        Return the column's type.
        """
        return f"mediumtext {_MYSQL_TEXT}" if connection.vendor == "mysql" else "text"


class MomentField(models.DateTimeField):
    """
    A moment in UTC, always aware in Python.
    """

    def get_internal_type(self) -> str:
        """
        Name Django's type, as its functions of dates and its differences of moments know no other.
        """
        return "DateTimeField"

    def db_type(self, connection: BaseDatabaseWrapper) -> str:
        """
        Return the column's type.
        """
        return {"postgresql": "timestamp with time zone", "mysql": "datetime(6)"}.get(connection.vendor, "datetime")

    def select_format(self, compiler: Any, sql: str, params: Any) -> tuple[str, Any]:
        """
        Ask PostgreSQL for UTC: without ``USE_TZ``, Django's loader gives the wall clock of the host's zone, where an hour
        in autumn means two moments. What a subquery selects is compared as it is, or selected again.
        """
        if compiler.connection.vendor == "postgresql" and not compiler.query.subquery:
            sql = f"{sql} AT TIME ZONE 'UTC'"
        return sql, params

    def from_db_value(self, value: Any, _expression: Any, connection: BaseDatabaseWrapper) -> datetime | None:
        """
        Return what the database kept as an aware moment.
        """
        if value is None:
            return None
        moment: datetime = value
        # where the column knows no zone, Django has given it the one that DATABASES names
        is_utc = moment.tzinfo is None or (connection.vendor != "postgresql" and moment.tzinfo == connection.timezone)
        return moment.replace(tzinfo=UTC) if is_utc else moment.astimezone(UTC)

    def get_prep_value(self, value: Any) -> datetime | None:
        """
        Return an aware moment; one without a zone is taken for UTC.
        """
        moment: datetime | None = self.to_python(value)
        if moment is not None and moment.tzinfo is None:
            return moment.replace(tzinfo=UTC)
        return moment

    def get_db_prep_value(self, value: Any, connection: BaseDatabaseWrapper, prepared: bool = False) -> Any:
        """
        Return what the database keeps.
        """
        moment = value if prepared else self.get_prep_value(value)
        if moment is None or connection.vendor == "postgresql":
            return moment
        return moment.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")


class PicoField(models.Field):
    """
    Money in whole pico-dollars, as an ``int``.
    """

    def get_internal_type(self) -> str:
        """
        Name a type of our own.
        """
        return "PicoField"

    def db_type(self, connection: BaseDatabaseWrapper) -> str:
        """
        Return the column's type; SQLite's NUMERIC is a float, so money is an integer there.
        """
        return "bigint" if connection.vendor == "sqlite" else "numeric(38, 0)"

    def from_db_value(self, value: Any, _expression: Any, _connection: BaseDatabaseWrapper) -> int | None:
        """
        Return the driver's number as an ``int``.
        """
        return None if value is None else int(value)

    def to_python(self, value: Any) -> int | None:
        """
        Return *value* as an ``int``.
        """
        return None if value is None else int(value)

    def get_prep_value(self, value: Any) -> int | None:
        """
        Return *value* as an ``int``.
        """
        return self.to_python(value)
