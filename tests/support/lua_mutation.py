"""
A pytest plugin (``-p lua_mutation``) that runs the collected tests on one mutant of the Lua after the other.

Everything is imported and collected once; each mutant is a fork, with a Redis of its own, that ends at the first test
which fails. ``TOKENBUDGET_TEST_LUA`` is the file to which the names of the survivors are written, one a line;
``TOKENBUDGET_TEST_LUA_ONLY`` narrows the mutants down to those whose name contains one of its lines,
``TOKENBUDGET_TEST_MUTATION_PROCESSES`` says how many run at once.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lua_mutants import MUTANTS, Mutant
from private_servers import RedisServer

if TYPE_CHECKING:
    import pytest

SURVIVED, KILLED = 0, 1
AT_ONCE = int(os.environ.get("TOKENBUDGET_TEST_MUTATION_PROCESSES", "2"))
PATIENCE = 240  # seconds, after which a mutant is taken to hang, and so to be noticed


class Folder:
    """
    A package's folder, in which one file has another text.
    """

    def __init__(self, folder: Any, replacement: Path) -> None:
        self._folder = folder
        self._replacement = replacement

    def joinpath(self, name: str) -> Any:
        return self._replacement if name == self._replacement.name else self._folder.joinpath(name)


def pytest_runtestloop(session: pytest.Session) -> bool:
    """
    Run every mutant; tell those that survive.
    """
    assert session.items, "no test was collected"
    only = os.environ.get("TOKENBUDGET_TEST_LUA_ONLY", "").split("\n")
    todo = [mutant for mutant in MUTANTS if any(part in mutant.name for part in only)]
    servers = [RedisServer() for _ in range(min(AT_ONCE, len(todo)))]
    try:
        free = list(servers)
        for server in free:
            server.start()
        with Path(os.environ["TOKENBUDGET_TEST_LUA"]).open("w", encoding="utf-8", buffering=1) as report:
            _run_all(session, todo, free, report)
    finally:
        for server in servers:
            server.close()
    return True


def _run_all(session: pytest.Session, todo: list[Mutant], free: list[RedisServer], report: Any) -> None:
    running: dict[int, tuple[Mutant, RedisServer, float]] = {}
    while todo or running:
        while todo and free:
            mutant, server = todo.pop(0), free.pop()
            running[_start(session, mutant, server.url)] = mutant, server, time.monotonic()
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid not in running:
            _end_those_that_hang(running)
            signal.sigtimedwait([signal.SIGCHLD], 0.2)
            continue
        mutant, server, since = running.pop(pid)
        is_survivor = os.waitstatus_to_exitcode(status) == SURVIVED
        print(f"{time.monotonic() - since:6.1f} s {'SURVIVED' if is_survivor else 'killed'}  {mutant.name}", flush=True)
        if is_survivor:
            report.write(f"{mutant.name}\n")
        server.restart()  # a mutant may have left anything behind, also an endless loop
        free.append(server)


def _end_those_that_hang(running: dict[int, tuple[Mutant, RedisServer, float]]) -> None:
    for pid, (_, _, since) in running.items():
        if time.monotonic() - since > PATIENCE:
            os.kill(pid, signal.SIGKILL)


def _start(session: pytest.Session, mutant: Mutant, url: str) -> int:
    text = mutant.text()  # here, where one that does not fit is no killed one
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = KILLED
    try:
        status = _test(session, mutant.file, text, url)
    finally:
        os._exit(status)  # what the parent set up is not ours to take down


def _test(session: pytest.Session, file: str, text: str, url: str) -> int:
    from tokenbudget_mw.backends.redis import script

    with tempfile.TemporaryDirectory(prefix="tokenbudget-lua-") as folder:
        replacement = Path(folder) / file
        replacement.write_text(text, encoding="utf-8")
        original = script.Script().text
        script.files = lambda package: Folder(files(package), replacement)  # type: ignore[assignment]
        assert script.Script().text != original
        os.environ["TOKENBUDGET_TEST_REDIS_URL"] = url
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        for at, item in enumerate(session.items):
            following = session.items[at + 1] if at + 1 < len(session.items) else None
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.testsfailed:
                return KILLED
        return SURVIVED
