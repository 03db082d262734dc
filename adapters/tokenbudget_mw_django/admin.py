"""
The admin: everything can be looked at, nothing edited; keys can be suspended, resumed and revoked.
"""

# ruff: noqa: ARG002 - the signatures are Django's

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages

from tokenbudget_mw_django import key_states
from tokenbudget_mw_django.models import (
    Balance,
    Correction,
    DeadLetter,
    Grant,
    Key,
    LedgerEntry,
    Period,
    RollupDay,
    RollupHour,
    RollupSubject,
    Tariff,
    Usage,
)

if TYPE_CHECKING:
    from django.db.models import Model, QuerySet
    from django.http import HttpRequest

__all__ = [
    "BalanceAdmin",
    "KeyAdmin",
    "LedgerEntryAdmin",
    "RollupDayAdmin",
    "RollupHourAdmin",
    "RollupSubjectAdmin",
    "UsageAdmin",
]

_PICO = 10**12


def dollars(pico: int) -> str:
    """
    Return *pico* pico-dollars as dollars, every digit kept.

    >>> dollars(1_500_000_000_000), dollars(-2), dollars(0)
    ('$1.5', '-$0.000000000002', '$0')
    """
    whole, rest = divmod(abs(pico), _PICO)
    digits = f"{rest:012d}".rstrip("0")
    return f"{'-' if pico < 0 else ''}${whole}{'.' if digits else ''}{digits}"


class ReadOnlyAdmin(admin.ModelAdmin):
    """
    Shows rows. The books are written by the flusher alone, and corrected by entries, never by editing.
    """

    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        """
        Nobody adds rows here.
        """
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """
        Nobody changes rows here.
        """
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """
        Nobody deletes rows here.
        """
        return False


@admin.register(Usage)
class UsageAdmin(ReadOnlyAdmin):
    """
    Usage, the newest first.
    """

    list_display = (
        "created_at",
        "key_id",
        "account",
        "route",
        "response_model",
        "status",
        "input_tokens",
        "output_tokens",
        "cost",
        "decision",
    )
    ordering = ("-created_at",)
    search_fields = ("=id", "=key_id", "=account")
    search_help_text = "Id of a row, a key or an account, in full."

    @admin.display(description="cost")
    def cost(self, row: Usage) -> str:
        """
        Return the cost in dollars.
        """
        return dollars(row.cost_pico)


@admin.register(LedgerEntry)
class LedgerEntryAdmin(ReadOnlyAdmin):
    """
    The ledger, the newest entries first.
    """

    list_display = ("created_at", "account", "contra", "kind", "amount", "entries", "note")
    ordering = ("-created_at",)
    search_fields = ("=account", "=source_id")

    @admin.display(description="amount")
    def amount(self, row: LedgerEntry) -> str:
        """
        Return what the account is debited, in dollars.
        """
        return dollars(row.amount_pico)


@admin.register(Balance)
class BalanceAdmin(ReadOnlyAdmin):
    """
    Balances.
    """

    list_display = ("account", "balance", "updated_at")
    search_fields = ("account",)

    @admin.display(description="balance", ordering="balance_pico")
    def balance(self, row: Balance) -> str:
        """
        Return the balance in dollars.
        """
        return dollars(row.balance_pico)


class RollupAdmin(ReadOnlyAdmin):
    """
    Usage added up.
    """

    @admin.display(description="cost", ordering="cost_pico")
    def cost(self, row: RollupDay) -> str:
        """
        Return the cost in dollars.
        """
        return dollars(row.cost_pico)


_FIGURES = ("requests", "refused", "errors", "input_tokens", "output_tokens", "cost")


@admin.register(RollupSubject)
class RollupSubjectAdmin(RollupAdmin):
    """
    Usage by subject, the newest day first.
    """

    list_display = ("day", "account", "key_id", "model", *_FIGURES)
    ordering = ("-day",)
    search_fields = ("=account", "=key_id")


@admin.register(RollupHour)
class RollupHourAdmin(RollupAdmin):
    """
    Usage by hour, the newest first.
    """

    list_display = ("hour", "model", "route", *_FIGURES)
    ordering = ("-hour",)


@admin.register(RollupDay)
class RollupDayAdmin(RollupAdmin):
    """
    Usage by day, the newest first.
    """

    list_display = ("day", "model", "route", *_FIGURES)
    ordering = ("-day",)


@admin.register(Tariff)
class TariffAdmin(ReadOnlyAdmin):
    """
    Prices of the user's own; `manage.py tokenbudget tariffs` adds and ends them.
    """

    list_display = ("id", "input_pico", "output_pico", "valid_from", "valid_until", "note")
    ordering = ("model", "valid_from")
    search_fields = ("=id", "=model")


@admin.register(Correction)
class CorrectionAdmin(ReadOnlyAdmin):
    """
    What rows cost more or less than was charged at first, the newest corrections first.
    """

    list_display = ("created_at", "usage_id", "account", "model", "change", "price_id", "note")
    ordering = ("-created_at",)
    search_fields = ("=usage_id", "=account")

    @admin.display(description="change")
    def change(self, row: Correction) -> str:
        """
        Return the change in dollars.
        """
        return dollars(row.change_pico)


@admin.register(Grant)
class GrantAdmin(ReadOnlyAdmin):
    """
    Money for a time, by when it ends.
    """

    list_display = ("account", "amount", "expires_at", "expired_at")
    ordering = ("expires_at",)
    search_fields = ("=account",)

    @admin.display(description="amount")
    def amount(self, row: Grant) -> str:
        """
        Return what was given, in dollars.
        """
        return dollars(row.amount_pico)


@admin.register(Period)
class PeriodAdmin(ReadOnlyAdmin):
    """
    Closed billing periods, the newest first.
    """

    list_display = ("account", "starts_at", "ends_at", "closed_at", "usage")
    ordering = ("-starts_at",)
    search_fields = ("=account",)

    @admin.display(description="usage")
    def usage(self, row: Period) -> str:
        """
        Return what was used, in dollars.
        """
        return dollars(row.usage_pico)


@admin.register(DeadLetter)
class DeadLetterAdmin(ReadOnlyAdmin):
    """
    Usage that could not be written; ``manage.py tokenbudget dead-letters`` mends and replays it.
    """

    list_display = ("id", "kept_at", "error")
    ordering = ("kept_at",)


@admin.register(Key)
class KeyAdmin(ReadOnlyAdmin):
    """
    API keys. Their digests are not shown.
    """

    list_display = ("kid", "name", "status", "tenant_id", "user_id", "plan", "last4", "created_at", "expires_at")
    list_filter = ("status", "plan")
    search_fields = ("=kid", "name", "=tenant_id", "=user_id")
    exclude = ("digest",)
    actions = ("suspend", "resume", "revoke")

    def has_switch_permission(self, request: HttpRequest) -> bool:
        """
        Whether the user may suspend, resume and revoke keys: Django's "change" permission.
        """
        # Django's own answer, which this class overrides for the form
        return admin.ModelAdmin.has_change_permission(self, request)

    @admin.action(description="Suspend the selected keys", permissions=["switch"])
    def suspend(self, request: HttpRequest, keys: QuerySet[Key]) -> None:
        """
        Refuse the keys until they are resumed.
        """
        self._switch(request, keys.filter(status="active"), "suspended")

    @admin.action(description="Resume the selected keys", permissions=["switch"])
    def resume(self, request: HttpRequest, keys: QuerySet[Key]) -> None:
        """
        Accept suspended keys again.
        """
        self._switch(request, keys.filter(status="suspended"), "active")

    @admin.action(description="Revoke the selected keys for ever", permissions=["switch"])
    def revoke(self, request: HttpRequest, keys: QuerySet[Key]) -> None:
        """
        Refuse the keys for ever.
        """
        self._switch(request, keys.exclude(status="revoked"), "revoked", revoked_at=datetime.now(UTC))

    def _switch(self, request: HttpRequest, keys: QuerySet[Key], status: str, **values: Any) -> None:
        changed = list(keys)
        keys.filter(pk__in=[key.pk for key in changed]).update(status=status, **values)
        for key in changed:
            key.status = status
        key_states.tell(changed)  # an update sends no signal
        self.message_user(request, f"{len(changed)} keys are {status} now.", messages.SUCCESS)
