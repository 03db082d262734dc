"""
An index of the rows without a price of their own. It is made while the table is in use.
"""

from __future__ import annotations

from django.db import migrations, models

from tokenbudget_mw_django.migrations._guard import one_chain
from tokenbudget_mw_django.migrations._indexes import AddIndexOnline


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("tokenbudget_mw_django", "0011_latencies")]

    operations = [
        one_chain(),
        AddIndexOnline(
            "usage",
            models.Index(fields=["price_kind", "created_at"], name="tokenbudget_usage_unpriced_ix"),
            where="price_kind <> 'known'",
        ),
    ]
