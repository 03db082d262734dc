"""
The models of money: prices, corrections of costs, grants, closed periods. Import them from `models`.
"""
# ruff: noqa: D106 - what `Meta` is, Django documents

from __future__ import annotations

from django.db import models
from django.db.models import Index, UniqueConstraint

from tokenbudget_mw_django.fields import DocumentField, MomentField, PicoField, VarcharField

__all__ = ["Correction", "Grant", "Period", "Tariff"]


class Correction(models.Model):
    """
    What was charged for a usage row after it was written.
    """

    id = VarcharField(max_length=36, primary_key=True)
    usage_id = VarcharField(max_length=36)
    number = models.IntegerField()
    created_at = MomentField()
    used_at = MomentField()
    account = VarcharField(max_length=255, null=True)
    key_id = VarcharField(max_length=128, null=True)
    model = VarcharField(max_length=255)
    route = VarcharField(max_length=255, null=True)
    change_pico = models.BigIntegerField()
    cost_pico = models.BigIntegerField()
    price_id = VarcharField(max_length=255, null=True)
    write_id = VarcharField(max_length=36)
    note = VarcharField(max_length=512, null=True)

    class Meta:
        db_table = "tokenbudget_corrections"
        verbose_name = "correction"
        verbose_name_plural = "corrections"
        indexes = (Index(fields=["used_at"], name="tokenbudget_correction_used_ix"),)
        constraints = (UniqueConstraint(fields=["usage_id", "number"], name="tokenbudget_corrections_uq"),)

    def __str__(self) -> str:
        return str(self.pk)


class Grant(models.Model):
    """
    Money that was given for a time.
    """

    id = VarcharField(max_length=36, primary_key=True)
    account = VarcharField(max_length=255)
    amount_pico = PicoField()
    expires_at = MomentField()
    expired_at = MomentField(null=True)
    unused_pico = PicoField(null=True)

    class Meta:
        db_table = "tokenbudget_grants"
        verbose_name = "grant"
        verbose_name_plural = "grants"
        indexes = (
            Index(fields=["account"], name="tokenbudget_grants_account_ix"),
            Index(fields=["expired_at", "expires_at"], name="tokenbudget_grants_due_ix"),
        )

    def __str__(self) -> str:
        return str(self.pk)


class Period(models.Model):
    """
    A billing period that is closed.
    """

    id = VarcharField(max_length=36, primary_key=True)
    account = VarcharField(max_length=255)
    starts_at = MomentField()
    ends_at = MomentField()
    closed_at = MomentField()
    usage_pico = PicoField()
    refunds_pico = PicoField()
    remainder_pico = PicoField()
    document = DocumentField()
    digest = VarcharField(max_length=64)

    class Meta:
        db_table = "tokenbudget_periods"
        verbose_name = "closed period"
        verbose_name_plural = "closed periods"
        constraints = (UniqueConstraint(fields=["account", "starts_at"], name="tokenbudget_periods_uq"),)

    def __str__(self) -> str:
        return str(self.pk)


class Tariff(models.Model):
    """
    A price of the user's own.
    """

    id = VarcharField(max_length=255, primary_key=True)
    model = VarcharField(max_length=128)
    purpose = VarcharField(max_length=32, null=True)
    completion_window = VarcharField(max_length=16, null=True)
    service_tier = VarcharField(max_length=64, null=True)
    above_input = models.BigIntegerField()
    input_pico = models.BigIntegerField()
    output_pico = models.BigIntegerField()
    cache_read_pico = models.BigIntegerField(null=True)
    cache_write_pico = models.BigIntegerField(null=True)
    cache_write_1h_pico = models.BigIntegerField(null=True)
    reasoning_pico = models.BigIntegerField(null=True)
    audio_input_pico = models.BigIntegerField(null=True)
    audio_output_pico = models.BigIntegerField(null=True)
    valid_from = MomentField()
    valid_until = MomentField(null=True)
    created_at = MomentField()
    note = VarcharField(max_length=512, null=True)

    class Meta:
        db_table = "tokenbudget_tariffs"
        verbose_name = "tariff"
        verbose_name_plural = "tariffs"
        indexes = (Index(fields=["model", "valid_from"], name="tokenbudget_tariffs_model_ix"),)

    def __str__(self) -> str:
        return str(self.pk)
