"""
Usage records that the database refused for good.
"""

from __future__ import annotations

from django.db import migrations, models

from tokenbudget_mw_django.fields import LongTextField, MomentField, VarcharField
from tokenbudget_mw_django.migrations._guard import keep_rows, one_chain
from tokenbudget_mw_django.migrations._tables import CreateTable


class Migration(migrations.Migration):
    dependencies = [("tokenbudget_mw_django", "0009_audio")]

    operations = [
        one_chain(),
        CreateTable(
            name="DeadLetter",
            fields=[
                ("id", VarcharField(max_length=36, primary_key=True, serialize=False)),
                ("kept_at", MomentField()),
                ("error", VarcharField(max_length=64)),
                ("record", LongTextField()),
            ],
            options={
                "verbose_name": "dead letter",
                "verbose_name_plural": "dead letters",
                "db_table": "tokenbudget_dead_letters",
                "indexes": [models.Index(fields=["kept_at", "id"], name="tokenbudget_dead_letters_ix")],
            },
        ),
        keep_rows({"tokenbudget_dead_letters": ""}),
    ]
