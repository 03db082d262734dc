"""
The flusher: takes records from the spool to the sink, in a thread of its own.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING

from tokenbudget_mw import threads
from tokenbudget_mw.accounting.backlog import tell_left
from tokenbudget_mw.accounting.dead_letters import DeadLetters
from tokenbudget_mw.accounting.worker import FlusherStats, Worker
from tokenbudget_mw.chance import chance
from tokenbudget_mw.errors import PermanentSinkError
from tokenbudget_mw.processes import PerProcess, call_at_exit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tokenbudget_mw.accounting.base import Sink, Spool
    from tokenbudget_mw.values import UsageRecord

__all__ = ["Flusher", "FlusherStats"]

log = logging.getLogger("tokenbudget_mw")

_NEVER = sys.maxsize
_FIRST_RETRY = 0.1
"""Seconds that the first retry waits at most; every further one up to twice as long."""
_GRACE = 0.5
"""Seconds that a thread which only waits gets to end, at least."""
_START_AGAIN = 1.0
"""Seconds after which a thread is started again that could not start, or that an error ended."""
_TEND_AGAIN = 5.0
"""Seconds after which a spool is tended again that could not be."""


class Flusher:
    """
    Writes what waits in *spool* to *sink* when *rows* records wait, or *interval* seconds after the last write: at once,
    where that is over already.

    The thread starts with the first record, in each process anew, and stops with `close`; a later record starts it
    again. What the sink refuses for now is tried again for ever; what it refuses for good is cut in halves down to the
    bad record, which becomes a dead letter.

    Args:
        spool: Where records wait.

        sink: Where they go. One thread at a time calls it.

        interval: Least seconds between two writes of less than *rows* records: the longest wait while all is well.

        rows: Most records a write.

        retry_cap: Longest wait between two tries, in seconds.

        dead_letters: Keeper of what is refused for good.

        threads: Whether a thread may be used; None looks whether uWSGI forbids it. Without one, call `tick` or `flush`.

        clock: Gives monotonic seconds.

        pause: Waits for some seconds. Only called where no thread is used.

        jitter: Gives a random number between two.
    """

    def __init__(
        self,
        spool: Spool,
        sink: Sink,
        *,
        interval: float = 0.25,
        rows: int = 1_000,
        retry_cap: float = 30.0,
        dead_letters: DeadLetters | None = None,
        threads: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
        jitter: Callable[[float, float], float] = chance.uniform,
    ) -> None:
        self.dead_letters = DeadLetters() if dead_letters is None else dead_letters
        self._spool = spool
        self._sink = sink
        self._interval = interval
        self._rows = rows
        self._retry_cap = retry_cap
        self._threads = _look_for_threads() if threads is None else threads
        self._clock = clock
        self._pause = pause
        self._jitter = jitter
        self._mine: PerProcess[Worker] = PerProcess(partial(_worker_of, weakref.ref(self)))
        self._awaited = 1  # the thread wants to be woken when this many records wait
        spool.listen(self._notice)

    def wake(self) -> None:
        """
        Look whether something waits. Only needed for records that the spool did not get by `put`, as those are that a
        process left behind which has died: a server may call this when it starts, in the process that serves.
        """
        if len(self._spool) or self._spool.folder is not None:
            self._notice(_NEVER)

    def tick(self) -> float | None:
        """
        Write one batch if one is due, in the caller's thread.

        Returns:
            Seconds until the next is due; None where nothing waits.
        """
        worker = self._mine.get()
        with worker.writing:
            return self._tick(worker)

    def flush(self, timeout: float = 5.0) -> bool:
        """
        Write everything that was put before. Not for an event loop's thread: it waits.

        Args:
            timeout: Longest wait, in seconds.

        Returns:
            Whether all of it has left the spool.
        """
        worker = self._mine.get()
        waiting = len(self._spool)  # read before `done`: a batch in between makes the target too high, never too low
        target = worker.done + waiting
        worker.target = max(worker.target, target)
        worker.retry_at = None
        if not worker.is_running():
            return self._drain(worker, target, timeout)
        worker.bell.ring()
        with worker.progress:
            return worker.progress.wait_for(lambda: self._has_reached(worker, target), timeout)

    def close(self, timeout: float = 2.0) -> bool:
        """
        Write what waits, stop the thread and close the sink.

        Args:
            timeout: Longest wait, in seconds.

        Returns:
            Whether nothing was left behind.
        """
        deadline = self._clock() + timeout
        worker = self._mine.get()
        self.flush(timeout)
        if not self._stop(worker, deadline):
            log.error("The usage sink hangs. %s", tell_left(self._spool))
            return False
        is_drained = self._drain(worker, worker.done + len(self._spool), deadline - self._clock())
        self._spool.close()
        self._sink.close()
        if not is_drained:
            log.error("%s", tell_left(self._spool))
        return is_drained

    def close_at_exit(self) -> None:
        """
        Close, unless there is nothing to do: then the sink is left as it is.
        """
        if len(self._spool):
            self.close()
        else:
            self._stop(self._mine.get(), self._clock() + _GRACE)
            self._spool.close()

    def stats(self) -> FlusherStats:
        """
        Return the figures of this process.
        """
        worker, depth = self._mine.get(), len(self._spool)
        if worker.writing.acquire(blocking=False):  # else the thread has just looked, or hangs in a write
            try:  # where there is no thread, nobody else looks
                worker.backlog.look(worker.done, depth, self._clock())
            finally:
                worker.writing.release()
        since = worker.backlog.since
        return FlusherStats(
            depth=depth,
            flushed=worker.done - worker.dead,
            retries=worker.retries,
            dead_letters=worker.dead,
            dropped=self._spool.dropped,
            lag=0.0 if since is None else max(0.0, self._clock() - since),
            last_error=worker.last_error,
            is_failing=worker.failures > 0,
        )

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _notice(self, depth: int) -> None:
        # The first record of an empty spool always looks: in a forked child it is how the missing thread is found.
        if depth == 1 or depth >= self._awaited:
            self._awaited = _NEVER
            worker = self._mine.get()
            if not worker.is_running():
                self._start(worker)
            worker.bell.ring()

    def _start(self, worker: Worker) -> None:
        with worker.starting:
            if worker.is_running() or not self._threads:
                return
            if self._clock() < worker.start_at:
                self._awaited = 1
                return
            worker.is_stopping = False
            worker.thread = threads.start(self._run, worker, name="tokenbudget-flusher")
            if worker.thread is None:
                self._let_start_later(worker)

    def _let_start_later(self, worker: Worker) -> None:
        worker.thread, worker.start_at = None, self._clock() + _START_AGAIN
        if not worker.has_told_threadless:
            worker.has_told_threadless = True
            log.warning("The flusher's thread cannot run: usage records wait until it can, or for the last flush.")
        self._awaited = 1  # last: the next record looks

    def _run(self, worker: Worker) -> None:
        try:
            self._keep_writing(worker)
        except BaseException:
            self._let_start_later(worker)
            raise

    def _keep_writing(self, worker: Worker) -> None:
        while not worker.is_stopping:
            delay = self.tick()
            worker.has_told_threadless = False
            self._awaited = self._threshold(worker, delay)
            waits = [each for each in (delay, worker.tend_in) if each is not None]
            # whatever rings has changed the state before, and the state is read next
            worker.bell.wait(min(waits, default=None) if len(self._spool) < self._awaited else 0.0)

    def _threshold(self, worker: Worker, delay: float | None) -> int:
        if delay is None:
            return 1
        return self._rows if worker.retry_at is None else _NEVER

    def _stop(self, worker: Worker, deadline: float) -> bool:
        worker.is_stopping = True
        worker.bell.ring()
        thread = worker.thread
        if thread is None:
            return True
        thread.join(max(_GRACE, deadline - self._clock()))
        if thread.is_alive():
            return False
        worker.thread = None
        return True

    # -- writing, under `worker.writing` ------------------------------------------------------------------------------

    def _tick(self, worker: Worker) -> float | None:
        worker.tend_in = self._tend(worker)
        delay = self._due_in(worker)
        if delay == 0.0:
            self._attempt(worker)
            worker.wrote_at = self._clock()
            delay = self._due_in(worker)
        return delay

    def _tend(self, worker: Worker) -> float | None:
        try:
            tend_in = self._spool.tend()
        except Exception as exc:  # noqa: BLE001 - no file can be opened, say: what waits here is written all the same
            if not worker.has_told_untended:
                worker.has_told_untended = True
                log.error("The usage spool cannot be tended (%s): what others left there waits.", type(exc).__name__)  # noqa: TRY400
            return _TEND_AGAIN
        worker.has_told_untended = False
        return tend_in

    def _due_in(self, worker: Worker) -> float | None:
        depth = len(self._spool)
        now = self._clock()
        worker.backlog.look(worker.done, depth, now)
        if not depth:
            return None
        if worker.retry_at is not None:
            return max(0.0, worker.retry_at - now)
        if depth >= self._rows or worker.done < worker.target:
            return 0.0
        return max(0.0, worker.wrote_at + self._interval - now)

    def _attempt(self, worker: Worker) -> None:
        try:
            self._store(worker, self._spool.take(self._rows))
        except Exception as exc:  # noqa: BLE001 - whatever a sink raises, its records are tried again
            self._fail(worker, exc)
        else:
            self._succeed(worker)

    def _store(self, worker: Worker, records: Sequence[UsageRecord]) -> None:
        try:
            self._sink.write(records)
        except PermanentSinkError as exc:
            if len(records) > 1:
                middle = len(records) // 2
                self._store(worker, records[:middle])
                self._store(worker, records[middle:])
                return
            worker.last_error = type(exc).__name__
            worker.dead += 1
            self.dead_letters.keep(records[0], exc)
        self._spool.commit(len(records))  # at once: should the next part fail, this one is not tried again
        worker.advance(len(records))

    def _fail(self, worker: Worker, error: Exception) -> None:
        worker.failures += 1
        worker.retries += 1
        worker.last_error = type(error).__name__
        longest = min(self._retry_cap, _FIRST_RETRY * 2.0 ** min(worker.failures - 1, 30))
        worker.retry_at = self._clock() + self._jitter(0.0, longest)
        if worker.transitions.begins(self._clock()):
            log.warning("The usage sink takes no records (%s): they wait and are tried again.", worker.last_error)

    def _succeed(self, worker: Worker) -> None:
        if worker.transitions.ends():
            log.warning("The usage sink takes records again, after %s failed tries.", worker.failures)
        worker.failures = 0
        worker.retry_at = None

    # -- flushing -----------------------------------------------------------------------------------------------------

    def _has_reached(self, worker: Worker, target: int) -> bool:
        return worker.done >= target or not len(self._spool)

    def _drain(self, worker: Worker, target: int, timeout: float) -> bool:
        deadline = self._clock() + timeout
        while not self._has_reached(worker, target):
            left = min(deadline - self._clock(), threading.TIMEOUT_MAX)
            if left <= 0 or not worker.writing.acquire(timeout=left):
                return False
            try:
                delay = self._tick(worker)
            finally:
                worker.writing.release()
            if delay:
                self._pause(min(delay, left))
        return True


def _look_for_threads() -> bool:
    if threads.can_run():
        return True
    log.warning("uWSGI runs without threads: usage is written at the end only. Set `enable-threads = true`.")
    return False


def _worker_of(reference: weakref.ref[Flusher]) -> Worker:
    flusher = reference()
    if flusher is not None:
        call_at_exit(flusher.close_at_exit)
    return Worker()
