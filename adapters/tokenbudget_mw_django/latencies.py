"""
Models of how long requests took. Import them from `models`.
"""
# ruff: noqa: D106 - what `Meta` is, Django documents

from __future__ import annotations

from django.db import models
from django.db.models import UniqueConstraint

from tokenbudget_mw_django.fields import MomentField, VarcharField

__all__ = ["LatencyDay", "LatencyHour"]


class LatencyHour(models.Model):
    """
    How many requests took how long, by hour and route.
    """

    id = models.BigAutoField(primary_key=True)
    hour = MomentField()
    route = VarcharField(max_length=255)
    up_to_us = models.BigIntegerField()
    requests = models.BigIntegerField()

    class Meta:
        db_table = "tokenbudget_latency_hours"
        verbose_name = "latencies by hour"
        verbose_name_plural = "latencies by hour"
        constraints = (UniqueConstraint(fields=["hour", "route", "up_to_us"], name="tokenbudget_latency_hours_uq"),)

    def __str__(self) -> str:
        return str(self.pk)


class LatencyDay(models.Model):
    """
    How many requests took how long, by day and route.
    """

    id = models.BigAutoField(primary_key=True)
    day = MomentField()
    route = VarcharField(max_length=255)
    up_to_us = models.BigIntegerField()
    requests = models.BigIntegerField()

    class Meta:
        db_table = "tokenbudget_latency_days"
        verbose_name = "latencies by day"
        verbose_name_plural = "latencies by day"
        constraints = (UniqueConstraint(fields=["day", "route", "up_to_us"], name="tokenbudget_latency_days_uq"),)

    def __str__(self) -> str:
        return str(self.pk)
