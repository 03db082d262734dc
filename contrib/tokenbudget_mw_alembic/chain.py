"""
Runs our migrations on a host's database.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import inspect, text

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

    Args:
        engine: The host's database.

        revision: An Alembic revision of this package; ``head`` is the newest.

        sql: Return the statements for an empty database and run nothing.

    Returns:
        The statements with *sql*, otherwise nothing.

    Raises:
        ConfigurationError: Django's migrations made these tables.
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
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    return ""


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
