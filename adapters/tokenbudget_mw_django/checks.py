"""
System checks: what is wrong with a project's setup, before the first request.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import AppConfig
from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004 - Django's names

from tokenbudget_mw.errors import ConfigurationError
from tokenbudget_mw.settings import Settings
from tokenbudget_mw_django.conf import database_url, read_settings

__all__ = ["check_deployment", "check_settings"]

MIDDLEWARE = frozenset(
    {"tokenbudget_mw_django.TokenBudgetMiddleware", "tokenbudget_mw_django.middleware.TokenBudgetMiddleware"}
)


def check_settings(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """
    Check ``TOKENBUDGET``, its database alias and the place of the middleware.
    """
    del app_configs
    try:
        settings = read_settings()
    except ConfigurationError as error:
        return [Error(str(error), hint="Mend settings.TOKENBUDGET.", id="tokenbudget.E001")]
    return [*_check_database(settings), *_check_middleware()]


def _check_database(settings: Settings) -> Iterator[CheckMessage]:
    if settings.database_alias is None:
        return
    try:
        database_url(settings.database_alias)
    except ConfigurationError as error:
        yield Error(str(error), hint="Mend TOKENBUDGET['database'] or DATABASES.", id="tokenbudget.E002")


def _check_middleware() -> Iterator[CheckMessage]:
    places = [at for at, name in enumerate(django_settings.MIDDLEWARE) if name in MIDDLEWARE]
    if not places:
        yield Warning(
            "tokenbudget_mw_django is installed, but its middleware is not, so nothing is metered or limited.",
            hint="MIDDLEWARE.insert(0, 'tokenbudget_mw_django.TokenBudgetMiddleware')",
            id="tokenbudget.W001",
        )
    elif len(places) > 1:
        yield Error(
            "TokenBudgetMiddleware is installed more than once, so every request would be charged more than once.",
            hint="Keep the first one in MIDDLEWARE.",
            id="tokenbudget.E003",
        )


def check_deployment(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """
    Check what only production needs: a backend that processes share.
    """
    del app_configs
    try:
        settings = read_settings()
    except ConfigurationError:
        return []
    if not settings.backend.startswith("memory:"):
        return []
    return [
        Warning(
            "The memory backend counts in each process by itself: with N workers every limit admits N times as much.",
            hint="Set TOKENBUDGET['backend'] to 'redis://…', or run one worker.",
            id="tokenbudget.W002",
        )
    ]
