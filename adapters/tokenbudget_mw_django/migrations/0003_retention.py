"""
What retention has deleted.
"""

from __future__ import annotations

from django.db import migrations, models

from tokenbudget_mw_django.fields import MomentField, PicoField, VarcharField
from tokenbudget_mw_django.migrations._guard import keep_rows, one_chain
from tokenbudget_mw_django.migrations._tables import CreateTable


class Migration(migrations.Migration):
    dependencies = [("tokenbudget_mw_django", "0002_rollups")]

    operations = [
        one_chain(),
        CreateTable(
            name="PurgedDay",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("day", MomentField()),
                ("account", VarcharField(max_length=255)),
                ("model", VarcharField(max_length=255)),
                ("requests", models.BigIntegerField()),
                ("input_tokens", PicoField()),
                ("output_tokens", PicoField()),
                ("cache_read_tokens", PicoField()),
                ("cache_write_tokens", PicoField()),
                ("cache_write_1h_tokens", PicoField()),
                ("reasoning_tokens", PicoField()),
                ("cost_pico", PicoField()),
            ],
            options={
                "verbose_name": "purged usage",
                "verbose_name_plural": "purged usage",
                "db_table": "tokenbudget_purged_days",
                "constraints": [
                    models.UniqueConstraint(fields=("account", "day", "model"), name="tokenbudget_purged_days_uq"),
                ],
            },
        ),
        CreateTable(
            name="PurgedRange",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("instance_id", VarcharField(max_length=36)),
                ("first_sequence", models.BigIntegerField()),
                ("last_sequence", models.BigIntegerField()),
            ],
            options={
                "verbose_name": "purged range",
                "verbose_name_plural": "purged ranges",
                "db_table": "tokenbudget_purged_ranges",
                "constraints": [
                    models.UniqueConstraint(
                        fields=("instance_id", "first_sequence"), name="tokenbudget_purged_ranges_uq"
                    ),
                ],
            },
        ),
        keep_rows({"tokenbudget_purged_days": "", "tokenbudget_purged_ranges": ""}),
    ]
