"""
What holds while the backend does not answer: each limit's ``on_error``.

``allow`` fits, ``deny`` refuses, ``local`` is decided by this process alone, which enforces its share of the limit
(the cap divided by the number of workers). No call raises `BackendUnavailableError`; a settlement that cannot be told
now is told when the backend is back, and so is what was decided alone.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from tokenbudget_mw import threads
from tokenbudget_mw.backends.base import away_since
from tokenbudget_mw.backends.local_share import LocalShare
from tokenbudget_mw.backends.untold import Untold
from tokenbudget_mw.errors import BackendUnavailableError
from tokenbudget_mw.processes import call_in_children

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenbudget_mw.backends.circuits import AsyncExamined, CircuitState, Examined
    from tokenbudget_mw.backends.debts import Debt
    from tokenbudget_mw.values import Ask, Reply, Reservation, Seed, Settlement

__all__ = ["AsyncFallback", "Fallback", "LocalShare"]

TELL_EVERY = 0.1


class Fallback:
    """
    A `Backend` that always answers.

    Args:
        backend: What is asked first.

        share: What answers instead.
    """

    def __init__(self, backend: Examined, share: LocalShare) -> None:
        self._backend = backend
        self._share = share
        self._begin()
        call_in_children(self._begin)  # what is untold is the parent's to tell

    def _begin(self) -> None:
        self._untold = Untold()
        self._teller: threading.Thread | None = None
        self._start = threading.Lock()
        self._closed = threading.Event()

    @property
    def health(self) -> tuple[CircuitState, ...]:
        """
        What is known of each of the backend's servers: whether it is left alone, since when, how often, and why.
        """
        return self._backend.health

    @property
    def away_since(self) -> float | None:
        """
        Since when the backend is away, in epoch seconds; None while it is not.
        """
        return away_since(self._backend)

    def reserve(self, ask: Ask, now: float) -> Reply:
        """
        Take all costs of *ask*, or none.
        """
        try:
            return self._backend.reserve(ask, now)
        except BackendUnavailableError as exc:
            reply = self._share.reserve(ask, now, exc)
            self._see_to_debts()
            return reply

    def peek(self, ask: Ask, now: float) -> Reply:
        """
        Answer as `reserve` would, and charge nothing.
        """
        try:
            return self._backend.peek(ask, now)
        except BackendUnavailableError:
            return self._share.peek(ask, now)

    def settle(self, settlement: Settlement, now: float) -> bool:
        """
        Move every held window to its actual amount, now or when the backend is back; False where that was done before.
        """
        if self._share.knows(settlement.reservation):
            is_moved = self._share.settle(settlement, now)
            self._see_to_debts()
            return is_moved
        try:
            return self._backend.settle(settlement, now)
        except BackendUnavailableError:
            self._untold.add(settlement, now)
            self._ensure_teller()
            return True

    def credit(self, ask: Ask, now: float) -> None:
        """
        Take each check's cost off its window; an operator is told at once where the backend does not answer.
        """
        self._backend.credit(ask, now)

    def renew(self, reservation: Reservation, lease: float, now: float) -> bool:
        """
        Let an open reservation end *lease* seconds from now, and not earlier; False where it is known not to be open.
        """
        if self._share.knows(reservation):
            return self._share.renew(reservation, lease, now)
        try:
            return self._backend.renew(reservation, lease, now)
        except BackendUnavailableError:
            return True

    def seed(self, tag: str, seeds: Sequence[Seed], now: float) -> None:
        """
        Start windows at what the books say; where the backend has gone meanwhile, the next ask is decided without it.
        """
        with suppress(BackendUnavailableError):
            self._backend.seed(tag, seeds, now)

    def bar(self, tag: str, counter: str, status: str, seconds: float, now: float) -> None:
        """
        Refuse asks whose holder is *counter*, here and in the backend; an operator is told where that does not answer.
        """
        self._share.bar(tag, counter, status, seconds, now)
        self._backend.bar(tag, counter, status, seconds, now)

    def close(self) -> None:
        """
        Try once more to tell what is untold, and close the backend.
        """
        self._closed.set()
        teller = self._teller
        if teller is not None:
            teller.join(1.0)
        self._tell()
        self._backend.close()

    def _ensure_teller(self) -> None:
        # Not alive: never started, finished, or left behind by a fork.
        with self._start:
            if self._teller is None or not self._teller.is_alive():
                self._closed.clear()  # used again after it was closed
                self._teller = threads.start(self._keep_telling, name="tokenbudget-settle")

    def _see_to_debts(self) -> None:
        if self._share.debts:
            self._ensure_teller()

    def _has_news(self) -> bool:
        return bool(self._untold.waiting or self._share.debts)

    def _keep_telling(self) -> None:
        while self._has_news() and not self._closed.wait(TELL_EVERY):
            self._tell()
        self._teller = None
        # what came just before that found a thread that lives, and relied on it
        if self._has_news() and not self._closed.is_set():
            self._ensure_teller()

    def _tell(self) -> None:
        away = set[str]()  # tags: each may live on another server
        for told in self._untold.round(away):
            try:
                self._tell_one(told)
            except BackendUnavailableError:
                away.add(told[0].reservation.tag)
        away = set()  # those who wait to be settled stop no debt
        while (debt := self._share.debts.next(self._share.latest, away)) is not None:
            try:
                self._pay(debt, self._share.latest)
            except BackendUnavailableError:
                away.add(debt.tag)

    def _tell_one(self, told: tuple[Settlement, float]) -> None:
        is_told = False
        try:
            self._backend.settle(*told)
            is_told = True
        finally:
            if not is_told:
                self._untold.keep(told)

    def _pay(self, debt: Debt, now: float) -> None:
        is_paid = False
        try:
            while not debt.is_open:
                debt = debt.heard(self._backend.reserve(debt.ask, now))
            self._backend.settle(debt.settlement, now)
            is_paid = True
        finally:
            if not is_paid:
                self._share.debts.keep(debt)


class AsyncFallback:
    """
    An `AsyncBackend` that always answers. Arguments as of `Fallback`.
    """

    def __init__(self, backend: AsyncExamined, share: LocalShare) -> None:
        self._backend = backend
        self._share = share
        self._untold = Untold()
        self._teller: asyncio.Task[None] | None = None

    @property
    def health(self) -> tuple[CircuitState, ...]:
        """
        What is known of each of the backend's servers: whether it is left alone, since when, how often, and why.
        """
        return self._backend.health

    async def reserve(self, ask: Ask, now: float) -> Reply:
        """
        Take all costs of *ask*, or none.
        """
        try:
            return await self._backend.reserve(ask, now)
        except BackendUnavailableError as exc:
            reply = self._share.reserve(ask, now, exc)
            self._see_to_debts()
            return reply

    async def peek(self, ask: Ask, now: float) -> Reply:
        """
        Answer as `reserve` would, and charge nothing.
        """
        try:
            return await self._backend.peek(ask, now)
        except BackendUnavailableError:
            return self._share.peek(ask, now)

    async def settle(self, settlement: Settlement, now: float) -> bool:
        """
        Move every held window to its actual amount, now or when the backend is back; False where that was done before.
        """
        if self._share.knows(settlement.reservation):
            is_moved = self._share.settle(settlement, now)
            self._see_to_debts()
            return is_moved
        try:
            return await self._backend.settle(settlement, now)
        except BackendUnavailableError:
            self._untold.add(settlement, now)
            self._ensure_teller()
            return True

    async def credit(self, ask: Ask, now: float) -> None:
        """
        Take each check's cost off its window; an operator is told at once where the backend does not answer.
        """
        await self._backend.credit(ask, now)

    async def renew(self, reservation: Reservation, lease: float, now: float) -> bool:
        """
        Let an open reservation end *lease* seconds from now, and not earlier; False where it is known not to be open.
        """
        if self._share.knows(reservation):
            return self._share.renew(reservation, lease, now)
        try:
            return await self._backend.renew(reservation, lease, now)
        except BackendUnavailableError:
            return True

    async def seed(self, tag: str, seeds: Sequence[Seed], now: float) -> None:
        """
        Start windows at what the books say; where the backend has gone meanwhile, the next ask is decided without it.
        """
        with suppress(BackendUnavailableError):
            await self._backend.seed(tag, seeds, now)

    async def bar(self, tag: str, counter: str, status: str, seconds: float, now: float) -> None:
        """
        Refuse asks whose holder is *counter*, here and in the backend; an operator is told where that does not answer.
        """
        self._share.bar(tag, counter, status, seconds, now)
        await self._backend.bar(tag, counter, status, seconds, now)

    async def aclose(self) -> None:
        """
        Try once more to tell what is untold, and close the backend.
        """
        if self._teller is not None and self._teller.get_loop() is asyncio.get_running_loop():
            self._teller.cancel()
            await asyncio.gather(self._teller, return_exceptions=True)
        await self._tell()
        await self._backend.aclose()

    def _ensure_teller(self) -> None:
        # A task rests with its loop; one of a loop that runs tells for all.
        if self._teller is None or self._teller.done() or not self._teller.get_loop().is_running():
            self._teller = asyncio.get_running_loop().create_task(self._keep_telling())

    def _see_to_debts(self) -> None:
        if self._share.debts:
            self._ensure_teller()

    async def _keep_telling(self) -> None:
        while self._untold.waiting or self._share.debts:
            await asyncio.sleep(TELL_EVERY)
            await self._tell()

    async def _tell(self) -> None:
        away = set[str]()  # tags: each may live on another server
        for told in self._untold.round(away):
            try:
                await self._tell_one(told)
            except BackendUnavailableError:
                away.add(told[0].reservation.tag)
        away = set()  # those who wait to be settled stop no debt
        while (debt := self._share.debts.next(self._share.latest, away)) is not None:
            try:
                await self._pay(debt, self._share.latest)
            except BackendUnavailableError:
                away.add(debt.tag)

    async def _tell_one(self, told: tuple[Settlement, float]) -> None:
        is_told = False
        try:
            await self._backend.settle(*told)
            is_told = True
        finally:
            if not is_told:
                self._untold.keep(told)

    async def _pay(self, debt: Debt, now: float) -> None:
        is_paid = False
        try:
            while not debt.is_open:
                debt = debt.heard(await self._backend.reserve(debt.ask, now))
            await self._backend.settle(debt.settlement, now)
            is_paid = True
        finally:
            if not is_paid:
                self._share.debts.keep(debt)
