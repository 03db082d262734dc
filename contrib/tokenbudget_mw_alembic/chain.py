"""
Runs our migrations on a host's database.
"""

from __future__ import annotations

import io
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import event, inspect, text
from sqlalchemy.exc import DBAPIError

from tokenbudget_mw.database.engine import reader
from tokenbudget_mw.database.faults import is_being_changed, is_deadlock, is_there_already
from tokenbudget_mw.database.gaps import gaps, lost
from tokenbudget_mw.database.online_indexes import mend
from tokenbudget_mw.database.partitions.patience import LOCK_MS, again
from tokenbudget_mw.errors import ConfigurationError, MissingExtraError

try:
    from alembic import command, context, op
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError
except ModuleNotFoundError as exc:
    raise MissingExtraError("migrations need 'alembic': pip install 'tokenbudget-mw[alembic]'") from exc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine

__all__ = ["VERSION_TABLE", "current", "head", "is_known", "upgrade"]

VERSION_TABLE = "tokenbudget_alembic_version"

MOST_WAIT = 60.0
"""Seconds that somebody else who makes a step at the same time may take for it."""

_DJANGO_APP = "tokenbudget_mw_django"

_running = threading.RLock()


def upgrade(engine: Engine, revision: str = "head", *, sql: bool = False) -> str:
    """
    Bring our tables in the database of *engine* up to *revision*. Does nothing where they are.

    A step that needs a table for itself does not make its users queue up: it waits for an instant, steps back and tries again.
    Several at once, as when the replicas of an app start together, are as good as one. One that was killed is run again.
    Tables that a newer version has made are left as they are: they serve this one, too.
    It may be called from any thread, and from a host's own ``env.py`` or migration.
    On PostgreSQL, indexes of ours that an earlier run has left invalid are made anew.

    Args:
        engine: The host's database.

        revision: An Alembic revision of this package; ``head`` is the newest.

        sql: Return the statements for an empty database and run nothing.

    Returns:
        The statements with *sql*, otherwise nothing.

    Raises:
        ConfigurationError: Django's migrations made these tables, nothing notes which ones did, something else has a name
            that a step needs, or somebody has dropped what no step makes again.

        BusyTableError: Somebody holds a table and does not let go of it.
    """
    output = io.StringIO()
    config = _config(output)
    config.attributes["dialect"] = engine.dialect
    if sql:
        with _alone():
            command.upgrade(config, revision, sql=True)
        return output.getvalue()
    with _alone(), engine.connect() as connection:
        before = _revision(connection)
        if before is None:
            _refuse_second_chain(connection)
            _refuse_unknown(connection)
            connection.rollback()
        elif not is_known(before):
            return ""
        config.attributes["connection"] = connection
        if engine.dialect.name == "postgresql":
            _upgrade_patiently(connection, config, revision)
        else:
            _upgrade_beside_others(connection, config, revision)
        _refuse_gaps(connection)
    return ""


@contextmanager
def _alone() -> Iterator[None]:
    """
    Keep off others who use Alembic in this process: it keeps what it runs in its modules. One thread runs ours at a time, and a
    host's run, of which this is a part, finds its own there afterwards.
    """
    with _running:
        outer = [getattr(module, "_proxy", None) for module in (context, op)]
        try:
            yield
        finally:
            for proxy in outer:
                if proxy is not None:
                    proxy._install_proxy()  # noqa: SLF001 - what Alembic itself calls on the way in


def _upgrade_beside_others(connection: Connection, config: Config, revision: str) -> None:
    """
    Upgrade, and go on where somebody else has come to who was quicker with a step.
    """
    waited_at: str | None = ""
    while True:
        before = _revision(connection)
        try:
            command.upgrade(config, revision)
        except DBAPIError as exc:
            connection.rollback()
            if is_deadlock(exc) or is_being_changed(exc):  # by those who write, or migrate, meanwhile
                continue
            if not is_there_already(exc):
                raise
            is_whole = connection.dialect.name == "sqlite"  # a step is: there, nobody can be in the midst of it
            if not _moves_on(connection, before, 0.0 if is_whole or waited_at == before else MOST_WAIT):
                if is_whole or waited_at == before:
                    raise _in_the_way(before, exc) from exc
                waited_at = before  # whoever made it may have been killed: what is left of it is gone on with
        except CommandError:  # the revision is no longer the one that the step began at
            connection.rollback()
            if not _moves_on(connection, before, 0.0):
                raise
        else:
            return


def _in_the_way(before: str | None, exc: DBAPIError) -> ConfigurationError:
    return ConfigurationError(
        f"The step after revision {before or 'none'} makes what is there already, and not as it would be made: {exc.orig}. "
        "No migration of ours has left that. Rename or drop it, or restore the tables from a backup; then migrate again."
    )


def _moves_on(connection: Connection, before: str | None, wait: float) -> bool:
    end = time.monotonic() + wait
    while _revision(connection) == before:
        if time.monotonic() >= end:
            return False
        time.sleep(0.1)
    return True


def _revision(connection: Connection) -> str | None:
    found = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
    connection.rollback()
    return found


def _upgrade_patiently(connection: Connection, config: Config, revision: str) -> None:
    def step() -> None:
        # each migration is a transaction of its own, so the next try goes on where this one has ended
        connection.rollback()
        _upgrade_beside_others(connection, config, revision)

    event.listen(connection, "begin", _limit)
    try:
        again(step)
    finally:
        connection.rollback()
        event.remove(connection, "begin", _limit)
    mend(connection.execution_options(isolation_level="AUTOCOMMIT"))


def _limit(connection: Connection) -> None:
    """
    Bound the waits of a transaction that has begun, and give it time. Not of the session: behind a pooler, that is another
    one in each transaction, and other clients' afterwards.
    """
    if connection.get_isolation_level() != "AUTOCOMMIT":
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_MS}ms'")
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")


def current(engine: Engine) -> str | None:
    """
    Return the revision that the database of *engine* is at; None where our migrations have not run.
    """
    with reader(engine).connect() as connection:
        return _revision(connection)


def is_known(revision: str) -> bool:
    """
    Whether *revision* is one of this version's; others are newer.
    """
    return any(script.revision == revision for script in _scripts().walk_revisions())


def head() -> str | None:
    """
    Return the newest revision of this package.
    """
    return _scripts().get_current_head()


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config(io.StringIO()))


def _config(output: io.StringIO) -> Config:
    config = Config(output_buffer=output, stdout=output)
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _refuse_second_chain(connection: Connection) -> None:
    if not inspect(connection).has_table("django_migrations"):
        return
    applied = connection.execute(
        text("SELECT COUNT(*) FROM django_migrations WHERE app = :app"), {"app": _DJANGO_APP}
    ).scalar_one()
    if applied:
        raise ConfigurationError(
            f"Django's migrations of {_DJANGO_APP!r} made the tables in this database, so Django keeps them: "
            f"run `manage.py migrate {_DJANGO_APP}` instead."
        )


def _refuse_unknown(connection: Connection) -> None:
    if gaps(connection) or _revision(connection) is not None:  # another process may have made them since
        return
    note = f"INSERT INTO {VERSION_TABLE} VALUES ('{head()}')"  # noqa: S608 - for a person to run
    raise ConfigurationError(
        f"All tables of this version are there, and {VERSION_TABLE} does not say so, as after `create_all` or from a backup without "
        f"it. Keep them, and note it yourself: `CREATE TABLE IF NOT EXISTS {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL PRIMARY "
        f"KEY)`, `{note}`."
    )


def _refuse_gaps(connection: Connection) -> None:
    at = _revision(connection)
    missing = gaps(connection) if at is not None and at == head() else []
    connection.rollback()
    if at is not None and missing:
        raise ConfigurationError(lost(missing, at))
