"""
What rows cost more or less than was charged at first.
"""

from __future__ import annotations

from django.db import migrations, models

from tokenbudget_mw_django.fields import MomentField, VarcharField
from tokenbudget_mw_django.migrations._guard import keep_rows, one_chain
from tokenbudget_mw_django.migrations._tables import CreateTable


class Migration(migrations.Migration):
    dependencies = [("tokenbudget_mw_django", "0005_tariffs")]

    operations = [
        one_chain(),
        CreateTable(
            name="Correction",
            fields=[
                ("id", VarcharField(max_length=36, primary_key=True, serialize=False)),
                ("usage_id", VarcharField(max_length=36)),
                ("number", models.IntegerField()),
                ("created_at", MomentField()),
                ("used_at", MomentField()),
                ("account", VarcharField(max_length=255, null=True)),
                ("key_id", VarcharField(max_length=128, null=True)),
                ("model", VarcharField(max_length=255)),
                ("route", VarcharField(max_length=255, null=True)),
                ("change_pico", models.BigIntegerField()),
                ("cost_pico", models.BigIntegerField()),
                ("price_id", VarcharField(max_length=255, null=True)),
                ("write_id", VarcharField(max_length=36)),
                ("note", VarcharField(max_length=512, null=True)),
            ],
            options={
                "verbose_name": "correction",
                "verbose_name_plural": "corrections",
                "db_table": "tokenbudget_corrections",
                "indexes": [models.Index(fields=["used_at"], name="tokenbudget_correction_used_ix")],
                "constraints": [
                    models.UniqueConstraint(fields=("usage_id", "number"), name="tokenbudget_corrections_uq"),
                ],
            },
        ),
        keep_rows({"tokenbudget_corrections": ""}),
    ]
