"""
Keeps the two migration chains apart: tables that Alembic made stay Alembic's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenbudget_mw.errors import ConfigurationError

if TYPE_CHECKING:
    from django.db.backends.base.schema import BaseDatabaseSchemaEditor

__all__ = ["refuse_second_chain"]

_ALEMBIC_VERSION_TABLE = "tokenbudget_alembic_version"


def refuse_second_chain(_apps: Any, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """
    Stop where `tokenbudget-mw migrate` (Alembic) has made the tables in this database.
    """
    connection = schema_editor.connection
    with connection.cursor() as cursor:
        if _ALEMBIC_VERSION_TABLE not in connection.introspection.table_names(cursor):
            return
        cursor.execute(f"SELECT COUNT(*) FROM {_ALEMBIC_VERSION_TABLE}")  # noqa: S608 - a name of our own
        (revisions,) = cursor.fetchone()
    if revisions:
        raise ConfigurationError(
            "Alembic made the tokenbudget tables in this database, so Alembic keeps them: run `tokenbudget-mw migrate` "
            "instead, and `manage.py migrate --fake tokenbudget_mw_django` once to tell Django."
        )
