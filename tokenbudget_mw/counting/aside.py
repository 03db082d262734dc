"""
A thread for counts that no event loop can wait for.
"""

from __future__ import annotations

import logging
import os
import queue
from typing import TYPE_CHECKING

from tokenbudget_mw import threads

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Aside"]

log = logging.getLogger("tokenbudget_mw")

MOST = 16
"""Most pieces of work that wait; each may hold a request's body."""


class Aside:
    """
    Does work in a daemon thread, one piece after the other. The thread starts with the first piece, in each process.

    Args:
        most: Most pieces that wait; more of them are turned away.

        name: Name of the thread.
    """

    def __init__(self, most: int = MOST, name: str = "tokenbudget-counting") -> None:
        self._most = most
        self._name = name
        self._lock = threads.lock()
        self._process = 0
        self._waiting: queue.Queue[Callable[[], object] | None]

    def submit(self, work: Callable[[], object]) -> bool:
        """
        Do *work* soon; return False where too much waits already. Never waits.
        """
        with self._lock:
            if self._process != os.getpid():  # a thread does not survive a fork
                waiting: queue.Queue[Callable[[], object] | None] = queue.Queue(self._most)
                if threads.start(_run, waiting, name=self._name) is None:
                    return False
                self._process, self._waiting = os.getpid(), waiting
        try:
            self._waiting.put_nowait(work)
        except queue.Full:
            return False
        return True

    def join(self) -> None:
        """
        Wait until all that was submitted is done.
        """
        if self._process == os.getpid():
            self._waiting.join()

    def close(self) -> None:
        """
        End the thread when it has done what waits. Work submitted later starts another.
        """
        with self._lock:
            if self._process == os.getpid():
                self._waiting.put(None)
            self._process = 0


def _run(waiting: queue.Queue[Callable[[], object] | None]) -> None:
    while (work := waiting.get()) is not None:
        try:
            work()
        except Exception:
            log.exception("Counting aside failed; the request is not affected.")
        finally:
            waiting.task_done()
    waiting.task_done()
