"""
The tables of `tokenbudget_mw.database.tables` as Django models, column for column; a test holds them to it.

The books are written by `tokenbudget_mw` itself. These models are for migrations, the admin and the host's queries.
"""
# ruff: noqa: D106 - what `Meta` is, Django documents

from __future__ import annotations

from django.db import models
from django.db.models import CheckConstraint, Index, Q, UniqueConstraint

from tokenbudget_mw_django.fields import LongTextField, MomentField, PicoField, VarcharField
from tokenbudget_mw_django.latencies import LatencyDay, LatencyHour
from tokenbudget_mw_django.money import Correction, Grant, Period, Tariff

__all__ = [
    "Balance",
    "Correction",
    "DeadLetter",
    "Grant",
    "Key",
    "LatencyDay",
    "LatencyHour",
    "LedgerEntry",
    "Period",
    "PurgedDay",
    "PurgedRange",
    "RollupDay",
    "RollupHour",
    "RollupSubject",
    "Tariff",
    "Usage",
]


class Usage(models.Model):
    """
    One request: what happened, who pays, what it cost.
    """

    id = VarcharField(max_length=36, primary_key=True)
    instance_id = VarcharField(max_length=36)
    sequence = models.BigIntegerField()
    created_at = MomentField()
    method = VarcharField(max_length=16)
    path = VarcharField(max_length=512)
    route = VarcharField(max_length=255, null=True)
    status = models.IntegerField(null=True)
    duration_us = models.BigIntegerField()
    first_byte_us = models.BigIntegerField(null=True)
    request_model = VarcharField(max_length=255, null=True)
    response_model = VarcharField(max_length=255, null=True)
    provider = VarcharField(max_length=64, null=True)
    response_type = VarcharField(max_length=64, null=True)
    is_stream = models.BooleanField()
    server_address = VarcharField(max_length=255, null=True)
    server_port = models.IntegerField(null=True)
    key_id = VarcharField(max_length=128, null=True)
    user_id = VarcharField(max_length=255, null=True)
    team_id = VarcharField(max_length=255, null=True)
    project_id = VarcharField(max_length=255, null=True)
    tenant_id = VarcharField(max_length=255, null=True)
    account = VarcharField(max_length=255, null=True)
    plan = VarcharField(max_length=64, null=True)
    access_source = VarcharField(max_length=32)
    purpose = VarcharField(max_length=32)
    origin = VarcharField(max_length=32)
    input_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    cache_read_tokens = models.BigIntegerField()
    cache_write_tokens = models.BigIntegerField()
    cache_write_1h_tokens = models.BigIntegerField()
    reasoning_tokens = models.BigIntegerField()
    usage_source = VarcharField(max_length=16)
    cost_pico = models.BigIntegerField()
    price_id = VarcharField(max_length=255, null=True)
    price_kind = VarcharField(max_length=16)
    decision = VarcharField(max_length=32)
    limit_name = VarcharField(max_length=128, null=True)
    settle_reason = VarcharField(max_length=32)
    correlation_id = VarcharField(max_length=128, null=True)
    trace_id = VarcharField(max_length=64, null=True)
    service_tier = VarcharField(max_length=64, null=True)
    batch_id = VarcharField(max_length=128, null=True)
    batch_request_id = VarcharField(max_length=128, null=True)
    custom_id = VarcharField(max_length=255, null=True)
    completion_window = VarcharField(max_length=16, null=True)
    batch_created_at = MomentField(null=True)
    batch_request_source = VarcharField(max_length=64, null=True)
    tags = LongTextField()
    audio_input_tokens = models.BigIntegerField(null=True)
    audio_output_tokens = models.BigIntegerField(null=True)
    write_id = VarcharField(max_length=36)

    class Meta:
        db_table = "tokenbudget_usage"
        verbose_name = "usage record"
        verbose_name_plural = "usage"
        indexes = (
            Index(fields=["account", "created_at", "id"], name="tokenbudget_usage_account_ix"),
            Index(fields=["created_at"], name="tokenbudget_usage_created_ix"),
            Index(fields=["key_id", "created_at", "id"], name="tokenbudget_usage_key_ix"),
            Index(fields=["price_kind", "created_at"], name="tokenbudget_usage_unpriced_ix"),
        )
        constraints = (
            UniqueConstraint(fields=["instance_id", "sequence"], name="tokenbudget_usage_event_uq"),
            CheckConstraint(condition=Q(cost_pico__gte=0), name="tokenbudget_usage_cost_ck"),
            CheckConstraint(
                condition=Q(
                    input_tokens__gte=0,
                    output_tokens__gte=0,
                    cache_read_tokens__gte=0,
                    cache_write_tokens__gte=0,
                    cache_write_1h_tokens__gte=0,
                    reasoning_tokens__gte=0,
                ),
                name="tokenbudget_usage_tokens_ck",
            ),
        )

    def __str__(self) -> str:
        return str(self.pk)


class LedgerEntry(models.Model):
    """
    One entry of the append-only ledger; a positive amount debits the account.
    """

    id = VarcharField(max_length=36, primary_key=True)
    account = VarcharField(max_length=255)
    contra = VarcharField(max_length=255)
    amount_pico = PicoField()
    kind = VarcharField(max_length=16)
    source_id = VarcharField(max_length=384)
    write_id = VarcharField(max_length=36, null=True)
    instance_id = VarcharField(max_length=36, null=True)
    first_sequence = models.BigIntegerField(null=True)
    last_sequence = models.BigIntegerField(null=True)
    entries = models.IntegerField()
    created_at = MomentField()
    note = VarcharField(max_length=512, null=True)

    class Meta:
        db_table = "tokenbudget_ledger"
        verbose_name = "ledger entry"
        verbose_name_plural = "ledger"
        indexes = (Index(fields=["account", "created_at", "id"], name="tokenbudget_ledger_account_ix"),)
        constraints = (UniqueConstraint(fields=["source_id"], name="tokenbudget_ledger_source_uq"),)

    def __str__(self) -> str:
        return str(self.pk)


class Balance(models.Model):
    """
    What an account has left, in pico-dollars.
    """

    account = VarcharField(max_length=255, primary_key=True)
    balance_pico = PicoField()
    updated_at = MomentField()

    class Meta:
        db_table = "tokenbudget_balances"
        verbose_name = "balance"
        verbose_name_plural = "balances"

    def __str__(self) -> str:
        return str(self.pk)


class Key(models.Model):
    """
    An API key; the secret itself is nowhere.
    """

    kid = VarcharField(max_length=32, primary_key=True)
    digest = VarcharField(max_length=128)
    pepper_version = models.IntegerField()
    last4 = VarcharField(max_length=8)
    name = VarcharField(max_length=255)
    user_id = VarcharField(max_length=255, null=True)
    team_id = VarcharField(max_length=255, null=True)
    project_id = VarcharField(max_length=255, null=True)
    tenant_id = VarcharField(max_length=255, null=True)
    plan = VarcharField(max_length=64, null=True)
    purpose = VarcharField(max_length=32)
    status = VarcharField(max_length=16)
    created_at = MomentField()
    expires_at = MomentField(null=True)
    revoked_at = MomentField(null=True)
    rotated_to = VarcharField(max_length=32, null=True)
    last_used_at = MomentField(null=True)
    tags = LongTextField()
    limits = LongTextField(null=True)

    class Meta:
        db_table = "tokenbudget_keys"
        verbose_name = "key"
        verbose_name_plural = "keys"

    def __str__(self) -> str:
        return str(self.pk)


class RollupSubject(models.Model):
    """
    Usage by day, subject and model.
    """

    id = models.BigAutoField(primary_key=True)
    day = MomentField()
    account = VarcharField(max_length=255)
    key_id = VarcharField(max_length=128)
    model = VarcharField(max_length=255)
    requests = models.BigIntegerField()
    refused = models.BigIntegerField()
    errors = models.BigIntegerField()
    input_tokens = PicoField()
    output_tokens = PicoField()
    cache_read_tokens = PicoField()
    cache_write_tokens = PicoField()
    cache_write_1h_tokens = PicoField()
    reasoning_tokens = PicoField()
    duration_us = PicoField()
    cost_pico = PicoField()

    class Meta:
        db_table = "tokenbudget_rollup_subjects"
        verbose_name = "usage by subject"
        verbose_name_plural = "usage by subject"
        indexes = (
            Index(fields=["key_id", "day"], name="tokenbudget_rollup_key_ix"),
            Index(fields=["day"], name="tokenbudget_rollup_day_ix"),
        )
        constraints = (
            UniqueConstraint(fields=["account", "day", "key_id", "model"], name="tokenbudget_rollup_subjects_uq"),
        )

    def __str__(self) -> str:
        return str(self.pk)


class RollupHour(models.Model):
    """
    Usage by hour, model and route.
    """

    id = models.BigAutoField(primary_key=True)
    hour = MomentField()
    model = VarcharField(max_length=255)
    route = VarcharField(max_length=255)
    requests = models.BigIntegerField()
    refused = models.BigIntegerField()
    errors = models.BigIntegerField()
    input_tokens = PicoField()
    output_tokens = PicoField()
    cache_read_tokens = PicoField()
    cache_write_tokens = PicoField()
    cache_write_1h_tokens = PicoField()
    reasoning_tokens = PicoField()
    duration_us = PicoField()
    cost_pico = PicoField()

    class Meta:
        db_table = "tokenbudget_rollup_hours"
        verbose_name = "usage by hour"
        verbose_name_plural = "usage by hour"
        constraints = (UniqueConstraint(fields=["hour", "model", "route"], name="tokenbudget_rollup_hours_uq"),)

    def __str__(self) -> str:
        return str(self.pk)


class RollupDay(models.Model):
    """
    Usage by day, model and route.
    """

    id = models.BigAutoField(primary_key=True)
    day = MomentField()
    model = VarcharField(max_length=255)
    route = VarcharField(max_length=255)
    requests = models.BigIntegerField()
    refused = models.BigIntegerField()
    errors = models.BigIntegerField()
    input_tokens = PicoField()
    output_tokens = PicoField()
    cache_read_tokens = PicoField()
    cache_write_tokens = PicoField()
    cache_write_1h_tokens = PicoField()
    reasoning_tokens = PicoField()
    duration_us = PicoField()
    cost_pico = PicoField()

    class Meta:
        db_table = "tokenbudget_rollup_days"
        verbose_name = "usage by day"
        verbose_name_plural = "usage by day"
        constraints = (UniqueConstraint(fields=["day", "model", "route"], name="tokenbudget_rollup_days_uq"),)

    def __str__(self) -> str:
        return str(self.pk)


class PurgedDay(models.Model):
    """
    What purged rows added up to, by day, account and model.
    """

    id = models.BigAutoField(primary_key=True)
    day = MomentField()
    account = VarcharField(max_length=255)
    model = VarcharField(max_length=255)
    requests = models.BigIntegerField()
    input_tokens = PicoField()
    output_tokens = PicoField()
    cache_read_tokens = PicoField()
    cache_write_tokens = PicoField()
    cache_write_1h_tokens = PicoField()
    reasoning_tokens = PicoField()
    cost_pico = PicoField()

    class Meta:
        db_table = "tokenbudget_purged_days"
        verbose_name = "purged usage"
        verbose_name_plural = "purged usage"
        constraints = (UniqueConstraint(fields=["account", "day", "model"], name="tokenbudget_purged_days_uq"),)

    def __str__(self) -> str:
        return str(self.pk)


class PurgedRange(models.Model):
    """
    Events of an instance that were purged, and are never written again.
    """

    id = models.BigAutoField(primary_key=True)
    instance_id = VarcharField(max_length=36)
    first_sequence = models.BigIntegerField()
    last_sequence = models.BigIntegerField()

    class Meta:
        db_table = "tokenbudget_purged_ranges"
        verbose_name = "purged range"
        verbose_name_plural = "purged ranges"
        constraints = (UniqueConstraint(fields=["instance_id", "first_sequence"], name="tokenbudget_purged_ranges_uq"),)

    def __str__(self) -> str:
        return str(self.pk)


class DeadLetter(models.Model):
    """
    A usage record that the database refused for good.
    """

    id = VarcharField(max_length=36, primary_key=True)
    kept_at = MomentField()
    error = VarcharField(max_length=64)
    record = LongTextField()

    class Meta:
        db_table = "tokenbudget_dead_letters"
        verbose_name = "dead letter"
        verbose_name_plural = "dead letters"
        indexes = (Index(fields=["kept_at", "id"], name="tokenbudget_dead_letters_ix"),)

    def __str__(self) -> str:
        return str(self.pk)
