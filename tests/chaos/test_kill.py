"""
Processes killed at random moments: what they have acknowledged is in the books, to the pico-dollar.
"""

from __future__ import annotations

import random
import sys

import pytest
from chaos_rig import Writer, books_of, check, crash, crowd, rage, replay

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.engine import open_engine

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")


@pytest.fixture
def engine(sqlite_database):
    engine = open_engine(sqlite_database)
    tables.metadata.create_all(engine)
    yield engine
    engine.dispose()


def test_t12_acknowledged_is_recovered(engine, sqlite_database, tmp_path):
    """
    Ten processes are killed while they record at full speed; each finds what those before it have left.
    """
    rng, acknowledged = random.Random(12), {}

    for _ in range(10):
        writer = Writer("kill_safe", tmp_path / "spool", sqlite_database)
        writer.run(rng.randrange(1, 6_000))
        acknowledged[writer.instance] = writer.kill()
    replay("kill_safe", tmp_path / "spool", engine)

    assert check(engine, acknowledged) > 5_000
    assert list((tmp_path / "spool").rglob("*.segment")) == []


def test_t12_memory_loses(engine, sqlite_database, tmp_path):
    """
    The same kills with the spool in memory lose acknowledged records: the test above can fail.
    """
    acknowledged = {}

    for _ in range(3):
        writer = Writer("memory", tmp_path / "spool", sqlite_database)
        writer.run(3_000)
        acknowledged[writer.instance] = writer.kill()

    found = books_of(engine)
    lost = sum(last - (found[instance].rows if instance in found else 0) for instance, last in acknowledged.items())
    assert lost > 0


def test_t12_a_database_that_crashes_loses_nothing(postgres_server, tmp_path):
    """
    PostgreSQL crashes while two processes record, one of which is killed meanwhile: what `tox -e chaos` does at length.
    """
    engine = open_engine(postgres_server.url)
    tables.metadata.create_all(engine)

    with crowd(tmp_path / "spool", postgres_server.url, random.Random(1), processes=2) as running:
        rage(running, 1)
        crash(postgres_server, running, kill_meanwhile=True)
        acknowledged = running.kill_all()
    engine.dispose()  # what it holds is from before the crash
    replay("kill_safe", tmp_path / "spool", engine)

    assert check(engine, acknowledged) > 1_000
    assert len(acknowledged) == 4
    engine.dispose()
