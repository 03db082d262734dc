"""
The Django app.
"""

from __future__ import annotations

from django.apps import AppConfig

__all__ = ["TokenBudgetConfig"]


class TokenBudgetConfig(AppConfig):
    """
    The app that brings models, migrations and admin.
    """

    name = "tokenbudget_mw_django"
    label = "tokenbudget_mw_django"
    verbose_name = "Token budget"
    default_auto_field = "django.db.models.BigAutoField"
