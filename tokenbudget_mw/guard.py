"""
The guard: plan (pure), one call of the backend, decide (pure). For threads and for event loops, side by side.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from tokenbudget_mw.backends.breaker import probe
from tokenbudget_mw.errors import BackendUnavailableError
from tokenbudget_mw.rules.admission import decide, settlement_of, without_backend
from tokenbudget_mw.values import Decision

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenbudget_mw.backends.base import AsyncBackend, Backend
    from tokenbudget_mw.rules.admission import Admission, Request
    from tokenbudget_mw.values import Cost, Reservation

__all__ = ["AsyncGuard", "Guard"]

UNLIMITED = Decision(admitted=True)


class Guard:
    """
    Admits and settles, for threads.

    Args:
        admission: The rules.

        backend: Where counters live.

        clock: Gives the moment, in epoch seconds.
    """

    def __init__(self, admission: Admission, backend: Backend, clock: Callable[[], float]) -> None:
        self.admission = admission
        self.backend = backend
        self.clock = clock

    def admit(self, request: Request) -> Decision:
        """
        Reserve what *request* may cost, or say why not.
        """
        now = self.clock()
        plan = self.admission.plan(request, now)
        if plan is None:
            return UNLIMITED
        try:
            reply = self.backend.reserve(plan.ask, now)
        except BackendUnavailableError:
            return without_backend(plan)
        return decide(plan, reply, now=now)

    def settle(self, reservation: Reservation, actual: Cost) -> bool:
        """
        Move what was reserved to what it truly cost; False where that was done before.
        """
        return self.backend.settle(settlement_of(reservation, actual), self.clock())


class AsyncGuard:
    """
    Admits and settles, for an event loop. Arguments as of `Guard`.
    """

    def __init__(self, admission: Admission, backend: AsyncBackend, clock: Callable[[], float]) -> None:
        self.admission = admission
        self.backend = backend
        self.clock = clock

    async def admit(self, request: Request) -> Decision:
        """
        Reserve what *request* may cost, or say why not.
        """
        now = self.clock()
        plan = self.admission.plan(request, now)
        if plan is None:
            return UNLIMITED
        try:
            reply = await self.backend.reserve(plan.ask, now)
        except BackendUnavailableError:
            return without_backend(plan)
        return decide(plan, reply, now=now)

    async def warm(self) -> None:
        """
        Ask for nothing, so that a connection is open before the first request needs it.
        """
        with suppress(BackendUnavailableError):
            await self.backend.peek(probe(), self.clock())

    async def settle(self, reservation: Reservation, actual: Cost) -> bool:
        """
        Move what was reserved to what it truly cost; False where that was done before.
        """
        return await self.backend.settle(settlement_of(reservation, actual), self.clock())
