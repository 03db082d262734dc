"""
Counters in any storage of the ``limits`` package: memcached, MongoDB, Valkey, … at weaker promises (`docs/backends.md`).

Such a storage adds to one counter at a time. So a request takes several steps (`steps`), each atomic, not all of
them together; what one process took and must not keep, it gives back.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, TypeVar

from tokenbudget_mw import threads
from tokenbudget_mw.backends.limits_storage.drivers import AsyncCounters, Counters, Store
from tokenbudget_mw.backends.limits_storage.steps import Steps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenbudget_mw.backends.limits_storage.steps import Program
    from tokenbudget_mw.values import Ask, Reply, Reservation, Seed, Settlement

__all__ = ["AsyncLimitsBackend", "LimitsBackend", "open_colours"]

T = TypeVar("T")


def open_colours(url: str, deadline: float) -> tuple[LimitsBackend, AsyncLimitsBackend]:
    """
    Open the storage at *url* (``limits+memcached://…``) for threads and for event loops, without breaker or fallback.
    """
    store, steps = Store(url, deadline), Steps()
    return LimitsBackend(store, steps, deadline), AsyncLimitsBackend(store, steps, deadline)


class LimitsBackend:
    """
    A `Backend` on a storage of ``limits``, for threads.

    Args:
        store: Which storage.

        steps: What this process knows; shared with the other colour.

        deadline: The most seconds that a call takes, and one answer of the storage beyond it.
    """

    def __init__(self, store: Store, steps: Steps, deadline: float) -> None:
        self._store = store
        self._steps = steps
        self._deadline = deadline
        self._opened: tuple[int, Counters] | None = None
        self._lock = threads.lock()

    def reserve(self, ask: Ask, now: float) -> Reply:
        """
        Take all costs of *ask*, or none.
        """
        return self._run(self._steps.reserve(ask, now))

    def peek(self, ask: Ask, now: float) -> Reply:
        """
        Answer as `reserve` would, and charge nothing.
        """
        return self._run(self._steps.peek(ask, now))

    def settle(self, settlement: Settlement, now: float) -> bool:
        """
        Move every held window to its actual amount; False where that was done before, or the reservation is not ours.
        """
        return self._run(self._steps.settle(settlement, now))

    def credit(self, ask: Ask, now: float) -> None:
        """
        Take each check's cost off its window, the newest charges first, at most all that counts.
        """
        self._run(self._steps.credit(ask, now))

    def renew(self, reservation: Reservation, lease: float, now: float) -> bool:
        """
        Let an open reservation of this process end *lease* seconds from now, and not earlier.
        """
        return self._run(self._steps.renew(reservation, lease, now))

    def seed(self, tag: str, seeds: Sequence[Seed], now: float) -> None:
        """
        Start windows of the counters under *tag* at what the books say.
        """
        self._run(self._steps.seed(tag, seeds, now))

    def bar(self, tag: str, counter: str, status: str, seconds: float, now: float) -> None:
        """
        Refuse asks whose holder is *counter*, as *status*, for *seconds*; none where it is empty.
        """
        self._run(self._steps.bar(tag, counter, status, seconds, now))

    def close(self) -> None:
        """
        Give back connections.
        """
        with self._lock:
            opened, self._opened = self._opened, None
        if opened is not None and opened[0] == os.getpid():
            opened[1].close()

    def _counters(self) -> Counters:
        # A fork must not share connections, and some clients have threads.
        pid = os.getpid()
        with self._lock:
            if self._opened is None or self._opened[0] != pid:
                self._opened = (pid, self._store.for_threads())
            return self._opened[1]

    def _run(self, program: Program[T]) -> T:
        ends = time.monotonic() + self._deadline
        try:
            counters = self._counters()
            step = next(program)
            while time.monotonic() < ends:
                step = program.send(counters.do(step))
            raise self._store.unavailable(TimeoutError())
        except StopIteration as done:
            result: T = done.value
            return result
        except self._store.errors as exc:
            raise self._store.unavailable(exc) from exc
        finally:
            program.close()


class AsyncLimitsBackend:
    """
    An `AsyncBackend` on a storage of ``limits``. Arguments as of `LimitsBackend`; the deadline holds for all of a call.
    """

    def __init__(self, store: Store, steps: Steps, deadline: float) -> None:
        self._store = store
        self._steps = steps
        self._deadline = deadline
        self._opened: dict[asyncio.AbstractEventLoop, AsyncCounters] = {}
        self._settling: set[asyncio.Future[bool]] = set()  # an event loop holds tasks weakly

    async def reserve(self, ask: Ask, now: float) -> Reply:
        """
        Take all costs of *ask*, or none.
        """
        return await self._run(self._steps.reserve(ask, now))

    async def peek(self, ask: Ask, now: float) -> Reply:
        """
        Answer as `reserve` would, and charge nothing.
        """
        return await self._run(self._steps.peek(ask, now))

    async def settle(self, settlement: Settlement, now: float) -> bool:
        """
        Move every held window to its actual amount; False where that was done before, or the reservation is not ours.
        """
        # goes on where its caller is cancelled: what is under way would be lost, as one cannot know whether it was done
        settling = asyncio.ensure_future(self._run(self._steps.settle(settlement, now)))
        self._settling.add(settling)
        settling.add_done_callback(self._settled)
        return await asyncio.shield(settling)

    def _settled(self, settling: asyncio.Future[bool]) -> None:
        self._settling.discard(settling)
        if not settling.cancelled():
            settling.exception()  # asyncio complains of errors that nobody looks at

    async def credit(self, ask: Ask, now: float) -> None:
        """
        Take each check's cost off its window, the newest charges first, at most all that counts.
        """
        await self._run(self._steps.credit(ask, now))

    async def renew(self, reservation: Reservation, lease: float, now: float) -> bool:
        """
        Let an open reservation of this process end *lease* seconds from now, and not earlier.
        """
        return await self._run(self._steps.renew(reservation, lease, now))

    async def seed(self, tag: str, seeds: Sequence[Seed], now: float) -> None:
        """
        Start windows of the counters under *tag* at what the books say.
        """
        await self._run(self._steps.seed(tag, seeds, now))

    async def bar(self, tag: str, counter: str, status: str, seconds: float, now: float) -> None:
        """
        Refuse asks whose holder is *counter*, as *status*, for *seconds*; none where it is empty.
        """
        await self._run(self._steps.bar(tag, counter, status, seconds, now))

    async def aclose(self) -> None:
        """
        Give back this loop's connections.
        """
        counters = self._opened.pop(asyncio.get_running_loop(), None)
        if counters is not None:
            await counters.aclose()

    def _counters(self) -> AsyncCounters:
        # connections belong to a loop
        loop = asyncio.get_running_loop()
        if loop not in self._opened:
            for closed in [other for other in self._opened if other.is_closed()]:
                del self._opened[closed]
            self._opened[loop] = self._store.for_loop()
        return self._opened[loop]

    async def _run(self, program: Program[T]) -> T:
        try:
            async with asyncio.timeout(self._deadline):
                counters = self._counters()
                step = next(program)
                while True:
                    step = program.send(await counters.do(step))
        except StopIteration as done:
            result: T = done.value
            return result
        except self._store.errors as exc:
            raise self._store.unavailable(exc) from exc
        finally:
            program.close()
