"""
An alias of ``DATABASES`` as SQLAlchemy's URL of the same database, its ``OPTIONS`` included.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.db.utils import load_backend
from sqlalchemy.engine import URL

from tokenbudget_mw.errors import ConfigurationError

__all__ = ["database_url"]

DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}
"""What Django's database engines call their servers -> SQLAlchemy's drivers."""

_VENDORS = {f"django.db.backends.{name}": name for name in ("postgresql", "mysql")} | {
    "django.db.backends.sqlite3": "sqlite",
    "django.contrib.gis.db.backends.postgis": "postgresql",
}
"""Those of the usual engines, which need not be loaded for it."""

_DJANGOS = {"assume_role", "client_encoding", "isolation_level", "prepare_threshold", "server_side_binding"}
"""Options for PostgreSQL that Django reads itself, or that are set anyway; libpq is given all others."""

_PYMYSQLS = {
    "unix_socket",
    "connect_timeout",
    "read_timeout",
    "write_timeout",
    "read_default_file",
    "read_default_group",
}
"""Options for MySQL that PyMySQL knows by the same names. Not the charset: the books have one of their own."""

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
    engine = config.get("ENGINE") or "django.db.backends.dummy"  # as Django has it
    driver = DRIVERS.get(_VENDORS.get(engine) or _vendor_of(engine))
    if driver is None:
        raise ConfigurationError(
            f"at `database.alias`: the engine {engine!r} of {alias!r} is not supported. Supported are Django's own for "
            "PostgreSQL, MySQL, MariaDB and SQLite, and what is built on them."
        )
    return _url_of(driver, config)


def _vendor_of(engine: str) -> str:
    """
    Return what an engine that another package has built on one of Django's says it is.
    """
    try:
        vendor: str = load_backend(engine).DatabaseWrapper.vendor
    except (ImproperlyConfigured, ImportError):  # Django tells of it, too, as soon as the engine is used
        return ""
    return vendor


def _url_of(driver: str, config: dict[str, Any]) -> URL:
    name, host, port = str(config.get("NAME") or ""), config.get("HOST") or None, str(config.get("PORT") or "")
    if driver == "sqlite":
        return URL.create(driver, database=name, query={"uri": "true"} if name.startswith("file:") else {})
    is_postgresql = driver.startswith("postgresql")
    options = config.get("OPTIONS") or {}
    query = dict(_postgresql(options) if is_postgresql else _mysql(options))
    if host is not None and host.startswith("/"):
        query, host = {**query, "host" if is_postgresql else "unix_socket": host}, None
    if "," in port:  # one for each of several hosts, of which a URL has room for one
        query, host, port = {**query, "host": host or "", "port": port}, None, ""
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
