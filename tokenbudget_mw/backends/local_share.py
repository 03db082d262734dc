"""
Decisions that one process makes alone while the shared backend does not answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from tokenbudget_mw.backends.circuits import LeftAloneError
from tokenbudget_mw.backends.debts import Debts
from tokenbudget_mw.backends.memory import MemoryBackend
from tokenbudget_mw.errors import BackendUnavailableError
from tokenbudget_mw.values import CheckState, Hold, Reply

if TYPE_CHECKING:
    from tokenbudget_mw.values import Ask, Check, Reservation, Settlement

__all__ = ["LocalShare"]

RETRY_AFTER = 1.0
"""Seconds after which a caller that ``deny`` refused may ask again: a backend that returns is used within a second."""


class LocalShare:
    """
    Decisions that this process makes alone. Shared by both colours.

    Args:
        workers: Among how many processes a limit is divided.

        max_counters: As of `MemoryBackend`.

    Attributes:
        debts: What was admitted here, for the backend to count when it is back.

        latest: The moment of a late call, in epoch seconds.
    """

    def __init__(self, workers: int = 1, *, max_counters: int = 100_000) -> None:
        self._workers = workers
        self._memory = MemoryBackend(max_counters=max_counters)
        self.debts = Debts()
        self.latest = 0.0

    def reserve(self, ask: Ask, now: float, error: BackendUnavailableError | None = None) -> Reply:
        """
        Decide *ask* by each check's ``on_error``.

        Args:
            ask: The question.

            now: Epoch seconds.

            error: Why the backend does not decide. Where that may have counted what it could not answer, and nobody settles
                it, it is no debt: it would be charged twice.
        """
        self.latest = now
        reply = self._decide(ask, now, is_charged=True)
        if reply.admitted and not ask.lease and (error is None or isinstance(error, LeftAloneError)):
            pairs = zip(ask.checks, reply.states, strict=True)
            charged = [(Hold(check, state.slot), check.cost) for check, state in pairs if state.slot >= 0]
            self.debts.add(ask.tag, charged, now)
        return reply

    def peek(self, ask: Ask, now: float) -> Reply:
        """
        Answer as `reserve` would, and charge nothing.
        """
        return self._decide(ask, now, is_charged=False)

    def knows(self, reservation: Reservation) -> bool:
        """
        Tell whether *reservation* was made here.
        """
        return self._memory.knows(reservation.id)

    def renew(self, reservation: Reservation, lease: float, now: float) -> bool:
        """
        Let a reservation that was made here end *lease* seconds from now, and not earlier.
        """
        return self._memory.renew(reservation, lease, now)

    def bar(self, tag: str, counter: str, status: str, seconds: float, now: float) -> None:
        """
        Refuse asks whose holder is *counter*.
        """
        self._memory.bar(tag, counter, status, seconds, now)

    def settle(self, settlement: Settlement, now: float) -> bool:
        """
        Settle a reservation that was made here.
        """
        self.latest = now
        is_moved = self._memory.settle(settlement, now)
        if is_moved:
            reservation = settlement.reservation
            self.debts.add(reservation.tag, zip(reservation.holds, settlement.actual, strict=True), now)
        return is_moved

    def _decide(self, ask: Ask, now: float, *, is_charged: bool) -> Reply:
        local = [check for check in ask.checks if check.on_error == "local"]
        is_denied = any(check.on_error == "deny" and check.enforced for check in ask.checks)
        share = replace(ask, checks=tuple([self._share(check) for check in local]))
        try:
            reply = (self._memory.reserve if is_charged and not is_denied else self._memory.peek)(share, now)
        except BackendUnavailableError:
            # Too many counters even here: what cannot be counted is refused.
            reply = Reply(False, tuple([_denied(check) for check in local]))
        if reply.barred:
            return replace(reply, degraded=True)
        decided = iter(reply.states)
        states = tuple([next(decided) if check.on_error == "local" else _by_policy(check) for check in ask.checks])
        return Reply(reply.admitted and not is_denied, states, degraded=True)

    def _share(self, check: Check) -> Check:
        # the books do not know what this process alone has counted
        return replace(check, cap=-(-check.cap // self._workers), is_booked=False)


def _by_policy(check: Check) -> CheckState:
    return _denied(check) if check.on_error == "deny" else CheckState(True, check.cap)


def _denied(_: Check) -> CheckState:
    return CheckState(False, 0, RETRY_AFTER, RETRY_AFTER)
