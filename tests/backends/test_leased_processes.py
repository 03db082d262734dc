"""
Several processes that reserve ahead in one Redis: the limit is admitted exactly, whatever dies, forks or ends meanwhile.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import IO, Any

import pytest

from tokenbudget_mw.testing.backends import HOUR, START, ask, check

redis = pytest.importorskip("tokenbudget_mw.backends.redis")

PRELUDE = """
import json, os, sys
from tokenbudget_mw.backends import open_backend
from tokenbudget_mw.backends.leased import LeasedBackend, make_stock
from tokenbudget_mw.backends.leased.shapes import Terms
from tokenbudget_mw.backends.redis import RedisBackend
from tokenbudget_mw.testing.backends import HOUR, START, ask, check, settlement

url, most = sys.argv[1], int(sys.argv[2])
shared = RedisBackend(url, deadline=30.0)

def requests(cap):
    return ask(check(1, cap, "requests:3600", params=HOUR), check(7, 7 * cap, "tokens:3600", params=HOUR))

def admit(backend, cap, refusals=5):
    # on and on, until Redis has refused so many times
    admitted = 0
    while refusals:
        asked = requests(cap)
        reply = backend.reserve(asked, 0.0)
        if reply.admitted:
            admitted += 1
            assert backend.settle(settlement(asked, reply), 0.0)
        else:
            refusals -= 1
    return admitted
"""

WORKER = """
backend = LeasedBackend(shared, make_stock(Terms(most=most, share=4)))
print("ready", flush=True)
sys.stdin.readline()
print(json.dumps(admit(backend, 1000)), flush=True)
backend.close()
"""

FORKING = """
backend = LeasedBackend(shared, make_stock(Terms(most=most, first=most, share=2)))
admitted = sum(backend.reserve(requests(100), 0.0).admitted for _ in range(10))
print("held", sum(portion.left[0] for portion in backend._stock._held.all()), flush=True)
read, write = os.pipe()
if os.fork() == 0:
    assert backend._stock.is_empty
    os.write(write, json.dumps(admit(backend, 100)).encode())
    backend.close()
    os._exit(0)
assert os.wait()[1] == 0
print(json.dumps([admitted + admit(backend, 100), json.loads(os.read(read, 100))]), flush=True)
backend.close()
"""

DYING = """
shared = RedisBackend(url, deadline=30.0, clock="caller")
backend = LeasedBackend(shared, make_stock(Terms(most=most, first=most), is_virtual=True))
for number in range(5):
    asked = requests(100)
    reply = backend.reserve(asked, START)
    if number % 2:
        backend.settle(settlement(asked, reply, 1, 3), START)
print("held", flush=True)
sys.stdin.readline()
"""


def start(code: str, url: str, most: int) -> subprocess.Popen[str]:
    """
    Start a process that runs *code*.
    """
    command = [sys.executable, "-c", PRELUDE + code, url, str(most)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def out(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout


def counted(url: str, cap: int, now: float = 0.0, **options: Any) -> list[int]:
    """
    Return the requests and the tokens that Redis counts.
    """
    backend = redis.RedisBackend(url, deadline=5.0, **options)
    both = ask(
        check(0, cap, "requests:3600", params=HOUR),
        check(0, 7 * cap, "tokens:3600", params=HOUR),
    )
    states = backend.peek(both, now).states
    backend.close()
    return [cap - states[0].remaining, 7 * cap - states[1].remaining]


@pytest.mark.parametrize("most", [1, 10, 50])
def test_t01_four_processes_admit_exactly_the_limit(redis_db: str, most: int) -> None:
    """
    Each takes what it can get until Redis refuses: together they are admitted 1,000, not one more and not one less.
    """
    processes = [start(WORKER, redis_db, most) for _ in range(4)]
    for process in processes:
        assert out(process).readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    admitted = [json.loads(process.communicate()[0]) for process in processes]

    assert sum(admitted) == 1000
    assert counted(redis_db, 1000) == [1000, 7000]


def test_a_child_does_not_spend_what_its_parent_holds(redis_db: str) -> None:
    """
    A fork with a portion in hand: parent and child are admitted the limit together, and the child begins with nothing.
    """
    process = start(FORKING, redis_db, 16)
    printed = process.communicate()[0].splitlines()

    held, shares = int(printed[0].removeprefix("held ")), json.loads(printed[1])
    assert held > 0
    assert sum(shares) == 100
    assert counted(redis_db, 100) == [100, 700]


def test_t08_what_a_killed_process_held_comes_back(redis_db: str) -> None:
    """
    Killed with a portion of 10 in hand: it counts while its lease lasts. Then its tokens come back; its requests stay, as
    those of any reservation do, for nobody knows how many of them were made.
    """
    process = start(DYING, redis_db, 10)
    assert out(process).readline() == "held\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()

    assert counted(redis_db, 100, START + 604, clock="caller") == [10, 70]
    assert counted(redis_db, 100, START + 607, clock="caller") == [10, 0]
    assert counted(redis_db, 100, START + 3661, clock="caller") == [0, 0]
