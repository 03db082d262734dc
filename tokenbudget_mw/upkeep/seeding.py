"""
Starts counters at what the books say: once for each counter that a backend does not know, in a thread, for both colours.
"""

from __future__ import annotations

import asyncio
import logging
import queue as queues
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tokenbudget_mw import threads
from tokenbudget_mw.errors import BackendUnavailableError
from tokenbudget_mw.processes import PerProcess
from tokenbudget_mw.rules.seeding import questions, seed_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenbudget_mw.backends.base import Backend
    from tokenbudget_mw.rules.admission import Plan, Request
    from tokenbudget_mw.rules.seeding import Question

__all__ = ["Seeder", "Starter"]

log = logging.getLogger("tokenbudget_mw")

THREADS = 3
MOST_WAITING = 1_000
"""How many counters wait for the books at once; the requests of others do not wait."""

QUIET = 1.0
"""Seconds for which books that failed are not asked."""

REMEMBERED = 30.0
"""
Seconds after that for which they count as away. Only a request asks them again, and none may come to a process that says of
itself that it is not well.
"""

Key = tuple[object, ...]
Work = Callable[[], None]


class Starter:
    """
    What a guard asks to start counters. This one has no books to ask.
    """

    @property
    def is_away(self) -> bool:
        """
        Whether the books failed when they were last asked.
        """
        return False

    def start(self, request: Request, plan: Plan, unseeded: Sequence[int]) -> bool:  # noqa: ARG002 - see `Seeder`
        """
        Start the windows at positions *unseeded* of *plan*, made of *request*; False where that cannot be done now.
        """
        return False

    async def astart(self, request: Request, plan: Plan, unseeded: Sequence[int]) -> bool:
        """
        Do the same, without blocking the event loop.
        """
        return self.start(request, plan, unseeded)

    def close(self) -> None:
        """
        Give back what was opened.
        """


@dataclass(slots=True, eq=False)
class _Job:
    future: Future[bool] = field(default_factory=Future)
    is_late: bool = False

    @property
    def is_done_well(self) -> bool:
        """
        Whether it has ended well; one that has not ended is late from now on.
        """
        self.is_late = not self.future.done()
        return not self.is_late and self.future.result()


@dataclass(slots=True, eq=False)
class _Mine:
    """
    What one process owns of a seeder.
    """

    jobs: dict[Key, _Job] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    queue: queues.SimpleQueue[Work | None] = field(
        default_factory=lambda: queues.SimpleQueue()  # noqa: PLW0108 - looked up when called: gevent may take its place later
    )
    threads: int = 0
    quiet_until: float = 0.0
    is_away: bool = False

    @property
    def is_stuck(self) -> bool:
        """
        Whether every thread waits for the books longer than a request does.
        """
        return sum(job.is_late for job in self.jobs.values()) >= THREADS

    def submit(self, work: Work) -> bool:
        # daemons, because books that hang must not keep the process from its end
        if self.threads < THREADS and threads.start(_run, self.queue, name="tokenbudget-seed") is not None:
            self.threads += 1
        if self.threads:
            self.queue.put(work)
        return self.threads > 0

    def stop(self) -> None:
        with self.lock:
            for _ in range(self.threads):
                self.queue.put(None)
            # of their own, so that a thread which hangs leaves its end to nobody that comes after
            self.queue, self.threads = queues.SimpleQueue(), 0


def _run(queue: queues.SimpleQueue[Work | None]) -> None:
    while (work := queue.get()) is not None:
        work()


class Seeder(Starter):
    """
    Asks the books.

    Args:
        read: Answers questions: for each an amount a span, in the limit's unit.

        backend: Where the counters live.

        clock: Gives the moment, in epoch seconds.

        write: Writes usage that waits, so that the books know of it.

        patience: Seconds that a request waits. The work goes on after that, and later requests find it done.

        timer: Gives monotonic seconds.
    """

    def __init__(
        self,
        read: Callable[[Sequence[Question]], list[tuple[int, ...]]],
        backend: Backend,
        clock: Callable[[], float],
        *,
        write: Callable[[], object] = lambda: None,
        patience: float = 1.0,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._backend = backend
        self._clock = clock
        self._write = write
        self._patience = patience
        self._timer = timer
        self._process = PerProcess(_Mine)

    @property
    def is_away(self) -> bool:
        """
        Whether the books failed when they were last asked, some seconds ago.
        """
        mine = self._process.get()
        return mine.is_away and self._timer() < mine.quiet_until + REMEMBERED

    def start(self, request: Request, plan: Plan, unseeded: Sequence[int]) -> bool:
        """
        Start windows at what the books say; False where they do not say it in time.
        """
        job = self._job(request, plan, unseeded)
        if job is None:
            return False
        wait([job.future], self._patience)
        return job.is_done_well

    async def astart(self, request: Request, plan: Plan, unseeded: Sequence[int]) -> bool:
        """
        Do the same, without blocking the event loop.
        """
        job = self._job(request, plan, unseeded)
        if job is None:
            return False
        await asyncio.wait([asyncio.wrap_future(job.future)], timeout=self._patience)
        return job.is_done_well

    def close(self) -> None:
        """
        Give back the threads. A later start makes new ones.
        """
        self._process.get().stop()

    def _job(self, request: Request, plan: Plan, unseeded: Sequence[int]) -> _Job | None:
        mine = self._process.get()
        checks = [plan.ask.checks[at] for at in unseeded]
        key = (plan.ask.tag, *[(check.counter, check.window, check.params) for check in checks])
        with mine.lock:
            job = mine.jobs.get(key)
            if job is not None:
                return None if job.is_late else job
            if self._timer() < mine.quiet_until or len(mine.jobs) >= MOST_WAITING or mine.is_stuck:
                return None
            asked = questions(plan, unseeded, request, self._clock())
            if not mine.submit(lambda: self._do(mine, key, plan, asked)):
                return None
            # whoever does it waits for the lock before it looks for its job
            job = mine.jobs[key] = _Job()
        return job

    def _do(self, mine: _Mine, key: Key, plan: Plan, asked: dict[int, Question]) -> None:
        is_well = False
        try:
            is_well = self._seed(mine, plan, asked)
        except Exception:
            log.exception("A counter could not be started; its limit follows on_backend_error.")
        finally:
            with mine.lock:
                job = mine.jobs.pop(key)
            job.future.set_result(is_well)

    def _seed(self, mine: _Mine, plan: Plan, asked: dict[int, Question]) -> bool:
        try:
            # whoever asked just before another's work was done finds it done: what is read now might be seeded too late
            if not self._backend.peek(plan.ask, self._clock()).unseeded:
                return True
        except BackendUnavailableError:
            return False
        try:
            self._write()
            answers = self._read(tuple(asked.values()))
        except Exception as exc:  # noqa: BLE001 - whatever keeps the books from answering, the limit's policy holds
            mine.quiet_until = self._timer() + QUIET
            self._tell(mine, is_away=True, reason=type(exc).__name__)
            return False
        self._tell(mine, is_away=False)
        checks, is_anonymous = plan.ask.checks, plan.ask.is_anonymous
        pairs = zip(asked, answers, strict=True)
        seeds = [seed_of(checks[at], asked[at], amounts, is_anonymous=is_anonymous) for at, amounts in pairs]
        try:
            self._backend.seed(plan.ask.tag, seeds, self._clock())
        except BackendUnavailableError:
            return False  # the next ask finds out, too, and its limits' policy holds
        return True

    def _tell(self, mine: _Mine, *, is_away: bool, reason: str = "") -> None:
        with mine.lock:
            if is_away == mine.is_away:
                return
            mine.is_away = is_away
        if is_away:
            log.error("The books do not answer (%s); limits whose counters are lost follow on_backend_error.", reason)
        else:
            log.warning("The books answer again; counters start at what they say.")
