"""
Clients that go away at every moment of a call, over real sockets: nothing is held, nothing is charged twice or never.

Ten thousand of them under ``tox -e chaos``, some hundreds elsewhere.
"""

from __future__ import annotations

import json
import os
import urllib.request
from pathlib import Path

import pytest
from abort_rig import PLANS, Crowd, Left, what_is_left
from adapter_servers import serving
from sqlalchemy import create_engine

from tokenbudget_mw.database.books import verify
from tokenbudget_mw.testing.adapters import eventually

IS_CHAOS = bool(os.environ.get("TOKENBUDGET_TEST_CHAOS"))

pytestmark = pytest.mark.timeout(900)


@pytest.mark.parametrize(
    ("server", "module", "times"),
    [
        ("uvicorn", "asgi_host", 10_000 if IS_CHAOS else 300),
        ("hypercorn", "asgi_host", 2_000 if IS_CHAOS else 60),
        ("granian", "asgi_host", 2_000 if IS_CHAOS else 60),
        ("gunicorn", "wsgi_host", 1_000 if IS_CHAOS else 100),
        ("gunicorn-sync", "wsgi_host", 1_000 if IS_CHAOS else 60),
        ("granian-wsgi", "wsgi_host", 1_000 if IS_CHAOS else 60),
    ],
)
def test_t09_clients_that_break_off_leave_no_call_in_flight(
    server: str, module: str, times: int, redis_db: str, tmp_path: Path
) -> None:
    """
    After every way to go away, concurrency is 0, each request has at most one row, and counters and books hold the same.
    """
    environment = {"CONTRACT_BACKEND": redis_db, "CONTRACT_PLANS": json.dumps(PLANS), "TOKENBUDGET_DEADLINE": "10"}
    with serving(server, module, tmp_path, **environment) as running:
        crowd = Crowd(running.port)
        crowd.break_off(times)

        def settled() -> Left | None:
            urllib.request.urlopen(f"http://127.0.0.1:{running.port}/flush", data=b"{}", timeout=30).close()
            left = what_is_left(running.database, redis_db)
            return left if left.counted == left.booked else None

        left = eventually(settled) or what_is_left(running.database, redis_db)
        engine = create_engine(f"sqlite:///{running.database}")
        report = verify(engine)
        engine.dispose()

    assert left.counted == left.booked
    assert left.counted[-1] == 0
    assert len(left.rows) == len(set(left.rows))
    assert crowd.whole <= set(left.rows) <= crowd.begun
    assert crowd.cut > times // 4
    assert {"complete", "client_gone"} <= left.endings  # WSGI cannot see that nobody waits for the first byte
    assert report.verified, report
