"""
The Django app.
"""

from __future__ import annotations

from django.apps import AppConfig
from django.core.checks import Tags, register

from tokenbudget_mw_django.checks import check_deployment, check_migrations, check_settings

__all__ = ["TokenBudgetConfig"]


class TokenBudgetConfig(AppConfig):
    """
    The app that brings models, migrations and admin.
    """

    name = "tokenbudget_mw_django"
    label = "tokenbudget_mw_django"
    verbose_name = "Token budget"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """
        Register the system checks, remember the databases, and hear of keys that change.
        """
        from tokenbudget_mw_django.conf import remember_databases
        from tokenbudget_mw_django.key_states import connect

        remember_databases()
        connect()
        register(check_settings, "tokenbudget")
        register(check_deployment, "tokenbudget", deploy=True)
        register(check_migrations, Tags.database)
