"""
System checks: what is wrong with a project's setup, before the first request.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django.apps import AppConfig, apps
from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004 - Django's names
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections, router
from django.db.migrations.executor import MigrationExecutor

from tokenbudget_mw.errors import ConfigurationError
from tokenbudget_mw.settings import Settings
from tokenbudget_mw.settings.describe import says_nothing, warnings_of
from tokenbudget_mw.wiring import wire
from tokenbudget_mw_django.conf import engine_of, read_settings
from tokenbudget_mw_django.databases import database_url

__all__ = ["check_deployment", "check_migrations", "check_settings"]

LABEL = "tokenbudget_mw_django"

MIDDLEWARE = frozenset(
    {"tokenbudget_mw_django.TokenBudgetMiddleware", "tokenbudget_mw_django.middleware.TokenBudgetMiddleware"}
)

CORS = "corsheaders.middleware.CorsMiddleware"
OUTSIDE = frozenset(
    {
        CORS,
        "django.middleware.gzip.GZipMiddleware",
        "django.middleware.http.ConditionalGetMiddleware",
        "django.middleware.security.SecurityMiddleware",
        "whitenoise.middleware.WhiteNoiseMiddleware",
    }
)
"""What belongs before ours: it redirects, serves files, or works on every response, refusals included."""


def check_settings(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """
    Check ``TOKENBUDGET``, what it names, its database alias and the place of the middleware.
    """
    del app_configs
    try:
        settings = read_settings()
    except ConfigurationError as error:
        return [Error(str(error), hint="Mend settings.TOKENBUDGET.", id="tokenbudget.E001")]
    return [
        *_check_given(settings),
        *_check_database(settings),
        *_check_middleware(),
        *_check_workers(settings),
    ]


def _check_given(settings: Settings) -> Iterator[CheckMessage]:
    is_installed = not MIDDLEWARE.isdisjoint(django_settings.MIDDLEWARE)
    if is_installed and not hasattr(django_settings, "TOKENBUDGET") and says_nothing(settings):
        yield Warning(
            "settings.TOKENBUDGET is missing, so every path asks for an API key, and nothing is limited.",
            hint="TOKENBUDGET = {'identify': …, 'routes': […], 'plans': {…}}",
            id="tokenbudget.W010",
        )


def _check_database(settings: Settings) -> Iterator[CheckMessage]:
    try:
        url = None if settings.database_alias is None else database_url(settings.database_alias)
    except ConfigurationError as error:
        yield Error(str(error), hint="Mend TOKENBUDGET['database'] or DATABASES.", id="tokenbudget.E002")
        return
    yield from _check_parts(settings)
    if url is None:
        return
    read = router.db_for_read(apps.get_model(LABEL, "Usage"))
    if read != settings.database_alias:
        yield Warning(
            f"The books are kept in {settings.database_alias!r}, and Django reads their models, in the admin, too, from {read!r}.",
            hint="DATABASE_ROUTERS = ['tokenbudget_mw_django.routers.BooksRouter']",
            id="tokenbudget.W008",
        )
    if url.get_backend_name() == "sqlite" and settings.database_alias == DEFAULT_DB_ALIAS:
        yield from _check_transactions(django_settings.DATABASES[DEFAULT_DB_ALIAS])


def _check_parts(settings: Settings) -> Iterator[CheckMessage]:
    """
    Plug everything together: that connects to nothing, but imports drivers and what dotted paths name.
    """
    alias = settings.database_alias
    try:
        engine = engine_of(alias) if alias is not None else None
        # switched off, so that no tokenizer is loaded for a look
        wire(settings.replace(enabled=False, spool="memory"), engine=engine).close()
    except ConfigurationError as error:
        yield Error(str(error), hint="Mend settings.TOKENBUDGET.", id="tokenbudget.E004")


def _check_transactions(config: Mapping[str, Any]) -> Iterator[CheckMessage]:
    """
    Warn of transactions that SQLite begins for reading: it lets none of them write after another connection has written.
    """
    options = config.get("OPTIONS") or {}
    if str(options.get("transaction_mode") or "").upper() not in ("IMMEDIATE", "EXCLUSIVE"):
        yield Warning(
            "Usage is written to the project's SQLite file, by a connection of its own: a transaction of the project's that has "
            "read and then writes fails ('database is locked') where usage was written in between.",
            hint="DATABASES['default']['OPTIONS'] = {'transaction_mode': 'IMMEDIATE'}, or keep the books in a database of their own.",
            id="tokenbudget.W009",
        )


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
    else:
        yield from _check_order(django_settings.MIDDLEWARE, places[0])


def _check_order(names: Sequence[str], at: int) -> Iterator[CheckMessage]:
    before = [name for name in names[:at] if name not in OUTSIDE]
    if before:
        yield Warning(
            f"TokenBudgetMiddleware stands behind {', '.join(before)}: what they answer is not metered or limited.",
            hint="Put TokenBudgetMiddleware before them in MIDDLEWARE.",
            id="tokenbudget.W003",
        )
    if CORS in names[at:]:
        yield Warning(
            "TokenBudgetMiddleware stands before CorsMiddleware, so scripts of other origins cannot read its refusals.",
            hint="Put CorsMiddleware before it in MIDDLEWARE.",
            id="tokenbudget.W004",
        )


def _check_workers(settings: Settings) -> Iterator[CheckMessage]:
    """
    Warn of a backend of one process where the environment names several workers; `check_deployment` does without.
    """
    workers = os.environ.get("WEB_CONCURRENCY", "")  # of gunicorn, uvicorn and hosting platforms
    if workers.isdecimal() and int(workers) > 1 and _is_of_one_process(settings):
        yield _alone(f" WEB_CONCURRENCY is {workers}, and")


def _is_of_one_process(settings: Settings) -> bool:
    return settings.backend.startswith(("memory:", "limits+memory:"))


def _alone(why: str) -> CheckMessage:
    return Warning(
        f"The memory backend counts in each process by itself:{why} with N workers every limit admits N times as much.",
        hint="Set TOKENBUDGET['backend'] to 'redis://…', or run one worker.",
        id="tokenbudget.W002",
    )


def check_migrations(
    app_configs: Sequence[AppConfig] | None, databases: Sequence[str] | None = None, **_: Any
) -> list[CheckMessage]:
    """
    Find migrations of ours that are missing in the database that the settings name. Django asks with ``check --database``.
    """
    del app_configs
    try:
        alias = read_settings().database_alias
    except ConfigurationError:
        return []
    if alias is None or alias not in (databases or ()):
        return []
    connection: Any = connections[alias]
    was_open = connection.connection is not None
    try:
        missing = _missing(connection)
    except DatabaseError as error:
        return [Warning(f"The database {alias!r} does not answer: {error}", id="tokenbudget.W006")]
    finally:
        if not was_open:
            _close(connection)
    if not missing:
        return []
    return [
        Warning(
            f"The database {alias!r} has not seen {', '.join(missing)}, so usage stays on the spool.",
            hint=f"Run: python manage.py migrate {LABEL} --database {alias}",
            id="tokenbudget.W005",
        )
    ]


def _missing(connection: Any) -> list[str]:
    executor = MigrationExecutor(connection)
    targets = [node for node in executor.loader.graph.leaf_nodes() if node[0] == LABEL]
    return [migration.name for migration, _ in executor.migration_plan(targets) if migration.app_label == LABEL]


def _close(connection: Any) -> None:
    """
    Leave nothing open for processes that are forked next, as those of ``manage.py test --parallel`` are: two of them on one
    connection mix their answers up.
    """
    connection.close()
    if connection.vendor == "postgresql":
        connection.close_pool()


def check_deployment(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """
    Check what only production needs: a backend that processes share, and settings of which nothing is suspicious.
    """
    del app_configs
    try:
        settings = read_settings()
    except ConfigurationError:
        return []
    # where the environment names the number of workers, `check_settings` has said it
    alone = [_alone("")] if _is_of_one_process(settings) and not list(_check_workers(settings)) else []
    return [*alone, *(Warning(told, id="tokenbudget.W007") for told in warnings_of(settings))]
