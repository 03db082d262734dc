"""
``tokenbudget-mw doctor``: looks at everything that a running app depends on, and says what is wrong.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

from tokenbudget_mw.cli.context import MIGRATE, add_json, add_source, database_fault, many
from tokenbudget_mw.errors import MissingExtraError, TokenBudgetError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tokenbudget_mw.backends.redis.start import Look
    from tokenbudget_mw.cli.context import Context
    from tokenbudget_mw.settings import Settings

__all__ = ["add_arguments", "run"]

RECENT = timedelta(days=30)
"""How far back usage rows are searched for models without a price."""

OLDEST_REDIS = (6, 2)
REDIS_TIMEOUT = 2.0
"""Seconds that Redis gets to answer."""

_DJANGOS, _ALEMBICS = "django_migrations", "tokenbudget_alembic_version"
"""Tables in which the two chains note what has run."""


@dataclass(frozen=True, slots=True)
class Finding:
    """
    What was found in one place.

    Attributes:
        part: Where: ``settings``, ``database``, ``backend``, ``prices``, ``spool``.

        state: ``ok``, ``warning`` or ``problem``.

        message: What it is, and what to do.
    """

    part: str
    state: Literal["ok", "warning", "problem"]
    message: str


def add_arguments(parser: ArgumentParser) -> None:
    """
    Add the command's arguments.
    """
    add_source(parser, backend=True)
    add_json(parser)


def run(context: Context) -> int:
    """
    Run the command.
    """
    settings = context.settings()
    findings = list(_settings(settings))
    findings += _guarded(context, "backend", lambda: _backend(settings))
    findings += _guarded(context, "database", lambda: _database(context, settings))
    if all(finding.state != "problem" for finding in findings):
        findings += _guarded(context, "settings", lambda: _plugged(context, settings))
    is_well = all(finding.state != "problem" for finding in findings)
    marks = {"ok": "ok     ", "warning": "warning", "problem": "PROBLEM"}
    lines = [f"{marks[finding.state]}  {finding.part:8}  {finding.message}" for finding in findings]
    context.emit({"ok": is_well, "findings": [asdict(finding) for finding in findings]}, lines)
    return 0 if is_well else 1


def _guarded(context: Context, part: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """
    Give what *look* finds; what keeps it from looking is a finding, too.
    """
    try:
        yield from look()
    except TokenBudgetError as exc:
        yield Finding(part, "problem", str(exc))
    except Exception as exc:
        fault = database_fault(exc, context.place)
        if fault is None:
            raise
        yield Finding(part, "problem", fault)


def _plugged(context: Context, settings: Settings) -> Iterator[Finding]:
    """
    Start what an app starts: functions of the host, tokenizers, drivers.
    """
    context.try_out(settings)
    yield Finding("settings", "ok", "what they name can be imported")


def _settings(settings: Settings) -> Iterator[Finding]:
    from tokenbudget_mw import prices
    from tokenbudget_mw.settings import warnings_of

    plans, routes = len(settings.plans), len(settings.routes)
    yield Finding(
        "settings",
        "ok",
        f"can be read: {many(plans, 'plan')}, {many(len(settings.limits), 'limit')} for all, {many(routes, 'route')}",
    )
    for warning in warnings_of(settings):
        yield Finding("settings", "warning", warning)
    yield Finding(
        "prices",
        "ok",
        f"price book of {prices.load().version}, and {many(len(settings.tariffs), 'tariff')} of the settings",
    )
    for name, model in settings.models.items():
        if not _is_priced(settings, name, model):
            message = f"`models` maps {name!r} to {model!r}, which has no price. Add it to `tariffs`."
            yield Finding("prices", "warning", message)


def _is_priced(settings: Settings, deployment: str, model: str) -> bool:
    from tokenbudget_mw import prices
    from tokenbudget_mw.counting.models import tariff_name

    names = {name.lower() for name in (deployment, model, tariff_name(model))}
    return any(tariff.model.lower() in names for tariff in settings.tariffs) or any(map(prices.load().find, names))


# -- the backend ------------------------------------------------------------------------------------------------------


def _backend(settings: Settings) -> Iterator[Finding]:
    scheme = settings.backend.partition(":")[0]
    if scheme == "memory":
        yield Finding("backend", "ok", "memory://: limits hold within each process")
    elif scheme.removeprefix("leased+").partition("+")[0] in ("redis", "rediss", "unix"):
        yield from _redis(settings)
    else:
        from tokenbudget_mw.backends import open_backend

        open_backend(settings.backend).close()
        yield Finding("backend", "ok", f"{scheme}:// can be opened; what is behind it is not looked at")


def _redis(settings: Settings) -> Iterator[Finding]:
    try:
        from tokenbudget_mw.backends.redis.start import look_at
    except ModuleNotFoundError as exc:
        raise MissingExtraError("redis:// needs 'redis': pip install 'tokenbudget-mw[redis]'") from exc

    url = settings.backend.removeprefix("leased+")
    try:
        looks = list(look_at(url, REDIS_TIMEOUT))
    except ValueError:
        yield Finding(
            "backend", "problem", "The backend's redis URL cannot be read."
        )  # the error may quote the password
        return
    for look in looks:
        yield from _server(look)
    if "+cluster" in url:
        yield from _cluster(settings, len(looks))


def _server(look: Look) -> Iterator[Finding]:
    from tokenbudget_mw.backends.redis.start import eviction_fault

    name = f"Redis {look.place}".rstrip()
    if look.fault and not look.version:
        yield Finding("backend", "problem", f"{look.place} {look.fault}".strip())
        return
    if look.fault:
        yield Finding("backend", "problem", look.fault)
    is_old = bool(look.version) and tuple(int(part) for part in look.version.split(".")[:2]) < OLDEST_REDIS
    message = f"{name} has version {look.version or 'unknown'}{', which is older than 6.2' if is_old else ''}"
    yield Finding("backend", "warning" if is_old else "ok", message)
    fault = eviction_fault(look.policy)
    if fault:
        yield Finding("backend", "problem" if look.policy.startswith("allkeys") else "warning", fault)


def _cluster(settings: Settings, nodes: int) -> Iterator[Finding]:
    from tokenbudget_mw.rules.policy import Policy
    from tokenbudget_mw.values import Subject

    yield Finding("backend", "ok", f"a cluster of {nodes} nodes")
    policy = Policy(settings.plans, settings.limits, settings.default_plan, settings.timezone, routes=settings.routes)
    if policy.tag_of(Subject(key="one")) == policy.tag_of(Subject(key="another")):
        message = "A limit counts for all tenants together, so all counters share a slot: one node does all the work."
        yield Finding("backend", "warning", message)


# -- the database -----------------------------------------------------------------------------------------------------


def _database(context: Context, settings: Settings) -> Iterator[Finding]:
    from sqlalchemy import inspect

    from tokenbudget_mw.database.engine import reader
    from tokenbudget_mw.database.gaps import gaps

    with context.database() as engine:
        yield from _spool(settings, engine)
        with reader(engine).connect() as connection:
            known = {name for name in (_DJANGOS, _ALEMBICS) if inspect(connection).has_table(name)}
            missing = gaps(connection)
            version = ".".join(map(str, connection.dialect.server_version_info or ()))
            is_postgresql = connection.dialect.name == "postgresql"
            encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one() if is_postgresql else "UTF8"
        name = "mariadb" if getattr(engine.dialect, "is_mariadb", False) else engine.dialect.name
        yield Finding("database", "ok", f"{name} {version} answers")
        if encoding not in {"UTF8", "SQL_ASCII"}:
            message = f"its encoding is {encoding}: usage with other characters becomes dead letters. Use one with UTF8"
            yield Finding("database", "warning", message)
        if missing:
            yield Finding("database", "problem", _missing(engine, missing, known))
            return
        yield from _schema(engine, known)
        yield from _indexes(engine)
        yield from _stored(engine)
        yield from _unpriced(engine)
        yield from _undecided(engine)
        yield from _keys(engine, settings)


def _spool(settings: Settings, engine: Engine) -> Iterator[Finding]:
    from tokenbudget_mw.accounting.looking import faults_of
    from tokenbudget_mw.accounting.opening import spool_folder

    folder = None if settings.spool == "memory" else spool_folder(settings.spool_dir, engine.url, os.environ)
    if folder is None:
        yield Finding("spool", "ok", "usage that waits is in memory: a process that is killed loses it")
        return
    faults = list(faults_of(folder))
    yield from (Finding("spool", "warning", fault) for fault in faults)
    if not faults:
        yield Finding("spool", "ok", f"usage that waits lies in {folder}")


def _missing(engine: Engine, missing: list[str], known: set[str]) -> str:
    from tokenbudget_mw.database.gaps import lost

    if _ALEMBICS in known:
        try:
            from tokenbudget_mw_alembic import current, head
        except MissingExtraError:
            pass  # who has not the extra is told to migrate, which asks for it
        else:
            at = current(engine)
            if at is not None and at == head():
                return lost(missing, at)
    return f"tables or columns are missing: {', '.join(missing)}. {MIGRATE}"


def _schema(engine: Engine, known: set[str]) -> Iterator[Finding]:
    if known == {_DJANGOS}:
        yield Finding("database", "ok", "the tables are Django's to migrate")
        return
    try:
        from tokenbudget_mw_alembic import current, head, is_known
    except MissingExtraError as exc:
        yield Finding("database", "warning", f"the schema's version cannot be read: {exc}")
        return
    at, newest = current(engine), head()
    if at == newest:
        yield Finding("database", "ok", f"the schema is at {at}, the newest")
    elif at is not None and not is_known(at):
        yield Finding(
            "database", "ok", f"the schema is at {at}, which a newer version has made; it serves this one, too"
        )
    elif at is None:
        message = f"nothing notes which migrations made the tables, and {newest} is needed. {MIGRATE}"
        yield Finding("database", "problem", message)
    else:
        yield Finding("database", "problem", f"the schema is at {at}, and {newest} is needed. {MIGRATE}")


def _indexes(engine: Engine) -> Iterator[Finding]:
    from tokenbudget_mw.database.online_indexes import broken

    with engine.connect() as connection:
        names = broken(connection)
    for name in names:
        message = (
            f"index {name} is invalid, as a migration that was broken off leaves one: it slows writes and answers nothing. "
            f"Run `tokenbudget-mw migrate`, or REINDEX INDEX CONCURRENTLY {name} in SQL."
        )
        yield Finding("database", "warning", message)


def _stored(engine: Engine) -> Iterator[Finding]:
    from tokenbudget_mw.database.tariffs import TariffStore

    held = TariffStore(engine).find(at=datetime.now(UTC).timestamp())
    yield Finding("prices", "ok", f"{many(len(held), 'tariff')} of the database in force")


def _unpriced(engine: Engine) -> Iterator[Finding]:
    from sqlalchemy import func, literal_column, select

    from tokenbudget_mw.database.engine import reader
    from tokenbudget_mw.database.tables import corrections, usage

    is_corrected = select(corrections.c.id).where(corrections.c.usage_id == usage.c.id).exists()
    model = func.coalesce(usage.c.response_model, usage.c.request_model)
    wanted = (
        select(model.label("model"), usage.c.price_kind, func.count())
        .where(
            usage.c.created_at >= datetime.now(UTC) - RECENT,
            usage.c.price_kind != literal_column("'known'"),
            ~is_corrected,
        )
        .group_by("model", usage.c.price_kind)
    )
    with reader(engine).connect() as connection:
        for name, kind, rows in connection.execute(wanted):
            charged = "charged the ceiling" if kind == "ceiling" else "charged nothing"
            message = (
                f"model {name!r} has no price: {many(rows, 'row')} of the last {RECENT.days} days {charged}. "
                "Add it to `tariffs`; `tokenbudget-mw rerate` prices the rows again."
            )
            yield Finding("prices", "warning", message)


def _undecided(engine: Engine) -> Iterator[Finding]:
    from tokenbudget_mw.database.letters import LetterStore
    from tokenbudget_mw.database.reviewing import waiting

    letters = LetterStore(engine).count()
    if letters:
        message = f"{many(letters, 'usage record')} could not be written: see `tokenbudget-mw dead-letters`."
        yield Finding("database", "warning", message)
    calls = len(waiting(engine, since=datetime.now(UTC) - RECENT))
    if calls:
        message = f"{many(calls, 'call')} of processes that died to be decided: `tokenbudget-mw orphans` does it."
        yield Finding("database", "warning", message)


def _keys(engine: Engine, settings: Settings) -> Iterator[Finding]:
    from sqlalchemy import func, select

    from tokenbudget_mw.database.engine import reader
    from tokenbudget_mw.database.tables import keys

    wanted = select(keys.c.plan, func.count()).where(keys.c.status == "active").group_by(keys.c.plan)
    with reader(engine).connect() as connection:
        plans = {plan: int(count) for plan, count in connection.execute(wanted)}
    yield Finding("database", "ok", f"{sum(plans.values())} active keys")
    for plan, count in plans.items():
        if plan is not None and plan not in settings.plans:
            fate = "take the default plan" if settings.default_plan else "are refused"
            yield Finding(
                "settings", "warning", f"{count} active keys have plan {plan!r}, which does not exist: they {fate}."
            )
