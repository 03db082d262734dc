"""
What one process owns of a flusher, and how that does.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from tokenbudget_mw import threads
from tokenbudget_mw.accounting.backlog import Backlog
from tokenbudget_mw.transitions import Transitions

__all__ = ["FlusherStats", "Worker"]


@dataclass(frozen=True, slots=True)
class FlusherStats:
    """
    How a process's flusher does.

    Attributes:
        depth: Records that wait.

        flushed: Records that are in the sink.

        retries: Batches that failed for now and were, or will be, tried again.

        dead_letters: Records that no sink will take.

        dropped: Records that found the spool full.

        lag: Seconds that the oldest waiting record has been seen waiting.

        last_error: Class name of the sink's last error; None where there was none.

        is_failing: Whether the last try failed.
    """

    depth: int
    flushed: int
    retries: int
    dead_letters: int
    dropped: int
    lag: float
    last_error: str | None
    is_failing: bool


class Worker:
    """
    A process's thread, and what it has done.

    Attributes:
        thread: The thread; None where none runs.

        bell: Wakes it.

        starting: Held by whoever starts it.

        writing: Held by whoever writes.

        progress: Told of each batch that is done.

        is_stopping: Whether it shall end.

        start_at: The moment before which no thread is started.

        has_told_threadless: Whether the log has said that no thread can run.

        has_told_untended: Whether the log has said that the spool cannot be tended.

        tend_in: Seconds until the spool is to be tended; None for never.

        wrote_at: When it last tried to write.

        retry_at: Before it nothing is tried again; None where nothing has failed.

        failures: Tries that failed in a row.

        transitions: Whether the log says that the sink fails.

        backlog: How long records have waited.

        target: What `done` shall reach without lingering, for a flush.

        done: Records that are in the sink, or put aside.

        dead: Those of them that are put aside.

        retries: Batches that failed for now.

        last_error: Class name of the sink's last error.
    """

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None
        self.bell = threads.Bell()
        self.starting = threading.RLock()
        self.writing = threading.Lock()
        self.progress = threading.Condition()
        self.is_stopping = False
        self.start_at = float("-inf")
        self.has_told_threadless = False
        self.has_told_untended = False
        self.tend_in: float | None = None
        self.wrote_at = float("-inf")
        self.retry_at: float | None = None
        self.failures = 0
        self.transitions = Transitions()
        self.backlog = Backlog()
        self.target = 0
        self.done = 0
        self.dead = 0
        self.retries = 0
        self.last_error: str | None = None

    def is_running(self) -> bool:
        """
        Tell whether the thread is there, and shall stay.
        """
        return self.thread is not None and self.thread.is_alive() and not self.is_stopping

    def advance(self, count: int) -> None:
        """
        Add *count* records to those that are done.
        """
        with self.progress:
            self.done += count
            self.progress.notify_all()
