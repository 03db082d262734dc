"""
Adds an index to a table that is in use; on PostgreSQL concurrently, for which the migration must not be atomic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db.migrations.operations import AddIndex

from tokenbudget_mw.database.online_indexes import OnlineIndex, create

if TYPE_CHECKING:
    from collections.abc import Sequence

    from django.db.backends.base.schema import BaseDatabaseSchemaEditor
    from django.db.migrations.state import ProjectState
    from django.db.models import Index

__all__ = ["AddIndexOnline"]


class AddIndexOnline(AddIndex):
    """
    Django's own operation, whose index is made as `online_indexes.create` does.

    Args:
        model_name: The model's.

        index: Its name, and its columns in their order.

        where: Which rows are in it, in SQL, where the database knows partial indexes.
    """

    atomic = False

    def __init__(self, model_name: str, index: Index, where: str = "") -> None:
        super().__init__(model_name, index)
        self.where = where

    def deconstruct(self) -> tuple[str, Sequence[Any], dict[str, Any]]:
        """
        Return how it is written in a migration.
        """
        name, arguments, options = super().deconstruct()
        return name, arguments, {**options, "where": self.where}

    def database_forwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        """
        Make the index.
        """
        del from_state
        model = to_state.apps.get_model(app_label, self.model_name)
        if not self.allow_migrate_model(schema_editor.connection.alias, model):
            return
        index = OnlineIndex(self.index.name, model._meta.db_table, tuple(self.index.fields), self.where)  # noqa: SLF001
        vendor = schema_editor.connection.vendor
        if schema_editor.collect_sql:  # it is only printed
            schema_editor.execute(index.sql(vendor, how="CONCURRENTLY " if vendor == "postgresql" else ""))
            return
        with schema_editor.connection.cursor() as cursor:

            def run(sql: str) -> Sequence[Any]:
                cursor.execute(sql)
                return cursor.fetchall() if cursor.description else ()

            create(run, vendor, index)
