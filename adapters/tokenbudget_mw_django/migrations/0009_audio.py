"""
Tokens of audio on usage rows.
"""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("tokenbudget_mw_django", "0008_periods")]

    operations = [
        migrations.AddField(model_name="usage", name="audio_input_tokens", field=models.BigIntegerField(null=True)),
        migrations.AddField(model_name="usage", name="audio_output_tokens", field=models.BigIntegerField(null=True)),
    ]
