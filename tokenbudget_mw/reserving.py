"""
A reservation that a handler makes for one model call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import msgspec

from tokenbudget_mw.errors import BudgetExceeded
from tokenbudget_mw.recording import Charge, cost_of, new_id
from tokenbudget_mw.rules.admission import METERED_UNITS, Request
from tokenbudget_mw.rules.pricing import estimate, moment_of
from tokenbudget_mw.values import Cost, Prompt, Route, TokenCount, Usage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from tokenbudget_mw.call import Call
    from tokenbudget_mw.values import Decision

__all__ = ["Reserved", "take"]

CHAT = Route("*", format="openai.chat")
NOTHING = Cost()


class Reserved:
    """
    Holds a model call's cost from ``with`` (or ``async with``) to the end of the block. See `Call.reserve`.

    Attributes:
        decision: What was decided; None before the block is entered.
    """

    def __init__(self, call: Call, *, model: str, prompt: str | int | Sequence[object], max_output: int | None) -> None:
        self._call = call
        self._prompt = Prompt(model, _count(call, model, prompt), max_output)
        self._charges: list[Charge] = []
        self.decision: Decision | None = None

    def charge(self, response: object) -> Usage:
        """
        Say what the call used: any provider's response object or dict, or a `Usage`.
        """
        usage = self._call.core.meter.read_response(response)
        self._charges.append(self._charge_of(usage))
        return usage

    def __enter__(self) -> Self:
        core = self._call.core
        self._decide(core.guard.admit(self._request()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        cost = self._end(failed=kind is not None)
        reservation = self.decision.reservation if self.decision else None
        if reservation is not None:
            self._call.core.guard.settle(reservation, cost)

    async def __aenter__(self) -> Self:
        self._decide(await self._call.core.async_guard.admit(self._request()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        cost = self._end(failed=kind is not None)
        reservation = self.decision.reservation if self.decision else None
        if reservation is not None:
            await self._call.core.async_guard.settle(reservation, cost)

    def _request(self) -> Request:
        call = self._call
        now = call.core.clock()
        moment = moment_of(call.payer, self._prompt, now)
        reserve = call.core.settings.output_reserve
        upper, least = estimate(call.core.tariffs, self._prompt, moment, output_reserve=reserve)
        model = call.core.model_name(self._prompt.model or "")
        return Request(new_id(now), call.payer, call.route, model, upper, least, METERED_UNITS)

    def _decide(self, decision: Decision) -> None:
        self.decision = decision
        if not decision.admitted:
            raise BudgetExceeded(decision)
        if decision.reservation is not None:
            self._call.core.heartbeat.hold(decision.reservation)

    def _end(self, *, failed: bool) -> Cost:
        if self.decision is not None and self.decision.reservation is not None:
            self._call.core.heartbeat.drop(self.decision.reservation)
        if not self._charges and not failed:
            self._charges.append(self._charge_of(self._reserved_usage()))
        for charge in self._charges:
            self._call.add_settled(charge)
        return cost_of(self._charges)

    def _reserved_usage(self) -> Usage:
        most = self._prompt.max_output
        output = self._call.core.settings.output_reserve if most is None else most
        return Usage(self._prompt.input.upper, output, model=self._prompt.model, source="estimated", complete=False)

    def _charge_of(self, usage: Usage) -> Charge:
        return Charge(usage, self._call.price(usage, self._prompt.model), is_settled=True)


def take(call: Call, cost: Cost, model: str | None) -> None:
    """
    Move the counters of *call*'s subject by the tokens and the money of *cost*. No limit refuses what has been used.

    Args:
        call: Whose subject.

        cost: What was used.

        model: The model, for limits per model.
    """
    core = call.core
    name = None if model is None else core.model_name(model)
    request = Request(new_id(core.clock()), call.payer, call.route, name, NOTHING, NOTHING, METERED_UNITS, is_used=True)
    reservation = core.guard.admit(request).reservation
    if reservation is not None:
        core.guard.settle(reservation, cost)


def _count(call: Call, model: str, prompt: str | int | Sequence[object]) -> TokenCount:
    if isinstance(prompt, int):
        return TokenCount(prompt, prompt, exact=True, method="given")
    if isinstance(prompt, str):
        return call.core.meter.count(prompt, model)
    body = msgspec.json.encode({"model": model, "messages": list(prompt)})
    return call.core.meter.read_prompt(CHAT, body).input
