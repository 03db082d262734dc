"""
How many requests took how long, filled from the rows that are there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import migrations, models

from tokenbudget_mw.database.backfill import fill_latencies
from tokenbudget_mw_django.fields import MomentField, VarcharField
from tokenbudget_mw_django.migrations._guard import one_chain
from tokenbudget_mw_django.migrations._tables import CreateTable

if TYPE_CHECKING:
    from django.db.backends.base.schema import BaseDatabaseSchemaEditor


def _fill(_apps: Any, schema_editor: BaseDatabaseSchemaEditor) -> None:
    with schema_editor.connection.cursor() as cursor:
        for statement in fill_latencies(schema_editor.connection.vendor):
            cursor.execute(statement)


def _create(name: str, start: str) -> CreateTable:
    return CreateTable(
        name=name,
        fields=[
            ("id", models.BigAutoField(primary_key=True, serialize=False)),
            (start, MomentField()),
            ("route", VarcharField(max_length=255)),
            ("up_to_us", models.BigIntegerField()),
            ("requests", models.BigIntegerField()),
        ],
        options={
            "verbose_name": f"latencies by {start}",
            "verbose_name_plural": f"latencies by {start}",
            "db_table": f"tokenbudget_latency_{start}s",
            "constraints": [
                models.UniqueConstraint(fields=(start, "route", "up_to_us"), name=f"tokenbudget_latency_{start}s_uq"),
            ],
        },
    )


class Migration(migrations.Migration):
    dependencies = [("tokenbudget_mw_django", "0010_dead_letters")]

    operations = [
        one_chain(),
        _create("LatencyHour", "hour"),
        _create("LatencyDay", "day"),
        migrations.RunPython(_fill, migrations.RunPython.noop),
    ]
