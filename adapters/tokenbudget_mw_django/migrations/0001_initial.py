"""
Usage, ledger, balances and keys.
"""

from __future__ import annotations

from django.db import migrations, models

from tokenbudget_mw_django.fields import LongTextField, MomentField, PicoField, VarcharField
from tokenbudget_mw_django.migrations._guard import keep_rows, one_chain
from tokenbudget_mw_django.migrations._tables import CreateTable


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        one_chain(),
        CreateTable(
            name="Balance",
            fields=[
                ("account", VarcharField(max_length=255, primary_key=True, serialize=False)),
                ("balance_pico", PicoField()),
                ("updated_at", MomentField()),
            ],
            options={
                "verbose_name": "balance",
                "verbose_name_plural": "balances",
                "db_table": "tokenbudget_balances",
            },
        ),
        CreateTable(
            name="Key",
            fields=[
                ("kid", VarcharField(max_length=32, primary_key=True, serialize=False)),
                ("digest", VarcharField(max_length=128)),
                ("pepper_version", models.IntegerField()),
                ("last4", VarcharField(max_length=8)),
                ("name", VarcharField(max_length=255)),
                ("user_id", VarcharField(max_length=255, null=True)),
                ("team_id", VarcharField(max_length=255, null=True)),
                ("project_id", VarcharField(max_length=255, null=True)),
                ("tenant_id", VarcharField(max_length=255, null=True)),
                ("plan", VarcharField(max_length=64, null=True)),
                ("purpose", VarcharField(max_length=32)),
                ("status", VarcharField(max_length=16)),
                ("created_at", MomentField()),
                ("expires_at", MomentField(null=True)),
                ("revoked_at", MomentField(null=True)),
                ("rotated_to", VarcharField(max_length=32, null=True)),
                ("last_used_at", MomentField(null=True)),
                ("tags", LongTextField()),
            ],
            options={
                "verbose_name": "key",
                "verbose_name_plural": "keys",
                "db_table": "tokenbudget_keys",
            },
        ),
        CreateTable(
            name="LedgerEntry",
            fields=[
                ("id", VarcharField(max_length=36, primary_key=True, serialize=False)),
                ("account", VarcharField(max_length=255)),
                ("contra", VarcharField(max_length=255)),
                ("amount_pico", PicoField()),
                ("kind", VarcharField(max_length=16)),
                ("source_id", VarcharField(max_length=384)),
                ("write_id", VarcharField(max_length=36, null=True)),
                ("instance_id", VarcharField(max_length=36, null=True)),
                ("first_sequence", models.BigIntegerField(null=True)),
                ("last_sequence", models.BigIntegerField(null=True)),
                ("entries", models.IntegerField()),
                ("created_at", MomentField()),
                ("note", VarcharField(max_length=512, null=True)),
            ],
            options={
                "verbose_name": "ledger entry",
                "verbose_name_plural": "ledger",
                "db_table": "tokenbudget_ledger",
                "indexes": [models.Index(fields=["account", "created_at", "id"], name="tokenbudget_ledger_account_ix")],
                "constraints": [models.UniqueConstraint(fields=("source_id",), name="tokenbudget_ledger_source_uq")],
            },
        ),
        CreateTable(
            name="Usage",
            fields=[
                ("id", VarcharField(max_length=36, primary_key=True, serialize=False)),
                ("instance_id", VarcharField(max_length=36)),
                ("sequence", models.BigIntegerField()),
                ("created_at", MomentField()),
                ("method", VarcharField(max_length=16)),
                ("path", VarcharField(max_length=512)),
                ("route", VarcharField(max_length=255, null=True)),
                ("status", models.IntegerField(null=True)),
                ("duration_us", models.BigIntegerField()),
                ("first_byte_us", models.BigIntegerField(null=True)),
                ("request_model", VarcharField(max_length=255, null=True)),
                ("response_model", VarcharField(max_length=255, null=True)),
                ("provider", VarcharField(max_length=64, null=True)),
                ("response_type", VarcharField(max_length=64, null=True)),
                ("is_stream", models.BooleanField()),
                ("server_address", VarcharField(max_length=255, null=True)),
                ("server_port", models.IntegerField(null=True)),
                ("key_id", VarcharField(max_length=128, null=True)),
                ("user_id", VarcharField(max_length=255, null=True)),
                ("team_id", VarcharField(max_length=255, null=True)),
                ("project_id", VarcharField(max_length=255, null=True)),
                ("tenant_id", VarcharField(max_length=255, null=True)),
                ("account", VarcharField(max_length=255, null=True)),
                ("plan", VarcharField(max_length=64, null=True)),
                ("access_source", VarcharField(max_length=32)),
                ("purpose", VarcharField(max_length=32)),
                ("origin", VarcharField(max_length=32)),
                ("input_tokens", models.BigIntegerField()),
                ("output_tokens", models.BigIntegerField()),
                ("cache_read_tokens", models.BigIntegerField()),
                ("cache_write_tokens", models.BigIntegerField()),
                ("cache_write_1h_tokens", models.BigIntegerField()),
                ("reasoning_tokens", models.BigIntegerField()),
                ("usage_source", VarcharField(max_length=16)),
                ("cost_pico", models.BigIntegerField()),
                ("price_id", VarcharField(max_length=255, null=True)),
                ("price_kind", VarcharField(max_length=16)),
                ("decision", VarcharField(max_length=32)),
                ("limit_name", VarcharField(max_length=128, null=True)),
                ("settle_reason", VarcharField(max_length=32)),
                ("correlation_id", VarcharField(max_length=128, null=True)),
                ("trace_id", VarcharField(max_length=64, null=True)),
                ("service_tier", VarcharField(max_length=64, null=True)),
                ("batch_id", VarcharField(max_length=128, null=True)),
                ("batch_request_id", VarcharField(max_length=128, null=True)),
                ("custom_id", VarcharField(max_length=255, null=True)),
                ("completion_window", VarcharField(max_length=16, null=True)),
                ("batch_created_at", MomentField(null=True)),
                ("batch_request_source", VarcharField(max_length=64, null=True)),
                ("tags", LongTextField()),
                ("write_id", VarcharField(max_length=36)),
            ],
            options={
                "verbose_name": "usage record",
                "verbose_name_plural": "usage",
                "db_table": "tokenbudget_usage",
                "indexes": [
                    models.Index(fields=["account", "created_at", "id"], name="tokenbudget_usage_account_ix"),
                    models.Index(fields=["created_at"], name="tokenbudget_usage_created_ix"),
                    models.Index(fields=["key_id", "created_at", "id"], name="tokenbudget_usage_key_ix"),
                ],
                "constraints": [
                    # before the checks: SQLAlchemy reads its name wrongly from SQLite behind a quoted CHECK
                    models.UniqueConstraint(fields=("instance_id", "sequence"), name="tokenbudget_usage_event_uq"),
                    models.CheckConstraint(condition=models.Q(("cost_pico__gte", 0)), name="tokenbudget_usage_cost_ck"),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("cache_read_tokens__gte", 0),
                            ("cache_write_1h_tokens__gte", 0),
                            ("cache_write_tokens__gte", 0),
                            ("input_tokens__gte", 0),
                            ("output_tokens__gte", 0),
                            ("reasoning_tokens__gte", 0),
                        ),
                        name="tokenbudget_usage_tokens_ck",
                    ),
                ],
            },
        ),
        keep_rows({"tokenbudget_usage": "", "tokenbudget_ledger": "", "tokenbudget_keys": ""}),
    ]
