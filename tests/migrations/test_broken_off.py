"""
A migration that was killed is run again: on each database, in either chain, whatever it had made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from migration_rig import FIRST_ROW, differences
from sqlalchemy import func, select, text

import tokenbudget_mw_alembic
from tokenbudget_mw.database import tables
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.errors import ConfigurationError
from tokenbudget_mw_alembic import chain

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from sqlalchemy import Engine

    Django = Callable[..., subprocess.CompletedProcess[str]]

SUMS = ("rollup_subjects", "rollup_hours", "rollup_days", "latency_hours", "latency_days")


# Processes, one after another, of which each is killed behind the first statement that none before it was killed behind,
# or before Django notes that a migration has run. The last one ends.
PROCESSES = """
import os, sys

WRITES = ("CREATE INDEX", "ALTER", "UPDATE")
if os.environ["HOST_DATABASE"].startswith("mysql"):  # which keeps each of them
    WRITES = ("CREATE", "ALTER", "INSERT INTO tokenbudget", "UPDATE")
done = set()
news, tell = os.pipe()

def before(sql, params):
    if "django_migrations" in sql and sql.startswith("INSERT"):
        die(str(params[:2]))

def behind(sql):
    if sql.lstrip().startswith(WRITES):
        die(sql)

def die(place):
    if place not in done:
        os.write(tell, place.encode())
        os._exit(9)

def run_until_one_ends(run):
    while True:
        child = os.fork()
        if not child:
            run()
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if os.waitstatus_to_exitcode(status) != 9:
            print(len(done))
            return sys.exit(os.waitstatus_to_exitcode(status))
        done.add(os.read(news, 65536).decode())
"""

ALEMBIC = """
import tokenbudget_mw_alembic
from sqlalchemy import event
from tokenbudget_mw.database.engine import open_engine

def run():
    engine = open_engine(os.environ["HOST_DATABASE"])
    event.listen(engine, "after_cursor_execute", lambda connection, cursor, sql, *_: behind(sql))
    tokenbudget_mw_alembic.upgrade(engine)
    engine.dispose()

run_until_one_ends(run)
"""

DJANGO = """
from django.core.management import call_command
from django.db import connection

def watch(execute, sql, params, many, context):
    before(sql, params)
    result = execute(sql, params, many, context)
    behind(sql)
    return result

def run():
    with connection.execute_wrapper(watch):
        call_command("migrate", verbosity=0)
    connection.close()

run_until_one_ends(run)
"""


def requests(engine: Engine) -> list[int]:
    with engine.connect() as connection:
        found = [tables.metadata.tables[f"tokenbudget_{name}"].c.requests for name in SUMS]
        return [int(connection.scalar(select(func.sum(column)))) for column in found]


@pytest.mark.parametrize("chain", ["alembic", "django"])
def test_it_is_killed_behind_every_statement(engine: Engine, django: Django, chain: str) -> None:
    """
    However often a migration is killed, the next run goes on: the schema is whole, and old rows are added up once.
    """
    if chain == "alembic":
        tokenbudget_mw_alembic.upgrade(engine, "0001")
    else:
        assert django("migrate", "tokenbudget_mw_django", "0001", "--verbosity=0").returncode == 0
    with engine.begin() as connection:
        connection.execute(FIRST_ROW)
    engine.dispose()

    done = django(code=PROCESSES + (ALEMBIC if chain == "alembic" else DJANGO))

    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > (30 if engine.dialect.name == "mysql" else 10)
    assert differences(engine) == []
    assert requests(engine) == [1] * len(SUMS)


def test_what_no_migration_has_left_is_told(mysql_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A table of our name with other columns is named, with what to do, and is not touched.
    """
    monkeypatch.setattr(chain, "MOST_WAIT", 0.2)
    engine = open_engine(mysql_database)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE tokenbudget_grants (id INTEGER)"))

    with pytest.raises(
        ConfigurationError, match=r"after revision 0006 .* 'tokenbudget_grants' already exists.* drop it"
    ):
        tokenbudget_mw_alembic.upgrade(engine)
    with engine.connect() as connection:
        names = connection.execute(text("SHOW COLUMNS FROM tokenbudget_grants")).scalars().all()
    engine.dispose()
    assert names == ["id"]
