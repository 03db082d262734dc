"""
The guard: plan (pure), one call of the backend, decide (pure). For threads and for event loops, side by side.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from tokenbudget_mw.backends.breaker import probe
from tokenbudget_mw.errors import BackendUnavailableError
from tokenbudget_mw.rules.admission import (
    decide,
    degraded,
    in_shadow_of_balance,
    settlement_of,
    without_backend,
    without_money,
)
from tokenbudget_mw.rules.seeding import alone, without
from tokenbudget_mw.upkeep.seeding import Starter
from tokenbudget_mw.values import CROWDED, Decision

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenbudget_mw.backends.base import AsyncBackend, Backend
    from tokenbudget_mw.rules.admission import Admission, Plan, Request
    from tokenbudget_mw.upkeep.prepaid import Prepaid
    from tokenbudget_mw.values import Cost, Mode, Reply, Reservation

__all__ = ["AsyncGuard", "Guard"]

UNLIMITED = Decision(admitted=True)
NO_BOOKS = Starter()


class Guard:
    """
    Admits and settles, for threads.

    Args:
        admission: The rules.

        backend: Where counters live.

        clock: Gives the moment, in epoch seconds.

        starter: Starts counters that the backend does not know.

        barred: Told the public id of an API key that the backend has barred.

        prepaid: Knows which accounts have money, where they must have some.

        mode: ``shadow`` refuses nobody for a balance.
    """

    def __init__(
        self,
        admission: Admission,
        backend: Backend,
        clock: Callable[[], float],
        *,
        starter: Starter = NO_BOOKS,
        barred: Callable[[str], object] = lambda _: None,
        prepaid: Prepaid | None = None,
        mode: Mode = "enforce",
    ) -> None:
        self.admission = admission
        self.backend = backend
        self.clock = clock
        self.starter = starter
        self.barred = barred
        self.prepaid = prepaid
        self.mode = mode

    def admit(self, request: Request) -> Decision:
        """
        Reserve what *request* may cost, or say why not.
        """
        prepaid = self.prepaid
        if prepaid is None or request.is_used or prepaid.has_money(request.subject.account):
            return self._admit(request)
        return without_money() if self.mode == "enforce" else in_shadow_of_balance(self._admit(request))

    def _admit(self, request: Request) -> Decision:
        now = self.clock()
        plan = self.admission.plan(request, now)
        if plan is None:
            return UNLIMITED
        try:
            reply = self.backend.reserve(plan.ask, now)
            if not (reply.admitted or reply.states):
                return self._without_answer(request, plan, reply, now)
        except BackendUnavailableError:
            return without_backend(plan)
        return decide(plan, reply, now=now)

    def _without_answer(self, request: Request, plan: Plan, reply: Reply, now: float) -> Decision:
        if reply.barred and reply.barred != CROWDED:
            self.barred(request.subject.key or "")
        if reply.unseeded and request.is_used:
            rest = without(plan, reply.unseeded)
            return decide(rest, self.backend.reserve(rest.ask, now), now=now)
        if reply.unseeded:
            # what other limits refuse starts no counter: a client names as many models as it likes
            rest = without(plan, reply.unseeded)
            known = self.backend.peek(rest.ask, now) if rest.limits else reply
            if known.states and not known.admitted:
                return decide(rest, known, now=now)
            if self.starter.start(request, plan, reply.unseeded):
                reply = self.backend.reserve(plan.ask, now)
        if not reply.unseeded:
            return decide(plan, reply, now=now)
        local = alone(plan, reply.unseeded)
        if local is None:
            return without_backend(plan)
        return degraded(local, self.backend.reserve(local.ask, now), now=now)

    def settle(self, reservation: Reservation, actual: Cost) -> bool:
        """
        Move what was reserved to what it truly cost; False where that was done before.
        """
        return self.backend.settle(settlement_of(reservation, actual), self.clock())


class AsyncGuard:
    """
    Admits and settles, for an event loop. Arguments as of `Guard`.
    """

    def __init__(
        self,
        admission: Admission,
        backend: AsyncBackend,
        clock: Callable[[], float],
        *,
        starter: Starter = NO_BOOKS,
        barred: Callable[[str], object] = lambda _: None,
        prepaid: Prepaid | None = None,
        mode: Mode = "enforce",
    ) -> None:
        self.admission = admission
        self.backend = backend
        self.clock = clock
        self.starter = starter
        self.barred = barred
        self.prepaid = prepaid
        self.mode = mode

    async def admit(self, request: Request) -> Decision:
        """
        Reserve what *request* may cost, or say why not.
        """
        prepaid = self.prepaid
        if prepaid is None or request.is_used or await prepaid.ahas_money(request.subject.account):
            return await self._admit(request)
        return without_money() if self.mode == "enforce" else in_shadow_of_balance(await self._admit(request))

    async def _admit(self, request: Request) -> Decision:
        now = self.clock()
        plan = self.admission.plan(request, now)
        if plan is None:
            return UNLIMITED
        try:
            reply = await self.backend.reserve(plan.ask, now)
            if not (reply.admitted or reply.states):
                return await self._without_answer(request, plan, reply, now)
        except BackendUnavailableError:
            return without_backend(plan)
        return decide(plan, reply, now=now)

    async def warm(self) -> None:
        """
        Ask for nothing, so that a connection is open before the first request needs it.
        """
        with suppress(BackendUnavailableError):
            await self.backend.peek(probe(), self.clock())

    async def _without_answer(self, request: Request, plan: Plan, reply: Reply, now: float) -> Decision:
        if reply.barred and reply.barred != CROWDED:
            self.barred(request.subject.key or "")
        if reply.unseeded and request.is_used:
            rest = without(plan, reply.unseeded)
            return decide(rest, await self.backend.reserve(rest.ask, now), now=now)
        if reply.unseeded:
            # what other limits refuse starts no counter: a client names as many models as it likes
            rest = without(plan, reply.unseeded)
            known = await self.backend.peek(rest.ask, now) if rest.limits else reply
            if known.states and not known.admitted:
                return decide(rest, known, now=now)
            if await self.starter.astart(request, plan, reply.unseeded):
                reply = await self.backend.reserve(plan.ask, now)
        if not reply.unseeded:
            return decide(plan, reply, now=now)
        local = alone(plan, reply.unseeded)
        if local is None:
            return without_backend(plan)
        return degraded(local, await self.backend.reserve(local.ask, now), now=now)

    async def settle(self, reservation: Reservation, actual: Cost) -> bool:
        """
        Move what was reserved to what it truly cost; False where that was done before.
        """
        return await self.backend.settle(settlement_of(reservation, actual), self.clock())
