"""
Work of calls that goes on beside them: what must not hold up an event loop, and what nobody has ended yet.
"""

from __future__ import annotations

import logging
import queue
from contextlib import suppress
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Protocol
from weakref import WeakSet

from tokenbudget_mw import threads
from tokenbudget_mw.processes import call_at_exit

if TYPE_CHECKING:
    from collections.abc import Callable

    _Waiting = queue.SimpleQueue[Callable[[], object] | None]

__all__ = ["Aside", "Unfinished", "Work"]

log = logging.getLogger("tokenbudget_mw")


class Work(Protocol):
    """
    What is charged when it ends.
    """

    def end(self, *, was_left: bool) -> None:
        """
        Charge what was used so far. Only the first call counts; raises nothing.
        """
        ...


class Unfinished:
    """
    One process's work that nobody has ended yet, such as a stream that a script neither reads on nor closes.
    """

    def __init__(self) -> None:
        self._all: WeakSet[Work] = WeakSet()
        self._lock = Lock()
        call_at_exit(self.end)  # later nothing of it could be read any more

    def add(self, work: Work) -> None:
        """
        Remember *work*, as long as anybody else holds it.
        """
        with self._lock:
            self._all.add(work)

    def end(self) -> None:
        """
        End all that is still there.
        """
        with self._lock:
            found = list(self._all)
        for work in found:
            work.end(was_left=True)


class Aside:
    """
    One process's thread for what must not hold up an event loop.

    Nothing in `submit` waits: the garbage collector closes streams, which charge, in the midst of whatever its thread does.
    """

    def __init__(self) -> None:
        self._waiting: _Waiting = queue.SimpleQueue()  # a `put` may come within another
        self._thread: Thread | None = None
        self._starting = Lock()
        self._is_over = False
        call_at_exit(self.stop_at_exit)

    def submit(self, work: Callable[[], object]) -> None:
        """
        Do *work* soon; here and now where no thread can start. An error of its own goes to the log.
        """
        if self._is_over:
            _do(work)
            return
        self._waiting.put(work)
        if self._is_running() or not self._starting.acquire(blocking=False):
            return  # whoever is starting the thread starts it for this, too
        try:
            if not self._is_running():
                self._thread = threads.start(_work, self._waiting, name="tokenbudget-aside")
        finally:
            self._starting.release()
        if self._thread is None:
            _work_off(self._waiting)

    def wait(self, timeout: float) -> bool:
        """
        Say whether all that was submitted before is done within *timeout* seconds.
        """
        done = Event()
        if self._is_running():
            self.submit(done.set)
            return done.wait(timeout)
        _work_off(self._waiting)
        return True

    def stop(self) -> None:
        """
        Do what waits, and end the thread. Work submitted later starts another.
        """
        waiting, thread = self._waiting, self._thread
        self._waiting, self._thread = queue.SimpleQueue(), None
        if thread is not None:
            waiting.put(None)
            thread.join()
        _work_off(waiting)

    def stop_at_exit(self) -> None:
        """
        The same when the process ends: what is submitted later is done by whoever submits it.
        """
        self._is_over = True
        self.stop()

    def _is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()


def _work(waiting: _Waiting) -> None:
    while (work := waiting.get()) is not None:
        _do(work)


def _work_off(waiting: _Waiting) -> None:
    with suppress(queue.Empty):
        while True:
            work = waiting.get_nowait()
            if work is not None:
                _do(work)


def _do(work: Callable[[], object]) -> None:
    try:
        work()
    except Exception:
        log.exception("What was to be counted aside was not; the request is not affected.")
