"""
Billing periods that are closed.
"""

from __future__ import annotations

from django.db import migrations, models

from tokenbudget_mw_django.fields import LongTextField, MomentField, PicoField, VarcharField
from tokenbudget_mw_django.migrations._guard import keep_rows, one_chain
from tokenbudget_mw_django.migrations._tables import CreateTable


class Migration(migrations.Migration):
    dependencies = [("tokenbudget_mw_django", "0007_grants")]

    operations = [
        one_chain(),
        CreateTable(
            name="Period",
            fields=[
                ("id", VarcharField(max_length=36, primary_key=True, serialize=False)),
                ("account", VarcharField(max_length=255)),
                ("starts_at", MomentField()),
                ("ends_at", MomentField()),
                ("closed_at", MomentField()),
                ("usage_pico", PicoField()),
                ("refunds_pico", PicoField()),
                ("remainder_pico", PicoField()),
                ("document", LongTextField()),
                ("digest", VarcharField(max_length=64)),
            ],
            options={
                "verbose_name": "closed period",
                "verbose_name_plural": "closed periods",
                "db_table": "tokenbudget_periods",
                "constraints": [
                    models.UniqueConstraint(fields=("account", "starts_at"), name="tokenbudget_periods_uq"),
                ],
            },
        ),
        keep_rows({"tokenbudget_periods": ""}),
    ]
