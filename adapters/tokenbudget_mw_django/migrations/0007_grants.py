"""
Money that was given for a time.
"""

from __future__ import annotations

from django.db import migrations, models

from tokenbudget_mw_django.fields import MomentField, PicoField, VarcharField
from tokenbudget_mw_django.migrations._guard import keep_rows, one_chain
from tokenbudget_mw_django.migrations._tables import CreateTable


class Migration(migrations.Migration):
    dependencies = [("tokenbudget_mw_django", "0006_corrections")]

    operations = [
        one_chain(),
        CreateTable(
            name="Grant",
            fields=[
                ("id", VarcharField(max_length=36, primary_key=True, serialize=False)),
                ("account", VarcharField(max_length=255)),
                ("amount_pico", PicoField()),
                ("expires_at", MomentField()),
                ("expired_at", MomentField(null=True)),
                ("unused_pico", PicoField(null=True)),
            ],
            options={
                "verbose_name": "grant",
                "verbose_name_plural": "grants",
                "db_table": "tokenbudget_grants",
                "indexes": [
                    models.Index(fields=["account"], name="tokenbudget_grants_account_ix"),
                    models.Index(fields=["expired_at", "expires_at"], name="tokenbudget_grants_due_ix"),
                ],
            },
        ),
        keep_rows({"tokenbudget_grants": ""}),
    ]
