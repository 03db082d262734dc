"""
From a request's costs to one question for the backend, and from the answer to a decision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from tokenbudget_mw.rules.bound import Bound, costing, is_for_good
from tokenbudget_mw.rules.identity import why_not
from tokenbudget_mw.units import COUNTER_MAX, format_usd
from tokenbudget_mw.values import (
    CROWDED,
    ONE_REQUEST,
    ROOM,
    Ask,
    Cost,
    Decision,
    Hold,
    Reply,
    Reservation,
    Settlement,
    Tally,
    Unit,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokenbudget_mw.rules.policy import Policy
    from tokenbudget_mw.values import Check, Limit, Route, Subject

__all__ = ["METERED_UNITS", "Admission", "Plan", "Request", "decide", "degraded", "settlement_of", "without_backend"]

METERED_UNITS = frozenset[Unit]({"tokens", "input_tokens", "output_tokens", "money"})
"""What a model call takes, beside the request that carries it."""

ALL_UNITS = METERED_UNITS | frozenset[Unit]({"requests", "concurrent"})

PICO_PER_NANO = 1000

ANONYMOUS = frozenset({"address", "unauthenticated"})
"""Sources of subjects that anybody may be as many of as they like."""


class Request(msgspec.Struct, frozen=True, gc=False):
    """
    What is asked of the limits.

    Attributes:
        id: Reservation id, 32 hexadecimal digits.

        subject: Who pays.

        route: Where it goes.

        model: Model it asks for.

        upper: The most it may cost.

        least: What it costs in any case.

        units: Which limits take part, by unit.

        limits: The limits to meet, instead of those that the policy has for the subject and the route.

        room: What must be left without being taken; see `Check.room`.

        is_used: Whether it has been used already, so that it counts whatever has become of the credential, and its row is on its
            way to the books.
    """

    id: str
    subject: Subject
    route: Route | None
    model: str | None
    upper: Cost
    least: Cost
    units: frozenset[Unit] = ALL_UNITS
    limits: tuple[Limit, ...] | None = None
    room: Cost | None = None
    is_used: bool = False


class Plan(msgspec.Struct, frozen=True, gc=False):
    """
    A request's question to the backend, and what it takes to read the answer.

    Attributes:
        ask: The question.

        limits: The limit of each check, in order.

        cost: The most the request may cost.
    """

    ask: Ask
    limits: tuple[Limit, ...]
    cost: Cost


@dataclass(frozen=True, slots=True)
class Admission:
    """
    The rules of admission, bound to the settings.

    Attributes:
        policy: Which limits apply to whom.

        lease: Seconds after which an unsettled reservation expires.
    """

    policy: Policy
    lease: float = 600.0

    def plan(self, request: Request, now: float) -> Plan | None:
        """
        Return the question that *request* puts to the backend; None where no limit applies and no bar could.
        """
        bound = self._bound(request, now)
        holder = "" if request.is_used else self.policy.holder_of(request.subject)
        if not (bound.checks or holder):
            return None
        lease = 0.0 if bound.is_for_good else self.lease
        subject = request.subject
        is_anonymous = subject.source in ANONYMOUS
        ask = Ask(request.id, self.policy.tag_of(subject), bound.checks, lease, holder, is_anonymous)
        return Plan(ask, bound.limits, request.upper)

    def _bound(self, request: Request, now: float) -> Bound:
        policy, limits, upper, room = self.policy, request.limits, request.upper, request.room
        if limits is None and request.units is ALL_UNITS:
            bound = policy.bound(request.subject, request.route, request.model, now)
            if upper is ONE_REQUEST and room is ROOM:
                return bound
            checks = costing(bound.limits, bound.checks, upper, request.least, room)
            return Bound(bound.limits, tuple(checks), is_for_good=bound.is_for_good)
        if limits is None:
            limits = policy.limits_for(request.subject, request.route, now)
        if request.units is not ALL_UNITS:
            limits = tuple(limit for limit in limits if limit.unit in request.units)
        kept, checks = policy.bind(
            limits, request.subject, request.route, request.model, upper, request.least, now, room
        )
        return Bound(tuple(kept), tuple(checks), is_for_good=is_for_good(kept))


def decide(plan: Plan, reply: Reply, *, now: float) -> Decision:
    """
    Turn the backend's *reply* to *plan* into a decision.
    """
    ask = plan.ask
    checks, states = ask.checks, reply.states
    if not states and not reply.admitted:
        return _barred(reply) if reply.barred else without_backend(plan)
    if len(states) != len(checks):
        raise ValueError(
            f"A reply has as many states as its question has checks: {len(checks)}, and not {len(states)}."
        )
    tallies: list[Tally] = []
    holds: list[Hold] = []
    units: list[Unit] = []
    would_refuse: list[str] = []
    for at, state in enumerate(states):  # zip() takes longer
        limit, check = plan.limits[at], checks[at]
        room, cost = check.room, check.cost
        tallies.append(Tally(limit, state, cost if cost > room else room))  # noqa: FURB136 - once a limit a request
        if not state.fits:
            would_refuse.append(limit.name)
        if state.slot >= 0:
            holds.append(Hold(check, state.slot))
            units.append(limit.unit)
    if not reply.admitted:
        return _refuse(tuple(tallies), checks, degraded=reply.degraded)
    lease = ask.lease
    held = Reservation(ask.id, ask.tag, tuple(holds), tuple(units), plan.cost, now + lease) if lease else None
    return Decision(
        admitted=True,
        tallies=tuple(tallies),
        would_refuse=tuple(would_refuse),
        reservation=held,
        degraded=reply.degraded,
    )


BALANCE = "balance"
"""What refuses an account that has no money, where a limit's name stands otherwise."""


def without_money() -> Decision:
    """
    Refuse an account whose balance is used up.
    """
    return Decision(
        admitted=False,
        code="credits",
        status=402,
        message="The balance of this account is used up. It has to be topped up first.",
        refused_by=(BALANCE,),
    )


def in_shadow_of_balance(decision: Decision) -> Decision:
    """
    Return *decision* with the word that an account without money would have been refused.
    """
    return replace(decision, would_refuse=(*decision.would_refuse, BALANCE)) if decision.admitted else decision


def degraded(plan: Plan, reply: Reply, *, now: float) -> Decision:
    """
    Turn the *reply* to a *plan* that had to do without the books into a decision.
    """
    return replace(decide(plan, reply, now=now), degraded=True)


def _barred(reply: Reply) -> Decision:
    if reply.barred == CROWDED:
        return Decision(
            admitted=False,
            code="limit",
            status=429,
            message="Too many calls of this key, or of its owner, are under way at once. Retry in 1 s.",
            retry_after=1.0,
            degraded=reply.degraded,
        )
    error = why_not(reply.barred)
    return Decision(admitted=False, code=error.code, status=error.status, message=str(error), degraded=reply.degraded)


def without_backend(plan: Plan) -> Decision:
    """
    Decide on *plan* when nothing could answer it: admitted, holding nothing, if every enforced limit says ``allow``.
    """
    strict = [limit for limit in plan.limits if limit.mode == "enforce" and limit.on_backend_error != "allow"]
    return _unchecked(tuple([limit.name for limit in strict])) if strict else Decision(admitted=True, degraded=True)


def _unchecked(names: tuple[str, ...], tallies: tuple[Tally, ...] = ()) -> Decision:
    return Decision(
        admitted=False,
        code="backend",
        status=503,
        message="The limits of this request cannot be checked right now. Try again in a moment.",
        tallies=tallies,
        refused_by=names,
        retry_after=1.0,
        degraded=True,
    )


def _refuse(tallies: tuple[Tally, ...], checks: tuple[Check, ...], *, degraded: bool) -> Decision:
    refusing = [tally for tally, check in zip(tallies, checks, strict=True) if check.enforced and not tally.state.fits]
    if degraded and any(tally.limit.on_backend_error == "deny" for tally in refusing):
        return _unchecked(tuple([tally.limit.name for tally in refusing]), tallies)
    waits = [tally.state.retry_after for tally in refusing]
    return Decision(
        admitted=False,
        code="money" if any(tally.limit.unit == "money" for tally in refusing) else "limit",
        status=429,
        message=" ".join(explain(tally) for tally in refusing),
        tallies=tallies,
        refused_by=tuple([tally.limit.name for tally in refusing]),
        retry_after=None if None in waits else max((wait for wait in waits if wait is not None), default=None),
        degraded=degraded,
    )


def explain(tally: Tally) -> str:
    """
    Say in one sentence why a limit refuses, with no name of anybody in it.
    """
    limit, state = tally.limit, tally.state
    left, asked, most = (_amount(limit.unit, n) for n in (state.remaining, tally.cost, limit.amount))
    if state.retry_after is None:
        return f"Limit '{limit.name}' allows {most}{_over(limit)}; this request needs {asked}, which can never fit."
    when = f" Retry in {math.ceil(state.retry_after)} s." if state.retry_after > 0 else ""
    return f"Limit '{limit.name}' reached: {most}{_over(limit)}, {left} left, {asked} needed.{when}"


_NOUNS: Mapping[Unit, str] = {
    "requests": "requests",
    "tokens": "tokens",
    "input_tokens": "input tokens",
    "output_tokens": "output tokens",
    "concurrent": "calls at a time",
}


def _amount(unit: Unit, amount: int) -> str:
    if unit == "money":
        return format_usd(amount * PICO_PER_NANO)
    return f"{amount} {_NOUNS[unit]}"


def _over(limit: Limit) -> str:
    if limit.window is None:
        return ""
    if limit.window.period is not None:
        return f" per {limit.window.period}"
    return f" in {limit.window.seconds:g} s"


def settlement_of(reservation: Reservation, actual: Cost) -> Settlement:
    """
    Say what each hold of *reservation* comes to when the call's true cost is *actual*: no more than a counter can hold.

    >>> settlement_of(Reservation("", "", (), ("tokens",), Cost(), 0.0), Cost(0, 2**53)).actual == (2**53 - 1,)
    True
    """
    amounts = [actual.of(unit) for unit in reservation.units]
    if amounts and max(amounts) > COUNTER_MAX:
        amounts = [min(amount, COUNTER_MAX) for amount in amounts]
    return Settlement(reservation, tuple(amounts))
