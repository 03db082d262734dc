"""
All migrations on a large table that is being written: nothing is lost, and nobody waits for a lock for long.

A million rows under ``tox -e chaos``, some thousands elsewhere.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import func, select
from upgrade_rig import FlusherOfNow, WriterOfThen, fill_first_version, impatient

import tokenbudget_mw_alembic
from tokenbudget_mw.database import books, tables
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.online_indexes import broken
from tokenbudget_mw.database.partitions.conversion import convert
from tokenbudget_mw.database.repair import repair
from tokenbudget_mw.database.rows import moment

ROWS = 1_000_000 if os.environ.get("TOKENBUDGET_TEST_CHAOS") else 5_000

MOST_MS = 500
"""Milliseconds that a writer may wait for a lock; what it does besides is the machine's affair."""

pytestmark = pytest.mark.timeout(1_800)


def migrate(chain: str, url: str, to: str = "") -> None:
    """
    Run *chain* on the database at *url*, to its end or *to* a revision.
    """
    if chain == "alembic":
        engine = open_engine(url)
        tokenbudget_mw_alembic.upgrade(engine, to or "head")
        engine.dispose()
        return
    command = [
        sys.executable,
        "-m",
        "django",
        "migrate",
        "--verbosity=0",
        "tokenbudget_mw_django",
        *([to] if to else []),
    ]
    folder = Path(__file__).parents[1] / "migrations"
    host = {"HOST_DATABASE": url, "DJANGO_SETTINGS_MODULE": "django_host", "PYTHONPATH": str(folder)}
    subprocess.run(command, env={**os.environ, **host}, check=True, timeout=1_200)


@pytest.mark.parametrize("chain", ["alembic", "django"])
def test_a_table_is_upgraded_while_it_is_written(chain: str, postgres_database: str) -> None:
    """
    From the first revision to the last, and then to partitions, under a writer of the first version and one of this.
    """
    engine, hasty = open_engine(postgres_database), impatient(postgres_database, MOST_MS)
    migrate(chain, postgres_database, "0001")
    fill_first_version(engine, ROWS)

    with FlusherOfNow(hasty).running() as now, WriterOfThen(hasty).running() as then:
        migrate(chain, postgres_database)
        upgraded_s = then.slowest_s
        swap_s = convert(engine, "day", now=moment(1_767_225_600_000_000)).swap_s
    print(
        f"{chain}, {ROWS:,} rows: the slowest write took {upgraded_s * 1000:.0f} ms under the migrations, "
        f"{then.slowest_s * 1000:.0f} ms with the conversion, which held the table for {swap_s * 1000:.0f} ms"
    )

    # what the first version wrote after the rollups were filled is in none of them: `verify --repair` adds it
    repair(engine, note="upgraded under a writer of the first version")
    with engine.connect() as connection:
        rows = connection.execute(select(func.count()).select_from(tables.usage)).scalar_one()
        invalid = broken(connection)
    report = books.verify(engine)
    for opened in (engine, hasty):
        opened.dispose()
    assert (then.failures, now.failures, invalid) == ([], [], [])
    assert rows == ROWS + then.rows + now.rows
    assert min(then.rows, now.rows) > 0
    assert report.verified, report
    assert report.balance_pico == -now.rows * (now.rows + 1) // 2
