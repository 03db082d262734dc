"""
Admission from quota reserved ahead in Redis: four processes share one limit until it is spent.

Timed is what a request does, in each process: a fresh question, the clock, the answer with what is left of each limit. CPU
time of the process, because four processes share the cores with Redis; the refills are part of it. The limit is spent to the
end, so that every figure comes with its proof: so many were admitted, not one more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from statistics import median
from typing import Any

from benchmarks.admission import HUGE, new_ids, settlement_of
from benchmarks.harness import Result, Scale
from benchmarks.services import redis_url
from tokenbudget_mw.backends import open_backend
from tokenbudget_mw.backends.redis import RedisBackend
from tokenbudget_mw.values import Ask, Check

__all__ = ["admit_lease"]

PROCESSES = 4
BATCH = 4_000
"""Asks between two looks at the clock: calls that are open at a time."""


def admit_lease(scale: Scale) -> Result:
    """
    Checks of one limit a second and process, nothing admitted beyond it; against asking Redis each time.
    """
    calls = scale.calls(200_000)
    rounds = max(1, scale.rounds // 4)
    with redis_url() as url:
        one, over = _rounds(url, rounds, calls, limits=1, is_settled=False)
        settled, over_settled = _rounds(url, rounds, calls, limits=1, is_settled=True)
        three, over_three = _rounds(url, rounds, calls, limits=3, is_settled=True)
        exact = _exact(url, scale.calls(5_000))
    over += over_settled + over_three
    return Result(
        value=one,
        unit="checks/s of CPU time a process",
        baseline="the same check in Redis each time",
        baseline_value=exact,
        goal=">= 1M/s and 0 admitted over",
        met=one >= 1_000_000 and over == 0,
        details={
            "reserved_and_settled": settled,
            "three_limits_reserved_and_settled": three,
            "admitted": calls * PROCESSES,
            **({"over": over} if over else {}),
        },
    )


def _rounds(url: str, rounds: int, calls: int, *, limits: int, is_settled: bool) -> tuple[float, int]:
    """
    Return the median process's rate, and how many were admitted beyond the limit.
    """
    rates, over = [], 0
    for _ in range(rounds):
        seen = _race(url, calls, limits, is_settled=is_settled)
        rates += [each["admitted"] / each["seconds"] for each in seen]
        over += max(0, sum(each["admitted"] for each in seen) - calls * PROCESSES)
    return median(rates), over


def _race(url: str, calls: int, limits: int, *, is_settled: bool) -> list[dict[str, Any]]:
    order = json.dumps([url, f"key=lease-{time.time_ns()}", calls * PROCESSES, limits, is_settled])
    command = [sys.executable, "-c", "from benchmarks.admission_lease import work; work()", order]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)
    ]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    return [json.loads(process.communicate()[0]) for process in processes]


def checks(limits: int, counter: str, cap: int) -> tuple[Check, ...]:
    """
    Return a check of the limit that is spent, and others that are not.
    """
    windows = [("requests", 3_600, 1, cap), ("requests", 86_400, 1, HUGE), ("tokens", 3_600, 500, HUGE)]
    return tuple(
        Check(counter, f"{unit}:{seconds}", "strict_log", (seconds * 1_000_000 // 60, 60), cost, most)
        for unit, seconds, cost, most in windows[:limits]
    )


def work() -> None:
    """
    Be one of the processes: admit until Redis refuses, and print how many and how long.
    """
    url, counter, cap, limits, is_settled = json.loads(sys.argv[1])
    backend = open_backend(f"leased+{url}", deadline=30.0)
    asked, lease = checks(limits, counter, cap), 600.0 if is_settled else 0.0
    admitted, is_refused, seconds, asked_for = 0, False, 0.0, 0
    print("ready", flush=True)
    sys.stdin.readline()
    while not is_refused:
        ids, kept = [f"{os.getpid():08x}{number:024x}" for number in range(asked_for, asked_for + BATCH)], []
        asked_for += BATCH
        start = time.process_time()
        for identity in ids:
            ask = Ask(identity, "tenant:lease", asked, lease)
            reply = backend.reserve(ask, time.time())
            if not reply.admitted:
                is_refused = True
                break
            kept.append((ask, reply))
        seconds += time.process_time() - start
        admitted += len(kept)
        told = [settlement_of(ask, reply) for ask, reply in kept] if is_settled else []
        start = time.process_time()
        for settlement in told:
            backend.settle(settlement, time.time())
        seconds += time.process_time() - start
    print(json.dumps({"admitted": admitted, "seconds": seconds}), flush=True)
    backend.close()


def _exact(url: str, calls: int) -> float:
    backend = RedisBackend(url, deadline=30.0)
    asked, ids = checks(1, f"key=lease-{time.time_ns()}", HUGE), new_ids(calls)
    start = time.process_time()
    for identity in ids:
        assert backend.reserve(Ask(identity, "tenant:lease", asked, 0.0), time.time()).admitted
    seconds = time.process_time() - start
    backend.close()
    return calls / seconds
