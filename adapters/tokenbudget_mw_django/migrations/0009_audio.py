"""
Tokens of audio on usage rows.
"""

from __future__ import annotations

from django.db import migrations, models

from tokenbudget_mw_django.migrations._guard import keep_rows, one_chain
from tokenbudget_mw_django.migrations._tables import AddColumn


class Migration(migrations.Migration):
    dependencies = [("tokenbudget_mw_django", "0008_periods")]

    operations = [
        one_chain(),
        AddColumn(model_name="usage", name="audio_input_tokens", field=models.BigIntegerField(null=True)),
        AddColumn(model_name="usage", name="audio_output_tokens", field=models.BigIntegerField(null=True)),
        keep_rows({"tokenbudget_usage": "audio_input_tokens"}),
        keep_rows({"tokenbudget_usage": "audio_output_tokens"}),
    ]
