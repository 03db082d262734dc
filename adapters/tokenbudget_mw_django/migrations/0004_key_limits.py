"""
Limits that a key has of its own.
"""

from __future__ import annotations

from django.db import migrations

from tokenbudget_mw_django.fields import LongTextField
from tokenbudget_mw_django.migrations._guard import keep_rows, one_chain
from tokenbudget_mw_django.migrations._tables import AddColumn


class Migration(migrations.Migration):
    dependencies = [("tokenbudget_mw_django", "0003_retention")]

    operations = [
        one_chain(),
        AddColumn(model_name="key", name="limits", field=LongTextField(null=True)),
        keep_rows({"tokenbudget_keys": "limits"}),
    ]
