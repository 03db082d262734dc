"""Django's test databases: made and dropped around the tests of a project that is metered."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from sqlalchemy import make_url

SETTINGS = """
import os

from django.http import HttpResponse
from django.test import TestCase
from django.urls import path

SECRET_KEY, ROOT_URLCONF, USE_TZ, ALLOWED_HOSTS = "for tests", "project", True, ["*"]
INSTALLED_APPS = ["tokenbudget_mw_django"]
MIDDLEWARE = ["tokenbudget_mw_django.TokenBudgetMiddleware"]
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", **eval(os.environ["HOST_DATABASE"])}}
TOKENBUDGET = {"identify": "ip", "plans": {"free": ["2 requests/minute"]}}
urlpatterns = [path("ask", lambda request: HttpResponse("42"))]


class Limits(TestCase):
    def test_limit(self):
        assert [self.client.get("/ask").status_code for _ in range(3)] == [200, 200, 429]
"""


SQLITE = """
from django.http import HttpResponse
from django.urls import path

SECRET_KEY, ROOT_URLCONF, USE_TZ, ALLOWED_HOSTS = "for tests", "project", True, ["*"]
INSTALLED_APPS = ["tokenbudget_mw_django"]
MIDDLEWARE = ["tokenbudget_mw_django.TokenBudgetMiddleware"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "real.db"}}
TOKENBUDGET = {"identify": "ip", "plans": {"free": ["2 requests/minute"]}}
urlpatterns = [path("ask", lambda request: HttpResponse("42"))]
"""

SQLITE_TESTS = """
from django.core.wsgi import get_wsgi_application
from django.test import TransactionTestCase

from tokenbudget_mw_django.conf import core
from tokenbudget_mw_django.models import Usage

application = get_wsgi_application()


class Books(TransactionTestCase):
    def test_rows(self):
        self.client.get("/ask")
        assert core().flush()
        assert Usage.objects.count() == 1
"""


def path_with(folder: Path) -> str:
    """The path on which Python looks for modules, with *folder* before it."""
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


def test_tests_of_a_project_leave_its_sqlite_file_alone(tmp_path: Path) -> None:
    """The application that a test's module makes is there before the test database, and its usage goes there all the same."""
    (tmp_path / "project.py").write_text(SQLITE)
    (tmp_path / "test_books.py").write_text(SQLITE_TESTS)
    told = {"DJANGO_SETTINGS_MODULE": "project", "XDG_STATE_HOME": str(tmp_path), "PYTHONPATH": path_with(tmp_path)}

    for command in (["migrate", "-v0"], ["test", "test_books", "--noinput"]):
        done = subprocess.run(
            [sys.executable, "-m", "django", *command],
            cwd=tmp_path,
            env=os.environ | told,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr

    with closing(sqlite3.connect(tmp_path / "real.db")) as connection:
        assert connection.execute("SELECT count(*) FROM tokenbudget_usage").fetchone() == (0,)
    assert not list(tmp_path.glob("tokenbudget-mw/spool/*/*/*.segment"))


def test_tests_of_a_project_end_well_on_postgresql(postgres_database: str, tmp_path: Path) -> None:
    """`manage.py test` drops its database at the end, and so it ends with 0; nothing of it reaches the real one."""
    url = make_url(postgres_database)
    named = {"NAME": url.database, "USER": url.username, "PASSWORD": url.password, "PORT": str(url.port or "")}
    named |= {"HOST": url.host or url.query.get("host") or ""}
    (tmp_path / "project.py").write_text(SETTINGS)
    told = {
        "DJANGO_SETTINGS_MODULE": "project",
        "HOST_DATABASE": repr(named),
        "XDG_STATE_HOME": str(tmp_path),
        "PYTHONPATH": path_with(tmp_path),
    }
    command = [sys.executable, "-m", "django", "test", "project", "--noinput"]

    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | told, capture_output=True, text=True, check=False, timeout=100
    )

    assert done.returncode == 0, done.stderr
    assert "Ran 1 test" in done.stderr


def test_settings_that_change_while_a_test_uses_its_core() -> None:
    """A test may change settings inside `using`: they hold from then on, and the block ends as any other."""
    from django.core.signals import setting_changed

    from tokenbudget_mw.wiring import wire
    from tokenbudget_mw_django import conf

    before = conf._cores.get("core")
    with conf.using(wire({"identify": "ip", "database": "sqlite://"})):
        setting_changed.send(sender=None, setting="TOKENBUDGET", value={}, enter=True)

    assert conf._cores.get("core") is before
