"""
``leased+redis://``: a process reserves quota ahead in the backend and admits from it at no round trip.

Never over the limit: what is held here is charged there first. `stock` holds it; each call that cannot be answered
from it is a short way (`ways`), driven through a backend of either colour.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from tokenbudget_mw import threads
from tokenbudget_mw.backends.base import away_since
from tokenbudget_mw.backends.leased import ways
from tokenbudget_mw.backends.leased.shapes import Terms
from tokenbudget_mw.backends.leased.stock import Stock
from tokenbudget_mw.errors import BackendUnavailableError
from tokenbudget_mw.processes import call_in_children

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenbudget_mw.backends.base import AsyncBackend, Backend
    from tokenbudget_mw.backends.leased.ways import Way
    from tokenbudget_mw.values import Ask, Reply, Reservation, Seed, Settlement

__all__ = ["AsyncLeasedBackend", "LeasedBackend", "Terms", "make_stock"]

T = TypeVar("T")

TELL_EVERY = 0.1
"""Seconds after which the backend hears what was used, while anything is held."""


def make_stock(terms: Terms | None = None, *, is_virtual: bool = False) -> Stock:
    """
    Return an empty stock, to be shared by both colours.

    Args:
        terms: How much may be reserved ahead, and for how long.

        is_virtual: Whether the moments of the calls count, as in tests and replays.
    """
    return Stock(terms or Terms(), None if is_virtual else time.monotonic)


class LeasedBackend:
    """
    A `Backend` that admits from quota reserved ahead in another.

    Args:
        backend: Where the counters live.

        stock: What is reserved. Where it goes by the moments of the calls, the backend is told within calls; otherwise by a
            thread that lives while anything is held.
    """

    def __init__(self, backend: Backend, stock: Stock) -> None:
        self._backend = backend
        self._stock = stock
        self._begin()
        call_in_children(self._begin)

    def _begin(self) -> None:
        self._teller: threading.Thread | None = None
        self._is_telling = False
        self._start = threading.Lock()
        self._closed = threading.Event()

    @property
    def away_since(self) -> float | None:
        """
        Since when the backend is away, in epoch seconds; None while it is not.
        """
        return away_since(self._backend)

    def reserve(self, ask: Ask, now: float) -> Reply:
        """
        Take all costs of *ask*, or none: from what is held, or in the backend.
        """
        reply = self._stock.take(ask, now)
        if reply is None:
            reply = self._drive(ways.reserving(self._stock, ask, now))
            self._report(now)
        return reply

    def peek(self, ask: Ask, now: float) -> Reply:
        """
        Answer as `reserve` would, and charge nothing.
        """
        return self._drive(ways.peeking(self._stock, ask, now))

    def settle(self, settlement: Settlement, now: float) -> bool:
        """
        Move every held window to its actual amount; False where that was done before.
        """
        is_moved = self._stock.settle(settlement)
        if is_moved is None:
            return self._backend.settle(settlement, now)
        if self._stock.has_news:
            self._report(now)
        return is_moved

    def credit(self, ask: Ask, now: float) -> None:
        """
        Take each check's cost off its window, after what is held here has gone back.
        """
        self._drive(ways.crediting(self._stock, ask, now))

    def renew(self, reservation: Reservation, lease: float, now: float) -> bool:
        """
        Let an open reservation end *lease* seconds from now, and not earlier; False where it is not open any more.
        """
        return self._drive(ways.renewing(self._stock, reservation, lease, now))

    def seed(self, tag: str, seeds: Sequence[Seed], now: float) -> None:
        """
        Start windows at what the books say; one that is known already stays as it is.
        """
        self._backend.seed(tag, seeds, now)

    def bar(self, tag: str, counter: str, status: str, seconds: float, now: float) -> None:
        """
        Refuse asks whose holder is *counter*: here at once, in other processes when what they hold for it has ended.
        """
        self._stock.withdraw(tag, {counter})
        self._backend.bar(tag, counter, status, seconds, now)

    def close(self) -> None:
        """
        Give back what is not used, and close the backend.
        """
        self._closed.set()
        if self._teller is not None:
            self._teller.join(1.0)
        self._stock.give_up()
        with suppress(BackendUnavailableError):
            self._drive(ways.telling(self._stock, self._stock.latest))
        self._backend.close()

    def _drive(self, way: Way[T]) -> T:
        try:
            step = next(way)
            while True:
                try:
                    answer = step(self._backend)
                except BaseException as exc:  # noqa: BLE001 - the way decides, and raises it again
                    step = way.throw(exc)
                else:
                    step = way.send(answer)
        except StopIteration as stop:
            value: T = stop.value
            return value

    def _report(self, now: float) -> None:
        if self._stock.is_virtual:
            with suppress(BackendUnavailableError):
                self._drive(ways.telling(self._stock, now))
        elif not self._stock.is_empty:
            self._ensure_teller()

    def _ensure_teller(self) -> None:
        # Not alive: never started, finished, or left behind by a fork.
        with self._start:
            if not self._is_telling or self._teller is None or not self._teller.is_alive():
                self._is_telling = True
                self._closed.clear()  # used again after it was closed
                self._teller = threads.start(self._keep_telling, name="tokenbudget-leases")

    def _keep_telling(self) -> None:
        while not self._closed.wait(TELL_EVERY):
            with suppress(BackendUnavailableError):
                self._drive(ways.telling(self._stock, time.time()))
            with self._start:
                if self._stock.is_empty:
                    self._is_telling = False
                    return


class AsyncLeasedBackend:
    """
    An `AsyncBackend` that admits from quota reserved ahead in another. Arguments as of `LeasedBackend`.
    """

    def __init__(self, backend: AsyncBackend, stock: Stock) -> None:
        self._backend = backend
        self._stock = stock
        self._teller: asyncio.Task[None] | None = None

    async def reserve(self, ask: Ask, now: float) -> Reply:
        """
        Take all costs of *ask*, or none: from what is held, or in the backend.
        """
        reply = self._stock.take(ask, now)
        if reply is None:
            reply = await self._drive(ways.reserving(self._stock, ask, now))
            await self._report(now)
        return reply

    async def peek(self, ask: Ask, now: float) -> Reply:
        """
        Answer as `reserve` would, and charge nothing.
        """
        return await self._drive(ways.peeking(self._stock, ask, now))

    async def settle(self, settlement: Settlement, now: float) -> bool:
        """
        Move every held window to its actual amount; False where that was done before.
        """
        is_moved = self._stock.settle(settlement)
        if is_moved is None:
            return await self._backend.settle(settlement, now)
        if self._stock.has_news:
            await self._report(now)
        return is_moved

    async def credit(self, ask: Ask, now: float) -> None:
        """
        Take each check's cost off its window, after what is held here has gone back.
        """
        await self._drive(ways.crediting(self._stock, ask, now))

    async def renew(self, reservation: Reservation, lease: float, now: float) -> bool:
        """
        Let an open reservation end *lease* seconds from now, and not earlier; False where it is not open any more.
        """
        return await self._drive(ways.renewing(self._stock, reservation, lease, now))

    async def seed(self, tag: str, seeds: Sequence[Seed], now: float) -> None:
        """
        Start windows at what the books say; one that is known already stays as it is.
        """
        await self._backend.seed(tag, seeds, now)

    async def bar(self, tag: str, counter: str, status: str, seconds: float, now: float) -> None:
        """
        Refuse asks whose holder is *counter*: here at once, in other processes when what they hold for it has ended.
        """
        self._stock.withdraw(tag, {counter})
        await self._backend.bar(tag, counter, status, seconds, now)

    async def aclose(self) -> None:
        """
        Give back what is not used, and close the backend.
        """
        if self._teller is not None and self._teller.get_loop() is asyncio.get_running_loop():
            self._teller.cancel()
            await asyncio.gather(self._teller, return_exceptions=True)
        self._stock.give_up()
        with suppress(BackendUnavailableError):
            await self._drive(ways.telling(self._stock, self._stock.latest))
        await self._backend.aclose()

    async def _drive(self, way: Way[T]) -> T:
        try:
            step = next(way)
            while True:
                try:
                    answer = await step(self._backend)
                except BaseException as exc:  # noqa: BLE001 - the way decides, and raises it again
                    step = way.throw(exc)
                else:
                    step = way.send(answer)
        except StopIteration as stop:
            value: T = stop.value
            return value

    async def _report(self, now: float) -> None:
        if self._stock.is_virtual:
            with suppress(BackendUnavailableError):
                await self._drive(ways.telling(self._stock, now))
        elif not self._stock.is_empty:
            self._ensure_teller()

    def _ensure_teller(self) -> None:
        # A task rests with its loop; one of a loop that runs tells for all.
        if self._teller is None or self._teller.done() or not self._teller.get_loop().is_running():
            self._teller = asyncio.get_running_loop().create_task(self._keep_telling())

    async def _keep_telling(self) -> None:
        try:
            while not self._stock.is_empty:
                await asyncio.sleep(TELL_EVERY)
                with suppress(BackendUnavailableError):
                    await self._drive(ways.telling(self._stock, time.time()))
        except asyncio.CancelledError:
            # the loop ends, and one that would tell for it may never come, or end as soon: test clients make one a request
            self._stock.withdraw()
            with suppress(BackendUnavailableError):
                await self._drive(ways.telling(self._stock, self._stock.latest))
            raise
