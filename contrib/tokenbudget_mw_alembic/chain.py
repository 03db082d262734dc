"""
Runs our migrations on a host's database.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import inspect, text

from tokenbudget_mw.database.online_indexes import mend
from tokenbudget_mw.database.partitions.patience import LOCK_MS, again
from tokenbudget_mw.errors import ConfigurationError, MissingExtraError

try:
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory
except ModuleNotFoundError as exc:
    raise MissingExtraError("migrations need 'alembic': pip install 'tokenbudget-mw[alembic]'") from exc

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

__all__ = ["VERSION_TABLE", "current", "head", "upgrade"]

VERSION_TABLE = "tokenbudget_alembic_version"

_DJANGO_APP = "tokenbudget_mw_django"


def upgrade(engine: Engine, revision: str = "head", *, sql: bool = False) -> str:
    """
    Bring our tables in the database of *engine* up to *revision*. Does nothing where they are.

    A step that needs a table for itself does not make its users queue up: it waits for an instant, steps back and tries again.
    On PostgreSQL, indexes of ours that an earlier run has left invalid are made anew.

    Args:
        engine: The host's database.

        revision: An Alembic revision of this package; ``head`` is the newest.

        sql: Return the statements for an empty database and run nothing.

    Returns:
        The statements with *sql*, otherwise nothing.

    Raises:
        ConfigurationError: Django's migrations made these tables.

        BusyTableError: Somebody holds a table and does not let go of it.
    """
    output = io.StringIO()
    config = _config(output)
    config.attributes["dialect"] = engine.dialect
    if sql:
        command.upgrade(config, revision, sql=True)
        return output.getvalue()
    with engine.connect() as connection:
        _refuse_second_chain(connection)
        connection.rollback()
        if engine.dialect.name == "postgresql":
            _upgrade_patiently(connection, config, revision)
        else:
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
    return ""


def _upgrade_patiently(connection: Connection, config: Config, revision: str) -> None:
    config.attributes["connection"] = connection

    def step() -> None:
        # each migration is a transaction of its own, so the next try goes on where this one has ended
        connection.rollback()
        connection.exec_driver_sql(f"SET lock_timeout = '{LOCK_MS}ms'")
        connection.commit()
        command.upgrade(config, revision)

    try:
        again(step)
    finally:
        connection.rollback()
        connection.exec_driver_sql("RESET lock_timeout")
        connection.commit()
    mend(connection.execution_options(isolation_level="AUTOCOMMIT"))


def current(engine: Engine) -> str | None:
    """
    Return the revision that the database of *engine* is at; None where our migrations have not run.
    """
    with engine.connect() as connection:
        return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


def head() -> str | None:
    """
    Return the newest revision of this package.
    """
    return ScriptDirectory.from_config(_config(io.StringIO())).get_current_head()


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
