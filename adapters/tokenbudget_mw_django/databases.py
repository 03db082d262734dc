"""
An alias of ``DATABASES`` as SQLAlchemy's URL of the same database, its ``OPTIONS`` included.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.conf import settings as django_settings
from sqlalchemy.engine import URL

from tokenbudget_mw.errors import ConfigurationError

__all__ = ["database_url"]

DRIVERS = {
    "django.db.backends.sqlite3": "sqlite",
    "django.db.backends.postgresql": "postgresql+psycopg",
    "django.contrib.gis.db.backends.postgis": "postgresql+psycopg",
    "django.db.backends.mysql": "mysql+pymysql",
}
"""Django's database engines -> SQLAlchemy's."""

_DJANGOS = {"assume_role", "client_encoding", "isolation_level", "prepare_threshold", "server_side_binding"}
"""Options for PostgreSQL that Django reads itself, or that are set anyway; libpq is given all others."""

_PYMYSQLS = {"charset", "connect_timeout", "read_timeout", "write_timeout", "read_default_file", "read_default_group"}
"""Options for MySQL that PyMySQL knows by the same names."""

_ENCRYPTED = ("REQUIRED", "VERIFY_CA")
"""Modes of mysqlclient's ``ssl_mode`` that encrypt and do not look at the host's name."""


def database_url(alias: str) -> URL:
    """
    Translate a Django database alias into SQLAlchemy's URL.

    Raises:
        ConfigurationError: There is no such alias, or its engine is none that we know.
    """
    databases = django_settings.DATABASES
    if alias not in databases:
        known = ", ".join(sorted(databases))
        raise ConfigurationError(f"at `database.alias`: no {alias!r} in DATABASES. There is: {known}.")
    config = databases[alias]
    driver = DRIVERS.get(config["ENGINE"])
    if driver is None:
        known = ", ".join(sorted(DRIVERS))
        raise ConfigurationError(
            f"at `database.alias`: the engine {config['ENGINE']!r} of {alias!r} is not supported. Supported: {known}."
        )
    return _url_of(driver, config)


def _url_of(driver: str, config: dict[str, Any]) -> URL:
    name, host, port = str(config["NAME"] or ""), config.get("HOST") or None, config.get("PORT")
    if driver == "sqlite":
        return URL.create(driver, database=name, query={"uri": "true"} if name.startswith("file:") else {})
    is_postgresql = driver.startswith("postgresql")
    options = config.get("OPTIONS") or {}
    query = dict(_postgresql(options) if is_postgresql else _mysql(options))
    if host is not None and host.startswith("/"):
        query, host = {**query, "host" if is_postgresql else "unix_socket": host}, None
    return URL.create(
        driver,
        username=config.get("USER") or None,
        password=config.get("PASSWORD") or None,
        host=host,
        port=int(port) if port else None,
        database=name or None,  # a service, or a file of defaults, may name it
        query=query,
    )


def _postgresql(options: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in options.items():
        if name not in _DJANGOS and isinstance(value, str | int) and not isinstance(value, bool):
            yield name, str(value)
    if role := options.get("assume_role"):
        yield "options", f"{options.get('options', '')} -c role={role}".strip()


def _mysql(options: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name in _PYMYSQLS & options.keys():
        yield name, str(options[name])
    for name, value in (options.get("ssl") or {}).items():
        yield f"ssl_{name}", str(value)
    if str(options.get("ssl_mode", "")).upper() in _ENCRYPTED:
        yield "ssl_check_hostname", "false"
