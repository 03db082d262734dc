"""
Rollups of usage, filled from the rows that are there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import migrations, models

from tokenbudget_mw.database.backfill import fill_rollups
from tokenbudget_mw_django.fields import MomentField, PicoField, VarcharField
from tokenbudget_mw_django.migrations._guard import one_chain
from tokenbudget_mw_django.migrations._tables import CreateTable

if TYPE_CHECKING:
    from django.db.backends.base.schema import BaseDatabaseSchemaEditor


def _fill(_apps: Any, schema_editor: BaseDatabaseSchemaEditor) -> None:
    with schema_editor.connection.cursor() as cursor:
        for statement in fill_rollups(schema_editor.connection.vendor):
            cursor.execute(statement)


class Migration(migrations.Migration):
    dependencies = [("tokenbudget_mw_django", "0001_initial")]

    operations = [
        one_chain(),
        CreateTable(
            name="RollupSubject",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("day", MomentField()),
                ("account", VarcharField(max_length=255)),
                ("key_id", VarcharField(max_length=128)),
                ("model", VarcharField(max_length=255)),
                ("requests", models.BigIntegerField()),
                ("refused", models.BigIntegerField()),
                ("errors", models.BigIntegerField()),
                ("input_tokens", PicoField()),
                ("output_tokens", PicoField()),
                ("cache_read_tokens", PicoField()),
                ("cache_write_tokens", PicoField()),
                ("cache_write_1h_tokens", PicoField()),
                ("reasoning_tokens", PicoField()),
                ("duration_us", PicoField()),
                ("cost_pico", PicoField()),
            ],
            options={
                "verbose_name": "usage by subject",
                "verbose_name_plural": "usage by subject",
                "db_table": "tokenbudget_rollup_subjects",
                "indexes": [
                    models.Index(fields=["key_id", "day"], name="tokenbudget_rollup_key_ix"),
                    models.Index(fields=["day"], name="tokenbudget_rollup_day_ix"),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("account", "day", "key_id", "model"), name="tokenbudget_rollup_subjects_uq"
                    ),
                ],
            },
        ),
        CreateTable(
            name="RollupHour",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("hour", MomentField()),
                ("model", VarcharField(max_length=255)),
                ("route", VarcharField(max_length=255)),
                ("requests", models.BigIntegerField()),
                ("refused", models.BigIntegerField()),
                ("errors", models.BigIntegerField()),
                ("input_tokens", PicoField()),
                ("output_tokens", PicoField()),
                ("cache_read_tokens", PicoField()),
                ("cache_write_tokens", PicoField()),
                ("cache_write_1h_tokens", PicoField()),
                ("reasoning_tokens", PicoField()),
                ("duration_us", PicoField()),
                ("cost_pico", PicoField()),
            ],
            options={
                "verbose_name": "usage by hour",
                "verbose_name_plural": "usage by hour",
                "db_table": "tokenbudget_rollup_hours",
                "constraints": [
                    models.UniqueConstraint(fields=("hour", "model", "route"), name="tokenbudget_rollup_hours_uq"),
                ],
            },
        ),
        CreateTable(
            name="RollupDay",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("day", MomentField()),
                ("model", VarcharField(max_length=255)),
                ("route", VarcharField(max_length=255)),
                ("requests", models.BigIntegerField()),
                ("refused", models.BigIntegerField()),
                ("errors", models.BigIntegerField()),
                ("input_tokens", PicoField()),
                ("output_tokens", PicoField()),
                ("cache_read_tokens", PicoField()),
                ("cache_write_tokens", PicoField()),
                ("cache_write_1h_tokens", PicoField()),
                ("reasoning_tokens", PicoField()),
                ("duration_us", PicoField()),
                ("cost_pico", PicoField()),
            ],
            options={
                "verbose_name": "usage by day",
                "verbose_name_plural": "usage by day",
                "db_table": "tokenbudget_rollup_days",
                "constraints": [
                    models.UniqueConstraint(fields=("day", "model", "route"), name="tokenbudget_rollup_days_uq"),
                ],
            },
        ),
        migrations.RunPython(_fill, migrations.RunPython.noop),
    ]
