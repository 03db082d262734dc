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


BUSY_TESTS = """
from django.test import TransactionTestCase

from tokenbudget_mw_django.conf import core
from tokenbudget_mw_django.models import Balance, Usage


class Busy(TransactionTestCase):
    def test_writes(self):
        for number in range(200):
            self.client.get("/ask")
            Balance.objects.create(account=f"user:{number}", balance_pico=0, updated_at="2026-01-01T00:00Z")
            Usage.objects.exists()
        assert core().flush()
        assert Usage.objects.count() == 200
"""

SPOOLED_TESTS = """
import os

from django.test import TransactionTestCase

from tokenbudget_mw_django.conf import core
from tokenbudget_mw_django.models import Usage


class Books(TransactionTestCase):
    def test_rows(self):
        self.client.get("/ask")
        assert core().flush()
        assert [row.path for row in Usage.objects.all()] == ["/ask"]
        self.client.get("/killed")
        os._exit(0)
"""

LEFT = """
import os

import django

django.setup()

from django.test import Client

client = Client()
client.get("/left")
os._exit(0)
"""
"""A process of the app that is killed before its usage, of which the tables are missing, is written."""


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


def run(folder: Path, *arguments: str) -> None:
    """Run Python in *folder*, with the project of its file ``project.py``."""
    told = {"DJANGO_SETTINGS_MODULE": "project", "XDG_STATE_HOME": str(folder), "PYTHONPATH": path_with(folder)}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | told,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr


def test_a_test_database_in_memory_is_written_when_asked_alone(tmp_path: Path) -> None:
    """SQLite locks whole tables of it and waits for nobody: beside a thread that writes, the tests' own statements would fail."""
    (tmp_path / "project.py").write_text(SQLITE.replace("2 requests/minute", "300 requests/minute"))
    (tmp_path / "test_busy.py").write_text(BUSY_TESTS)

    run(tmp_path, "-m", "django", "test", "test_busy", "--noinput")


def test_tests_leave_the_spool_of_the_settings_alone(tmp_path: Path) -> None:
    """What waits there is for the real database, and what the tests use is not."""
    (tmp_path / "project.py").write_text(SQLITE.replace('"ip",', '"ip", "spool_dir": "spool",'))
    (tmp_path / "test_spooled.py").write_text(SPOOLED_TESTS)
    run(tmp_path, "-c", LEFT)
    before = sorted(tmp_path.glob("spool/*/*"))

    run(tmp_path, "-m", "django", "test", "test_spooled", "--noinput")

    assert any(each.suffix == ".segment" for each in before)
    assert sorted(tmp_path.glob("spool/*/*")) == before


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
