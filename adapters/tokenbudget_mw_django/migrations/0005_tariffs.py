"""
Prices of the user's own.
"""

from __future__ import annotations

from django.db import migrations, models

from tokenbudget_mw_django.fields import MomentField, VarcharField
from tokenbudget_mw_django.migrations._guard import keep_rows, one_chain
from tokenbudget_mw_django.migrations._tables import CreateTable


class Migration(migrations.Migration):
    dependencies = [("tokenbudget_mw_django", "0004_key_limits")]

    operations = [
        one_chain(),
        CreateTable(
            name="Tariff",
            fields=[
                ("id", VarcharField(max_length=255, primary_key=True, serialize=False)),
                ("model", VarcharField(max_length=128)),
                ("purpose", VarcharField(max_length=32, null=True)),
                ("completion_window", VarcharField(max_length=16, null=True)),
                ("service_tier", VarcharField(max_length=64, null=True)),
                ("above_input", models.BigIntegerField()),
                ("input_pico", models.BigIntegerField()),
                ("output_pico", models.BigIntegerField()),
                ("cache_read_pico", models.BigIntegerField(null=True)),
                ("cache_write_pico", models.BigIntegerField(null=True)),
                ("cache_write_1h_pico", models.BigIntegerField(null=True)),
                ("reasoning_pico", models.BigIntegerField(null=True)),
                ("audio_input_pico", models.BigIntegerField(null=True)),
                ("audio_output_pico", models.BigIntegerField(null=True)),
                ("valid_from", MomentField()),
                ("valid_until", MomentField(null=True)),
                ("created_at", MomentField()),
                ("note", VarcharField(max_length=512, null=True)),
            ],
            options={
                "verbose_name": "tariff",
                "verbose_name_plural": "tariffs",
                "db_table": "tokenbudget_tariffs",
                "indexes": [models.Index(fields=["model", "valid_from"], name="tokenbudget_tariffs_model_ix")],
            },
        ),
        keep_rows({"tokenbudget_tariffs": ""}),
    ]
