"""
Django's settings, read as ours: ``settings.TOKENBUDGET``, and the host's database by alias.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from django.conf import settings as django_settings
from django.core.signals import setting_changed
from sqlalchemy.engine import URL

from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.errors import ConfigurationError
from tokenbudget_mw.settings import Settings
from tokenbudget_mw.wiring import open_bars, wire

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy import Engine

    from tokenbudget_mw.barring import Bars
    from tokenbudget_mw.core import Core

__all__ = ["bars", "change_limits", "core", "database_url", "engine_of", "forget", "read_settings", "using"]

DRIVERS = {
    "django.db.backends.sqlite3": "sqlite",
    "django.db.backends.postgresql": "postgresql+psycopg",
    "django.contrib.gis.db.backends.postgis": "postgresql+psycopg",
    "django.db.backends.mysql": "mysql+pymysql",
}
"""Django's database engines -> SQLAlchemy's."""

_lock = threading.Lock()
_cores: dict[str, Core] = {}


def read_settings() -> Settings:
    """
    Check ``settings.TOKENBUDGET``. The database is ``{"alias": "default"}`` unless it names another.

    Raises:
        ConfigurationError: The settings are wrong.
    """
    given: dict[str, Any] = getattr(django_settings, "TOKENBUDGET", None) or {}
    return Settings.from_mapping({"database": {"alias": "default"}, **given}, os.environ)


def core() -> Core:
    """
    Return this process's core, made at the first call and again when a test overrides the settings.
    """
    with _lock:
        if "core" not in _cores:
            checked = read_settings()
            engine = engine_of(checked.database_alias) if checked.database_alias else None
            made = _cores["core"] = wire(checked, engine=engine)
            if engine is not None:
                made.closers.append(engine.dispose)
        return _cores["core"]


def change_limits(changes: Mapping[str, Any]) -> None:
    """
    Put other limits in the place of those that hold, in this process; what was counted stays.

    Args:
        changes: Any of ``plans``, ``limits``, ``overrides`` and ``default_plan``, as in the settings; each is whole.

    Raises:
        ConfigurationError: Something is wrong. Then nothing has changed.
    """
    core().change_limits(changes)


def bars() -> Bars:
    """
    Return what tells the backend of keys that may pass no more: by the core's connection where this process has a core.
    """
    with _lock:
        running = _cores.get("core")
    return open_bars(running.settings if running is not None else read_settings(), running)


def engine_of(alias: str) -> Engine:
    """
    Open the database that ``DATABASES`` names *alias*.

    Raises:
        ConfigurationError: There is no such alias, or its engine is none that we know.
    """
    return open_engine(database_url(alias))


def database_url(alias: str) -> URL:
    """
    Translate a Django database alias into SQLAlchemy's URL.
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
    name, host, port = str(config["NAME"]), config.get("HOST") or None, config.get("PORT")
    query: dict[str, str] = {}
    if driver == "sqlite":
        return URL.create(driver, database=name, query={"uri": "true"} if name.startswith("file:") else query)
    if host is not None and host.startswith("/"):
        query, host = {"host" if driver.startswith("postgresql") else "unix_socket": host}, None
    return URL.create(
        driver,
        username=config.get("USER") or None,
        password=config.get("PASSWORD") or None,
        host=host,
        port=int(port) if port else None,
        database=name,
        query=query,
    )


def forget() -> Core | None:
    """
    Take this process's core away, for the caller to close; None where none was made.
    """
    with _lock:
        return _cores.pop("core", None)


@contextmanager
def using(tested: Core) -> Iterator[None]:
    """
    Let requests inside the block take *tested* instead of a core made from the settings: for tests.
    """
    with _lock:
        before = _cores.pop("core", None)
        _cores["core"] = tested
    try:
        yield
    finally:
        with _lock:
            del _cores["core"]
            if before is not None:
                _cores["core"] = before


def _renew(*, setting: str, **_: object) -> None:
    if setting in ("TOKENBUDGET", "DATABASES"):
        gone = forget()
        if gone is not None:
            gone.close()


setting_changed.connect(_renew, dispatch_uid="tokenbudget")
