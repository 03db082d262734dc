"""
Invoices of more than 64 KiB, on MySQL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import migrations

from tokenbudget_mw_django.fields import DocumentField, LongTextField
from tokenbudget_mw_django.migrations._guard import one_chain

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.db.backends.base.schema import BaseDatabaseSchemaEditor


def _change_to(field: DocumentField | LongTextField) -> Callable[[Any, BaseDatabaseSchemaEditor], None]:
    """
    Return what gives the column its type where the two differ; Django would make the whole table anew on SQLite.
    """

    def change(_apps: Any, schema_editor: BaseDatabaseSchemaEditor) -> None:
        connection = schema_editor.connection
        if connection.vendor == "mysql":
            schema_editor.execute(
                f"ALTER TABLE tokenbudget_periods MODIFY document {field.db_type(connection)} NOT NULL"
            )

    return change


class Migration(migrations.Migration):
    dependencies = [("tokenbudget_mw_django", "0012_unpriced")]

    operations = [
        one_chain(),
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunPython(_change_to(DocumentField()), _change_to(LongTextField()))],
            state_operations=[migrations.AlterField(model_name="period", name="document", field=DocumentField())],
        ),
    ]
