"""
The Django app.
"""

from __future__ import annotations

import django
from django.apps import AppConfig
from django.core.checks import Tags, register

from tokenbudget_mw.errors import ConfigurationError
from tokenbudget_mw_django.checks import check_deployment, check_migrations, check_settings

__all__ = ["TokenBudgetConfig"]

if django.VERSION < (5, 1):  # the models would fail, and not say why
    raise ConfigurationError(
        f"tokenbudget_mw_django needs Django 5.1 or newer, and this is {django.get_version()}: pip install 'tokenbudget-mw[django]'"
    )


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
