"""
Hours of bad luck in minutes: processes killed without end, a database that crashes under load, and books that agree.

Runs under ``tox -e chaos``, that is with ``TOKENBUDGET_TEST_CHAOS`` in the environment: its value scales the kills.
Elsewhere `conftest.py` leaves it out.
"""

from __future__ import annotations

import os

import pytest
from chaos_rig import PostgresServer, check, rage, replay
from private_servers import ServerMissingError

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
def server():
    try:
        server = PostgresServer()
    except ServerMissingError as exc:
        pytest.skip(str(exc))
    yield server
    server.close()


def test_t12_postgresql_crashes_too(books, server, tmp_path):
    """
    100 kills among four processes, and 20 crashes of PostgreSQL under their load: nothing acknowledged is lost.
    """
    engine, kills, crashes = books(server.url), round(100 * SCALE), []

    def between(number: int) -> None:
        if number % 5 == 4:
            server.restart()
            crashes.append(number)

    acknowledged = rage(tmp_path / "spool", server.url, kills=kills, processes=4, between=between)
    engine.dispose()
    replay("kill_safe", tmp_path / "spool", engine)

    assert check(engine, acknowledged) > 100 * kills
    assert len(acknowledged) == kills + 4
    assert len(crashes) == kills // 5
    assert list((tmp_path / "spool").rglob("*.segment")) == []


def test_t12_every_database(books, database_url, tmp_path):
    """
    20 kills among four processes on each database: nothing acknowledged is lost.
    """
    engine, kills = books(database_url), round(20 * SCALE)

    acknowledged = rage(tmp_path / "spool", database_url, kills=kills, processes=4, between=lambda _number: None)
    replay("kill_safe", tmp_path / "spool", engine)

    assert check(engine, acknowledged) > 100 * kills


@pytest.mark.parametrize("mode", ["power_safe_window", "power_safe"])
def test_t12_other_modes(books, sqlite_database, tmp_path, mode):
    """
    The modes that also wait for the disk lose nothing to a kill either.
    """
    engine, kills = books(sqlite_database), round(10 * SCALE)

    acknowledged = rage(
        tmp_path / "spool", sqlite_database, kills=kills, processes=2, between=lambda _number: None, mode=mode
    )
    replay("kill_safe", tmp_path / "spool", engine)

    assert check(engine, acknowledged) > 0
