"""
Django's settings, read as ours: ``settings.TOKENBUDGET``, and the host's database by alias.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from django.conf import settings as django_settings
from django.core.signals import setting_changed
from django.db.backends.base.base import NO_DB_ALIAS
from django.db.backends.signals import connection_created

from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.settings import Settings
from tokenbudget_mw.wiring import open_bars, wire
from tokenbudget_mw_django.databases import database_url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from tokenbudget_mw.core import Core
    from tokenbudget_mw.upkeep.barring import Bars

__all__ = ["bars", "change_limits", "core", "engine_of", "forget", "read_settings", "remember_databases", "using"]

_lock = threading.Lock()
_cores: dict[str, Core] = {}
_named: dict[str, str] = {}
"""Alias -> the name of its database when the project was set up."""
_names: dict[str, str] = {}
"""The alias that the core's database has -> the name that it had when the core was made."""


def read_settings() -> Settings:
    """
    Check ``settings.TOKENBUDGET``. The database is ``{"alias": "default"}`` unless it names another.

    Raises:
        ConfigurationError: The settings are wrong.
    """
    given: Any = getattr(django_settings, "TOKENBUDGET", None)
    if given is None:
        given = {}
    if isinstance(given, Mapping):
        given = {"database": {"alias": "default"}, **given}
    return Settings.from_mapping(given, os.environ)


def core() -> Core:
    """
    Return this process's core, made at the first call and again when a test overrides the settings.
    """
    with _lock:
        if "core" not in _cores:
            checked = read_settings()
            alias = checked.database_alias
            engine = engine_of(alias) if alias else None
            if alias and _is_of_tests(alias):
                # files would outlive the test database: who finds them next writes them to the project's own, or the other way
                checked = checked.replace(spool="memory")
            made = _cores["core"] = wire(checked, engine=engine)
            if engine is not None and alias is not None:
                made.closers.append(engine.dispose)
                _names[alias] = _name_of(alias)
        return _cores["core"]


def remember_databases() -> None:
    """
    Remember which databases the settings name, before tests put others in their places.
    """
    _named.update({alias: _name_of(alias) for alias in django_settings.DATABASES})


def _is_of_tests(alias: str) -> bool:
    return _named.get(alias, _name_of(alias)) != _name_of(alias)


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


def forget() -> Core | None:
    """
    Take this process's core away, for the caller to close; None where none was made.
    """
    with _lock:
        _names.clear()
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
            _cores.pop("core", None)  # changed settings have taken it away already
            if before is not None:
                _cores["core"] = before


def _close() -> None:
    gone = forget()
    if gone is not None:
        gone.close()


def _renew(*, setting: str, **_: object) -> None:
    if setting in ("TOKENBUDGET", "DATABASES"):
        _close()


def _let_go(*, connection: Any, **_: object) -> None:
    """
    Write what waits and close our connections when Django makes or drops a test database: PostgreSQL drops none that
    anybody is connected to, and what comes next belongs to another one.
    """
    alias = connection.alias
    # Django connects so to no database for these two alone; on SQLite it only takes another name
    if alias == NO_DB_ALIAS or (alias in _names and _names[alias] != _name_of(alias)):
        _close()


def _name_of(alias: str) -> str:
    return str(django_settings.DATABASES[alias].get("NAME"))


setting_changed.connect(_renew, dispatch_uid="tokenbudget")
connection_created.connect(_let_go, dispatch_uid="tokenbudget")
