"""
What stops a migration: that the other chain keeps the tables, or that a step back would delete what is nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from django.db import migrations

from tokenbudget_mw.database.backward import refuse_loss
from tokenbudget_mw.errors import ConfigurationError

if TYPE_CHECKING:
    from django.db.backends.base.schema import BaseDatabaseSchemaEditor

__all__ = ["keep_rows", "one_chain"]

_ALEMBIC_VERSION_TABLE = "tokenbudget_alembic_version"


def one_chain() -> migrations.RunPython:
    """
    Return the operation with which every migration of ours begins: it keeps the two chains apart.
    """
    return migrations.RunPython(_refuse_second_chain, migrations.RunPython.noop)


def keep_rows(doomed: Mapping[str, str]) -> migrations.RunPython:
    """
    Return the operation with which a migration ends whose way back would delete *doomed*, see `refuse_loss`.
    """

    def refuse(_apps: Any, schema_editor: BaseDatabaseSchemaEditor) -> None:
        with schema_editor.connection.cursor() as cursor:

            def run(sql: str) -> Sequence[Any]:
                cursor.execute(sql)
                rows: Sequence[Any] = cursor.fetchall()
                return rows

            refuse_loss(run, doomed)

    return migrations.RunPython(migrations.RunPython.noop, refuse)


def _refuse_second_chain(_apps: Any, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """
    Stop where `tokenbudget-mw migrate` (Alembic) keeps the tables in this database.
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
            "instead, and then `manage.py migrate --fake tokenbudget_mw_django` to tell Django. To have Django keep them from "
            f"then on, run both and drop the table {_ALEMBIC_VERSION_TABLE}."
        )
