"""
Tokens of audio on usage rows.
"""

from __future__ import annotations

from django.db import migrations, models

from tokenbudget_mw_django.migrations._tables import AddColumn


class Migration(migrations.Migration):
    dependencies = [("tokenbudget_mw_django", "0008_periods")]

    operations = [
        AddColumn(model_name="usage", name="audio_input_tokens", field=models.BigIntegerField(null=True)),
        AddColumn(model_name="usage", name="audio_output_tokens", field=models.BigIntegerField(null=True)),
    ]
