"""
T18 in several processes on one Redis, each with a key cache of its own that forgets nothing by itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from keyed_app import settings_of

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.wiring import open_keys, wire

HERE = Path(__file__).parent


@pytest.fixture
def database(sqlite_database: str) -> str:
    """
    URL of a database with our tables.
    """
    engine = open_engine(sqlite_database)
    tables.metadata.create_all(engine)
    engine.dispose()
    return sqlite_database


WORKER = """
import sys
sys.path[:0] = sys.argv[3:]
from keyed_app import serve, settings_of
from tokenbudget_mw.wiring import wire

core = wire(settings_of(sys.argv[1], backend=sys.argv[2]))
store = core.identifier._keys._store
lookup = store.lookup

def overtaken(kid):
    row = lookup(kid)
    store.lookup = lookup
    print("has read", flush=True)
    sys.stdin.readline()
    return row

while line := sys.stdin.readline().strip():
    key, _, way = line.partition(" ")
    if way:
        store.lookup = overtaken
    print(*serve(core, key), flush=True)
core.close()
"""


class Worker:
    """
    A process that serves, with a cache of its own.
    """

    def __init__(self, database: str, backend: str) -> None:
        command = [sys.executable, "-c", WORKER, database, backend, str(HERE.parent / "support")]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, key: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{key}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.communicate("\n", timeout=30)


def test_t18_three_processes_on_one_redis_see_each_change_at_the_next_request(database: str, redis_db: str) -> None:
    """
    Revoked, suspended, rotated, the tenant revoked, all by the command line: each process refuses its next request,
    though it remembers keys for an hour.
    """
    settings = wire(settings_of(database, backend=redis_db)).settings
    store = open_keys(settings, open_engine(database))
    made = {name: store.create(tenant="acme", name=name) for name in ("revoke", "suspend", "rotate", "tenant")}
    other = store.create(tenant="other")
    workers = [Worker(database, redis_db) for _ in range(3)]
    everybody = [*made.values(), other]
    before = {worker.ask(key.text) for worker in workers for key in everybody}

    seen = {}
    for name, arguments in {
        "revoke": [made["revoke"].row.kid],
        "suspend": [made["suspend"].row.kid],
        "rotate": [made["rotate"].row.kid, "--grace", "0 seconds"],
        "tenant": ["--tenant", "acme"],
    }.items():
        action = "revoke" if name == "tenant" else name
        said = _command("keys", action, *arguments, database=database, backend=redis_db)
        seen[name] = {worker.ask(made[name].text) for worker in workers}
        assert name == "rotate" or said["known_within_seconds"] == 0.0
    untouched = {worker.ask(other.text) for worker in workers}
    for worker in workers:
        worker.end()

    assert before == {"200"}
    assert seen == {
        "revoke": {"401 revoked_api_key"},
        "suspend": {"401 suspended_api_key"},
        "rotate": {"401 expired_api_key"},
        "tenant": {"401 revoked_api_key"},
    }
    assert untouched == {"200"}


def test_t18_a_refresh_in_flight_in_two_processes_brings_no_key_back(database: str, redis_db: str) -> None:
    """
    Each has read the row when it is revoked, and goes on after that: neither serves the request, nor the next one.
    """
    settings = wire(settings_of(database, backend=redis_db)).settings
    store = open_keys(settings, open_engine(database))
    made = store.create(tenant="acme")
    workers = [Worker(database, redis_db) for _ in range(2)]
    reading = [worker.ask(f"{made.text} slowly") for worker in workers]
    store.revoke(made.row.kid)
    answers = [(worker.ask("go on"), worker.ask(made.text), worker.ask(made.text)) for worker in workers]
    for worker in workers:
        worker.end()

    assert reading == ["has read"] * 2
    assert answers == [("401 revoked_api_key",) * 3] * 2


def _command(*arguments: str, database: str, backend: str) -> dict[str, Any]:
    environ = os.environ | {
        "TOKENBUDGET_DATABASE": database,
        "TOKENBUDGET_BACKEND": backend,
        "TOKENBUDGET_PEPPER": "pepper",
        "TOKENBUDGET_LIMITS": '["1000 requests/minute per tenant"]',
    }
    command = [sys.executable, "-m", "tokenbudget_mw", *arguments, "--json"]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, cwd=HERE.parents[1])
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found
