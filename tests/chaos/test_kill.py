"""
Processes killed at random moments: what they have acknowledged is in the books, to the pico-dollar.
"""

from __future__ import annotations

import random
import sys

import pytest
from chaos_rig import Writer, books_of, check, replay

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
