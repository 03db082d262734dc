"""
Settings of a Django host with nothing but our app in it; the database comes from ``HOST_DATABASE`` (a SQLAlchemy URL).
"""

from __future__ import annotations

import os

from sqlalchemy import make_url

url = make_url(os.environ["HOST_DATABASE"])
backend = url.get_backend_name()

if backend in {"mysql", "mariadb"}:
    import pymysql

    pymysql.install_as_MySQLdb()

ENGINES = {"sqlite": "sqlite3", "postgresql": "postgresql", "mysql": "mysql", "mariadb": "mysql"}

SECRET_KEY = "for tests"
USE_TZ = os.environ.get("HOST_USE_TZ", "1") == "1"
TIME_ZONE = "Asia/Kolkata"
INSTALLED_APPS = ["tokenbudget_mw_django"]
if os.environ.get("HOST_ADMIN"):
    ROOT_URLCONF = "django_host"
    urlpatterns: list[object] = []
    INSTALLED_APPS += [f"django.contrib.{name}" for name in ("admin", "auth", "contenttypes", "sessions", "messages")]
# this host has models only, and no middleware or transactions; and that it has not migrated is what it is here for
SILENCED_SYSTEM_CHECKS = ["tokenbudget.W001", "tokenbudget.W005", "tokenbudget.W009"]
DATABASES = {
    "default": {
        "ENGINE": f"django.db.backends.{ENGINES[backend]}",
        "NAME": url.database,
        # a private server listens on a socket, whose folder stands in the query
        "HOST": url.host or url.query.get("host") or "",
        "PORT": str(url.port or ""),
        "USER": url.username or "",
        "PASSWORD": url.password or "",
        "TIME_ZONE": os.environ.get("HOST_DATABASE_ZONE") or None,
    }
}
