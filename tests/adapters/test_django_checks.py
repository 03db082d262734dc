"""What the system checks find: the order of the middleware, workers that do not share, migrations that are missing."""

import importlib
from typing import Any
from unittest.mock import Mock, patch

import django
import pytest
from django.conf import settings
from django.core.checks import run_checks
from django.core.management import call_command
from django.db import OperationalError, connections, router, transaction
from django.test import Client, override_settings
from django_rig import OURS, TOKENBUDGET, rows

from tokenbudget_mw.errors import ConfigurationError
from tokenbudget_mw_django import apps, checks

SHARED = {**TOKENBUDGET, "backend": "redis://localhost/0"}
CORS = "corsheaders.middleware.CorsMiddleware"
GZIP = "django.middleware.gzip.GZipMiddleware"
SECURITY = "django.middleware.security.SecurityMiddleware"
SESSION = "django.contrib.sessions.middleware.SessionMiddleware"


def found(**changed: Any) -> dict[str, str]:
    """Id -> message of what the checks of a project with *changed* settings find."""
    with override_settings(**{"TOKENBUDGET": SHARED, **changed}):
        messages = run_checks(tags=["tokenbudget"])
    return {(message.id or "").removeprefix("tokenbudget."): message.msg for message in messages}


def test_settings_that_are_missing_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any, every page asks for a key; those of the environment are settings."""
    with override_settings():
        del settings.TOKENBUDGET
        without = {message.id for message in run_checks(tags=["tokenbudget"])}
        monkeypatch.setenv("TOKENBUDGET_PLANS", '{"free": ["9 requests/minute"]}')
        given = {message.id for message in run_checks(tags=["tokenbudget"])}

    assert without - given == {"tokenbudget.W010"}


def test_models_that_are_read_from_another_database_are_found() -> None:
    """Where the books have a database of their own, Django's models are to be sent there, which the router does."""
    from django.contrib.auth.models import User  # models are there once the project is set up

    from tokenbudget_mw_django.models import Usage

    apart = {**SHARED, "database": {"alias": "usage"}}
    databases = {**settings.DATABASES, "usage": {"ENGINE": "django.db.backends.sqlite3", "NAME": "usage.db"}}
    with patch.dict(settings.DATABASES, databases):
        without = found(TOKENBUDGET=apart)
        routed = {"DATABASE_ROUTERS": ["tokenbudget_mw_django.routers.BooksRouter"]}
        with_it = found(TOKENBUDGET=apart, **routed)
        with override_settings(TOKENBUDGET=apart, **routed):
            placed = [
                (router.db_for_write(Usage), router.db_for_read(User)),
                [router.allow_migrate(db, "tokenbudget_mw_django") for db in ("default", "usage")],
                [router.allow_migrate(db, "auth") for db in ("default", "usage")],
            ]

    assert without == {"W008": without["W008"]}
    assert "kept in 'usage', and Django reads their models, in the admin, too, from 'default'" in without["W008"]
    assert with_it == {}
    assert placed == [("usage", "default"), [False, True], [True, True]]


@pytest.mark.parametrize(
    ("options", "ids"),
    [({}, {"W009"}), ({"transaction_mode": "DEFERRED"}, {"W009"}), ({"transaction_mode": "immediate"}, set())],
)
def test_transactions_that_fail_beside_the_flusher_are_found(options: dict[str, str], ids: set[str]) -> None:
    """On SQLite one that reads first cannot write after the flusher has; on other databases it can."""
    sqlite = {**settings.DATABASES["default"], "OPTIONS": options}
    postgresql = {**sqlite, "ENGINE": "django.db.backends.postgresql", "OPTIONS": {}}  # which takes no such option

    with patch.dict(settings.DATABASES, {"default": sqlite}):
        assert set(found()) == ids
    with patch.dict(settings.DATABASES, {"default": postgresql}):
        assert set(found()) == set()


def test_a_transaction_that_begins_as_a_writer_lasts() -> None:
    """What it has read is not too old to write on, though usage is booked meanwhile; the usage waits for it."""
    from django.contrib.auth.models import Group

    from tokenbudget_mw_django.conf import core

    with transaction.atomic():
        Group.objects.count()
        Client(headers={"x-subject": "locked"}).get("/plain/limited")
        core().flush(0.3)
        Group.objects.create(name="of a writer").delete()

    assert len(rows("locked")) == 1


@pytest.mark.parametrize(
    ("order", "ids"),
    [
        ([SECURITY, CORS, GZIP, OURS, SESSION], set()),
        ([OURS, SESSION], set()),
        ([SESSION, OURS], {"W003"}),
        ([SECURITY, "theirs.CacheMiddleware", OURS], {"W003"}),
        ([OURS, CORS, SESSION], {"W004"}),
        ([SESSION, OURS, CORS], {"W003", "W004"}),
    ],
)
def test_a_wrong_order_of_the_middleware_is_found(order: list[str], ids: set[str]) -> None:
    """What may answer by itself stands behind ours; what works on every response stands before."""
    messages = found(MIDDLEWARE=order)

    assert set(messages) == ids
    if "W003" in ids:
        assert next(name for name in order if name not in (SECURITY, CORS, OURS)) in messages["W003"]


@pytest.mark.parametrize(
    ("backend", "workers", "is_found"),
    [
        ("memory://", "4", True),
        ("limits+memory://", "4", True),
        ("redis://localhost/0", "4", False),
        ("memory://", "1", False),
        ("memory://", "", False),
        ("memory://", "many", False),
    ],
)
def test_several_workers_need_a_common_backend(
    backend: str, workers: str, is_found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the environment names several workers, the check does not wait for ``--deploy``; and it warns once."""
    monkeypatch.setenv("WEB_CONCURRENCY", workers)
    settings = {**TOKENBUDGET, "backend": backend}

    assert ("W002" in found(TOKENBUDGET=settings)) == is_found
    if is_found:
        with override_settings(TOKENBUDGET=settings):
            every = run_checks(tags=["tokenbudget"], include_deployment_checks=True)
        assert [message.id for message in every] == ["tokenbudget.W002"]


@pytest.fixture
def behind() -> Any:
    """The project's database, one migration of ours behind."""
    call_command("migrate", "tokenbudget_mw_django", "0008", verbosity=0)
    yield
    call_command("migrate", "tokenbudget_mw_django", verbosity=0)
    connections.close_all()


def test_a_missing_migration_is_found(behind: None) -> None:
    """`manage.py check --database default` names it, and the command that mends it."""
    with override_settings(TOKENBUDGET=SHARED | {"database": {"alias": "default"}}):
        (message,) = [each for each in run_checks(databases=["default"]) if (each.id or "").startswith("tokenbudget")]

    assert message.id == "tokenbudget.W005"
    assert "0009_audio" in message.msg
    assert "0008" not in message.msg
    assert message.hint == "Run: python manage.py migrate tokenbudget_mw_django --database default"


@pytest.mark.parametrize("databases", [["default"], ["other"], [], None])
def test_a_migrated_database_is_passed(databases: list[str] | None) -> None:
    """Nothing is said of a database that is up to date, or that is not asked about."""
    with override_settings(TOKENBUDGET=SHARED | {"database": {"alias": "default"}}):
        messages = run_checks(databases=databases) if databases != ["other"] else run_checks()

    assert [each for each in messages if (each.id or "").startswith("tokenbudget")] == []
    assert rows("nobody") == []


@pytest.mark.parametrize("is_open", [False, True])
def test_the_check_leaves_connections_as_they_were(is_open: bool) -> None:
    """What it has opened is closed, for the tests' processes that are forked next; what the project has opened stays."""
    connection = connections["default"]
    connection.close()
    if is_open:
        connection.ensure_connection()

    with override_settings(TOKENBUDGET=SHARED | {"database": {"alias": "default"}}):
        run_checks(databases=["default"])

    assert (connection.connection is not None) is is_open
    connection.close()


def test_the_check_leaves_no_pool_behind() -> None:
    """A pool of Django's for PostgreSQL keeps its connections when one is given back."""
    pooled = Mock(vendor="postgresql", connection=None)

    with (
        override_settings(TOKENBUDGET=SHARED | {"database": {"alias": "default"}}),
        patch.object(checks, "connections", {"default": pooled}),
        patch.object(checks, "MigrationExecutor"),
    ):
        assert checks.check_migrations(None, databases=["default"]) == []

    pooled.close.assert_called_once_with()
    pooled.close_pool.assert_called_once_with()


def test_a_database_that_does_not_answer_is_told(tmp_path: Any) -> None:
    """The check says so, and does not raise."""
    with (
        override_settings(TOKENBUDGET=SHARED | {"database": {"alias": "default"}}),
        patch.object(checks, "MigrationExecutor", side_effect=OperationalError("away")),
    ):
        (message,) = checks.check_migrations(None, databases=["default"])

    assert message.id == "tokenbudget.W006"
    assert "away" in message.msg


def test_wrong_settings_are_told_once() -> None:
    """The other checks are silent where the settings cannot be read."""
    with override_settings(TOKENBUDGET={"rutes": []}):
        ids = [each.id for each in run_checks(databases=["default"], include_deployment_checks=True)]

    assert [id_ for id_ in ids if (id_ or "").startswith("tokenbudget")] == ["tokenbudget.E001"]


def test_a_django_that_is_too_old_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the package was installed without its extra, the start says which Django it needs."""
    monkeypatch.setattr(django, "VERSION", (4, 2, 30, "final", 0))

    with pytest.raises(ConfigurationError, match=r"needs Django 5\.1 or newer, and this is 4\.2\.30: pip install"):
        importlib.reload(apps)
