"""
Several processes, one Redis: limits hold exactly.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tokenbudget_mw.testing.backends import HOUR, ask, check

redis = pytest.importorskip("tokenbudget_mw.backends.redis")

WORKER = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from tokenbudget_mw.backends.redis import RedisBackend
from tokenbudget_mw.testing.backends import HOUR, ask, check, in_flight, settlement

backend = RedisBackend(sys.argv[1], deadline=30.0)
print("ready", flush=True)
sys.stdin.readline()

def request(_):
    hour = check(1, 100, "requests:3600", params=HOUR)
    day = check(1, 60, "requests:86400", params=(1_440_000_000, 60))
    asked = ask(hour, day, in_flight(1000))
    reply = backend.reserve(asked, 0.0)
    if reply.admitted:
        assert backend.settle(settlement(asked, reply), 0.0)
    return reply.admitted

with ThreadPoolExecutor(8) as threads:
    print(json.dumps(sum(threads.map(request, range(50)))))
backend.close()
"""


def test_t01_four_processes_of_eight_threads_admit_exactly_the_limit(redis_db: str) -> None:
    """
    200 requests on [100/hour, 60/day]: 60 admitted, 60 charged on both, nothing in flight.
    """
    command = [sys.executable, "-c", WORKER, redis_db]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    admitted = [json.loads(process.communicate()[0]) for process in processes]

    backend = redis.RedisBackend(redis_db, deadline=5.0)
    state = backend.peek(
        ask(
            check(0, 100, "requests:3600", params=HOUR),
            check(0, 60, "requests:86400", params=(1_440_000_000, 60)),
            check(1, 1, "concurrent", params=(), algorithm="concurrent"),
        ),
        0.0,
    ).states
    backend.close()
    assert sum(admitted) == 60
    assert (state[0].remaining, state[1].remaining) == (40, 0)
    assert state[2].fits
