"""
Hours of bad luck in minutes: processes killed without end, a database that crashes under load, and books that agree.

Runs under ``tox -e chaos``, that is with ``TOKENBUDGET_TEST_CHAOS`` in the environment: its value scales the kills.
Elsewhere `conftest.py` leaves it out.
"""

from __future__ import annotations

import os
import random

import pytest
from chaos_rig import check, crash, crowd, lost, rage, replay

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.engine import open_engine

SCALE = float(os.environ.get("TOKENBUDGET_TEST_CHAOS", "0"))

pytestmark = pytest.mark.timeout(1_800)


@pytest.fixture
def books():
    engines = []

    def books(url: str):
        engines.append(open_engine(url))
        tables.metadata.create_all(engines[-1])
        return engines[-1]

    yield books
    for engine in engines:
        engine.dispose()


@pytest.fixture
def tell(capsys, request):
    """
    Say a line aloud, beside the test's name.
    """

    def tell(line):
        with capsys.disabled():
            print(f"\n{request.node.name}: {line}")

    return tell


def lost_in_memory(engine, folder, url, kills):
    """
    Return how many acknowledged records *kills* kills lose whose spool is in memory.
    """
    with crowd(folder, url, random.Random(13), mode="memory") as naive:
        rage(naive, kills)
        acknowledged = naive.kill_all()
    return lost(engine, acknowledged)


def test_t12_postgresql_crashes_too(books, postgres_server, tmp_path, tell):
    """
    100 kills among four processes, and 20 crashes of PostgreSQL under their load: nothing acknowledged is lost; the naive
    spool in memory loses.
    """
    url, crashes = postgres_server.url, round(20 * SCALE)
    kills = 5 * crashes
    engine = books(url)

    with crowd(tmp_path / "spool", url, random.Random(12)) as running:
        for number in range(crashes):
            rage(running, kills // crashes - 1)
            crash(postgres_server, running, kill_meanwhile=number % 2 == 0)
            rage(running, number % 2)
        acknowledged = running.kill_all()
    engine.dispose()  # what it holds is from before a crash
    replay("kill_safe", tmp_path / "spool", engine)
    written = check(engine, acknowledged)
    naively = lost_in_memory(engine, tmp_path / "none", url, kills // 10)

    tell(f"{written:,} acknowledged, {len(acknowledged)} killed; in memory {naively:,} lost")
    assert written > 100 * kills
    assert len(acknowledged) == kills + 4
    assert list((tmp_path / "spool").rglob("*.segment")) == []
    assert naively > 0


def test_t12_every_database(books, database_url, tmp_path, tell):
    """
    20 kills among four processes on each database: nothing acknowledged is lost; the naive spool in memory loses.
    """
    engine, kills = books(database_url), round(20 * SCALE)

    with crowd(tmp_path / "spool", database_url, random.Random(20)) as running:
        rage(running, kills)
        acknowledged = running.kill_all()
    replay("kill_safe", tmp_path / "spool", engine)
    written = check(engine, acknowledged)
    naively = lost_in_memory(engine, tmp_path / "none", database_url, kills // 4)

    tell(f"{written:,} acknowledged, {len(acknowledged)} killed; in memory {naively:,} lost")
    assert written > 100 * kills
    assert len(acknowledged) == kills + 4
    assert list((tmp_path / "spool").rglob("*.segment")) == []
    assert naively > 0


@pytest.mark.parametrize("mode", ["power_safe_window", "power_safe"])
def test_t12_other_modes(books, sqlite_database, tmp_path, mode):
    """
    The modes that also wait for the disk lose nothing to a kill either.
    """
    engine, kills = books(sqlite_database), round(10 * SCALE)

    with crowd(tmp_path / "spool", sqlite_database, random.Random(10), processes=2, mode=mode) as running:
        rage(running, kills)
        acknowledged = running.kill_all()
    replay("kill_safe", tmp_path / "spool", engine)

    assert check(engine, acknowledged) > 0
