"""
What many processes and threads did, written down by themselves, against what limits promise and counters hold.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import history_worker
import pytest
from history_rig import Call, counters, read, resolve, worst
from history_worker import LIMITS, Worker

from tokenbudget_mw.backends.memory import MemoryBackend
from tokenbudget_mw.testing.talk import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenbudget_mw.backends.base import Backend
    from tokenbudget_mw.backends.redis import RedisBackend

redis = pytest.importorskip("tokenbudget_mw.backends.redis")

PROCESSES, KILLS, CALLS = 6, 6, 250


class Process:
    """
    A running `history_worker`.
    """

    def __init__(self, url: str, file: Path, seed: int, calls: int, *, kills: int = 0) -> None:
        numbers = [str(number) for number in (seed, calls, kills)]
        command = [sys.executable, "-W", "ignore", history_worker.__file__, url, str(file), *numbers]
        self.file = file
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"go\n")
        self.process.stdin.flush()

    def lines(self) -> list[str]:
        """
        What it has written so far; a line that a kill cut off was never written.
        """
        return self.file.read_text().splitlines() if self.file.exists() else []

    def kill_after(self, lines: int) -> None:
        """
        Kill it (SIGKILL) when it has written so many lines.
        """
        while len(self.lines()) < lines and self.process.poll() is None:
            continue
        self.process.kill()
        self.process.communicate()


def keeps_every_promise(backend: Backend, calls: dict[str, Call], clock: object, *, open_questions: int = 0) -> None:
    """
    Assert that no trailing window was passed, and that counters hold what the calls came to; beside them at most the requests
    of *open_questions*.
    """
    for window, (_, most) in LIMITS.items():
        assert 0 < worst(calls.values(), window) <= most, window
    tokens = sum(call.actual or 0 for call in calls.values())
    expected = [(len(calls) + more, tokens, 0) for more in range(open_questions + 1)]

    def found() -> tuple[int, int, int] | None:
        held = counters(backend, clock)  # type: ignore[arg-type]
        return held if held in expected else None

    assert eventually(found) in expected, counters(backend, clock)  # type: ignore[arg-type]


@pytest.fixture
def backend(redis_db: str) -> Iterator[RedisBackend]:
    """
    Redis, as the one who looks at the end sees it.
    """
    backend = redis.RedisBackend(redis_db, deadline=30.0)
    yield backend
    backend.close()


def test_t01_six_processes_some_of_them_killed(backend: RedisBackend, redis_db: str, tmp_path: Path) -> None:
    """
    Whoever is killed wherever: no trailing window of any limit is passed, and at the end counters hold what was used.
    """
    chance = random.Random(6)
    started = [Process(redis_db, tmp_path / str(n), n, CALLS) for n in range(PROCESSES)]
    victims = [Process(redis_db, tmp_path / f"v{n}", 100 + n, 100_000) for n in range(KILLS)]
    for one in started:
        one.go()
    for victim in victims:
        victim.go()
        victim.kill_after(chance.randrange(20, 400))
    for one in started:
        one.process.communicate()
        assert one.process.returncode == 0

    calls, unheard, refused = read(line for one in [*started, *victims] for line in one.lines())
    open_questions = resolve(backend, calls, unheard, 0.0)
    assert refused > 100
    assert len(calls) > 50  # how many fit into the time that all of it takes is the machine's affair
    assert open_questions < KILLS
    keeps_every_promise(backend, calls, lambda: 0.0, open_questions=open_questions)


def test_t08_forty_processes_killed_between_reserve_and_settle(
    backend: RedisBackend, redis_db: str, tmp_path: Path
) -> None:
    """
    When their leases have ended nothing is held, concurrency neither, and what others used is counted as it was.
    """
    parent = Process(redis_db, tmp_path / "calls", 0, 5, kills=40)
    parent.go()
    parent.process.communicate()
    assert parent.process.returncode == 0

    calls, unheard, _ = read(parent.lines())
    lost = [call for call in calls.values() if call.actual is None]
    assert unheard == []
    assert len(lost) >= 40
    assert sum(call.actual or 0 for call in calls.values()) > 0
    keeps_every_promise(backend, calls, lambda: 0.0)


def test_t01_threads_on_memory() -> None:
    """
    Eight threads that change places as often as they can: the same promises hold on memory.
    """
    backend, lines = MemoryBackend(), list[str]()
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def work(seed: int) -> None:
        worker = Worker(backend, time.time, lines.append, seed)
        for _ in range(600):
            worker.call()

    try:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(work, range(8)))
    finally:
        sys.setswitchinterval(before)

    calls, unheard, refused = read(lines)
    assert unheard == []
    assert refused > 100
    keeps_every_promise(backend, calls, time.time)
