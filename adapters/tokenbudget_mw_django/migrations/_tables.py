"""
Django's operations that make tables and columns, which can be begun again.

A migration that was killed may leave what it had made: MySQL and MariaDB commit with every statement that changes the schema,
and on every database Django notes a migration that makes indexes behind the transaction that makes them. So what is left is
looked for, and not made again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db.migrations.operations import AddField, CreateModel

if TYPE_CHECKING:
    from django.db.backends.base.schema import BaseDatabaseSchemaEditor
    from django.db.migrations.state import ProjectState

__all__ = ["AddColumn", "CreateTable"]


class CreateTable(CreateModel):
    """
    Makes a table, unless it is there with these columns. One with others is not ours: making it fails.
    """

    def database_forwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        """
        Make the table, or the indexes that one which is there has not.
        """
        model, connection = to_state.apps.get_model(app_label, self.name), schema_editor.connection
        options = model._meta  # noqa: SLF001 - public by Django's docs
        table, wanted = options.db_table, {field.column for field in options.local_fields}
        if not self.allow_migrate_model(connection.alias, model) or _columns(schema_editor, table) != wanted:
            super().database_forwards(app_label, schema_editor, from_state, to_state)
            return
        with connection.cursor() as cursor:
            there = connection.introspection.get_constraints(cursor, table)
        schema_editor.deferred_sql.extend(
            index.create_sql(model, schema_editor) for index in options.indexes if index.name not in there
        )


class AddColumn(AddField):
    """
    Adds a column, unless it is there.
    """

    def database_forwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        """
        Add the column.
        """
        model = to_state.apps.get_model(app_label, self.model_name)
        options = model._meta  # noqa: SLF001 - as above
        column = options.get_field(self.name).column
        if column not in _columns(schema_editor, options.db_table):
            super().database_forwards(app_label, schema_editor, from_state, to_state)


def _columns(schema_editor: BaseDatabaseSchemaEditor, table: str) -> set[str]:
    """
    Return the columns of *table* that an earlier run may have left; none where it is not there, or SQL is only printed.
    """
    if schema_editor.collect_sql:
        return set()
    connection = schema_editor.connection
    with connection.cursor() as cursor:
        if table not in connection.introspection.table_names(cursor):
            return set()
        return {column.name for column in connection.introspection.get_table_description(cursor, table)}
