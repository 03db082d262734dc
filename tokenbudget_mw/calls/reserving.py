"""
A reservation that a handler makes for one model call.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Self

import msgspec

from tokenbudget_mw.calls.recording import charges_of, cost_of, new_id
from tokenbudget_mw.calls.recounting import arecount, recount
from tokenbudget_mw.errors import BudgetExceeded
from tokenbudget_mw.rules.admission import METERED_UNITS, Request
from tokenbudget_mw.rules.pricing import estimate, moment_of
from tokenbudget_mw.values import NOTHING, Cost, Prompt, Route, TokenCount, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from tokenbudget_mw.calls.call import Call
    from tokenbudget_mw.calls.recording import Charge
    from tokenbudget_mw.core import Core
    from tokenbudget_mw.values import Decision, Limit, Subject

__all__ = [
    "Reserved",
    "Unreserved",
    "open_reservation",
    "take",
    "take_at_endpoints",
    "take_from",
    "take_late",
    "take_per_model",
]

CHAT = Route("*", format="openai.chat")
TEXT = Route("*", format="openai.completions")

_innermost: ContextVar[Reserved | None] = ContextVar("tokenbudget_reserved", default=None)
"""The reservation whose block runs in this context, or the last that did."""


class Reserved:
    """
    Holds a model call's cost from ``with`` (or ``async with``) to the end of the block. See `Call.reserve`.

    Attributes:
        call: The call in which it is made.

        decision: What was decided; None before the block is entered.

        core: As of the call, and so are the next two.

        facts: What is known of the HTTP request.

        payer: The subject.

        route: How the prompt reads, as a request's body.

        started_at: When it was asked for, in epoch seconds.

        prompt: What is asked of the model.

        upper: The most that it may cost.

        is_open: Whether the block runs.
    """

    upper = NOTHING
    is_open = False
    _place = -1
    _told = 0
    _is_metered = False

    def __init__(self, call: Call, *, model: str, prompt: str | int | Sequence[object], max_output: int | None) -> None:
        if max_output is not None:
            _check("max_output", max_output)
        if isinstance(prompt, int):
            _check("prompt", prompt)
        self.call = call
        self._asked = prompt
        self._charges: list[Charge] = []
        self._lock = threading.RLock()  # again: the garbage collector closes streams, which charge
        self.decision: Decision | None = None
        self.core, self.facts, self.payer = call.core, call.facts, call.payer
        self.route = TEXT if isinstance(prompt, str) else CHAT
        self.started_at = call.core.clock()
        self.prompt = Prompt(model, _count(call, model, prompt), max_output)

    def charge(self, response: object) -> Usage:
        """
        Say what the call used: any provider's response object or dict, or a `Usage`.
        """
        usage = self.core.meter.read_response(response)
        self._charges += self._charges_of(usage)
        return usage

    def expect(self) -> None:
        """
        Take it that a metered client has been answered inside the block: it adds what it used, so nobody need say it.
        """
        self._is_metered = True

    def add(self, usage: Usage, *, model: str | None) -> bool:
        """
        Charge *usage*, which a metered client has read, and say whether that was in time: before the block has ended.
        """
        with self._lock:
            if self.is_open:
                self._charges += self._charges_of(usage, model)
            return self.is_open

    def outlive(self) -> tuple[Charge, ...]:
        """
        Return what is charged so far, to a call that ends before the block does: FastAPI ends a dependency of its handler's when
        the response is out. What it says of itself is then no longer charged as reserved.
        """
        with self._lock:
            charges, self._told = tuple(self._charges[self._told :]), len(self._charges)
        self._is_metered = self._is_metered or self.call.prompt is not None
        for charge in charges:
            take_at_endpoints(self.call, cost_of([charge]), charge.usage.model)
        return charges

    def __enter__(self) -> Self:
        try:
            decision = self.core.guard.admit(self.request())
            if not decision.admitted:
                decision = recount(self, _body(self.prompt.model, self._asked), decision)
            self._decide(decision)
        except BaseException:
            self._drop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        cost = self._end(failed=kind is not None)
        reservation = self.decision.reservation if self.decision else None
        if reservation is not None:
            self.core.guard.settle(reservation, cost)

    async def __aenter__(self) -> Self:
        try:
            decision = await self.core.async_guard.admit(self.request())
            if not decision.admitted:
                decision = await arecount(self, _body(self.prompt.model, self._asked), decision)
            self._decide(decision)
        except BaseException:
            self._drop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        cost = self._end(failed=kind is not None)
        reservation = self.decision.reservation if self.decision else None
        if reservation is not None:
            await self.core.async_guard.settle(reservation, cost)

    def request(self) -> Request:
        """
        Return what is asked of the limits.
        """
        core, now = self.core, self.core.clock()
        moment = moment_of(self.payer, self.prompt, now)
        reserve = core.settings.output_reserve
        self.upper, least = estimate(core.tariffs, self.prompt, moment, output_reserve=reserve)
        model = core.model_name(self.prompt.model or "")
        return Request(new_id(now), self.payer, self.call.route, model, self.upper, least, METERED_UNITS)

    def _decide(self, decision: Decision) -> None:
        self.decision = decision
        if not decision.admitted:
            raise BudgetExceeded(decision)
        if not self.call.is_ended:
            self._place = self.call.marking().hold(self)
        self.is_open = True
        self._token = _innermost.set(self)
        if decision.reservation is not None:
            self.core.heartbeat.hold(decision.reservation)

    def _drop(self) -> None:
        # also where a time limit of a queue's raises in some step of the entry: then no block ends what is kept alive
        if self.decision is not None and self.decision.reservation is not None:
            self.core.heartbeat.drop(self.decision.reservation)

    def _end(self, *, failed: bool) -> Cost:
        self._drop()
        with suppress(ValueError):  # a generator goes on in another context than it began in
            _innermost.reset(self._token)
        with self._lock:
            self.is_open = False
        if not (self._charges or failed or self._is_metered):
            self._charges += self._charges_of(self._reserved_usage())
        for charge in self._charges[self._told :]:
            self.call.add_settled(charge, self._place)
        if not self.call.is_ended:
            self.call.marking().release(self._place)
        return cost_of(self._charges)

    def _reserved_usage(self) -> Usage:
        most = self.prompt.max_output
        output = self.core.settings.output_reserve if most is None else most
        return Usage(self.prompt.input.upper, output, model=self.prompt.model, source="estimated", complete=False)

    def _charges_of(self, usage: Usage, model: str | None = None) -> tuple[Charge, ...]:
        model = model or self.prompt.model
        return charges_of(self.call, usage, model, model, is_settled=True)


class Unreserved(Reserved):
    """
    Holds nothing, where the middleware is switched off; the block runs, and nobody is charged.
    """

    def __init__(self, call: Call, *, model: str, prompt: str | int | Sequence[object], max_output: int | None) -> None:
        # no text is counted
        super().__init__(call, model=model, prompt=prompt if isinstance(prompt, int) else 0, max_output=max_output)

    def charge(self, response: object) -> Usage:
        """
        Return what the call used.
        """
        return self.core.meter.read_response(response)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


def open_reservation(call: Call | None) -> Reserved | None:
    """
    Return the reservation in whose block this runs, if it is one of *call*'s; where no call runs, of any.
    """
    held = _innermost.get()
    return held if held is not None and held.is_open and (call is None or held.call is call) else None


def take(call: Call, cost: Cost, model: str | None) -> None:
    """
    Move the counters of *call*'s subject by the tokens and the money of *cost*. No limit refuses what has been used.

    Args:
        call: Whose subject.

        cost: What was used.

        model: The model, for limits per model.
    """
    take_from(call.core, call.payer, call.route, cost, model)


def take_per_model(call: Call, charges: Iterable[Charge]) -> None:
    """
    Move the counters of limits per model, which a call did not meet whose model was not known before its *charges*, or stood
    behind another one.
    """
    models: dict[str, list[Charge]] = {}
    if call.form.has_others if call.form is not None else call.model_name is None:
        for charge in charges:
            model = charge.usage.model or (call.prompt.model if call.prompt else None)
            if model is not None:
                models.setdefault(model, []).append(charge)
    if not models:
        return
    core, payer, met = call.core, call.payer, call.model_name if call.form is None else call.form.met
    known = core.guard.admission.policy.limits_for(payer, call.route, core.clock())
    endpoints = () if call.form is None else call.endpoints
    for route, limits, name in ((call.route, known, met), *endpoints):
        per_model = tuple([limit for limit in limits if "model" in limit.per])
        for model, some in models.items() if per_model else ():
            if core.model_name(model) != name:
                core.off_loop(partial(take_from, core, payer, route, cost_of(some), model, limits=per_model))


def take_late(call: Call, charge: Charge) -> None:
    """
    Move the counters by a *charge* after the response has ended (a background task): nothing holds for it any more.
    """
    cost, model = cost_of([charge]), charge.usage.model
    call.core.off_loop(partial(take, call, cost, model))
    take_at_endpoints(call, cost, model)


def take_at_endpoints(call: Call, cost: Cost, model: str | None) -> None:
    """
    Move the counters of the limits on single endpoints that *call* met, by a *cost* that its end does not settle: it comes late,
    or its own reservation has settled it, which knew nothing of endpoints, or it is that of a message.
    """
    core = call.core
    for route, limits, _ in call.endpoints:
        core.off_loop(partial(take_from, core, call.payer, route, cost, model, limits=limits))


def take_from(
    core: Core,
    subject: Subject,
    route: Route | None,
    cost: Cost,
    model: str | None,
    *,
    limits: tuple[Limit, ...] | None = None,
) -> None:
    """
    The same as `take` for a *subject* whose call, on *route*, is not at hand; of certain *limits* only, where they are given.
    """
    name = None if model is None else core.model_name(model)
    request = Request(new_id(core.clock()), subject, route, name, NOTHING, NOTHING, METERED_UNITS, limits, is_used=True)
    reservation = core.guard.admit(request).reservation
    if reservation is not None:
        core.guard.settle(reservation, cost)


def _check(name: str, tokens: object) -> None:
    # what a handler passes on may come out of its request's body
    if not isinstance(tokens, int) or tokens < 0:
        raise ValueError(f"`{name}` is a whole number of tokens from 0, not {tokens!r}.")


def _count(call: Call, model: str, prompt: str | int | Sequence[object]) -> TokenCount:
    if isinstance(prompt, int):
        return TokenCount(prompt, prompt, exact=True, method="given")
    if isinstance(prompt, str):
        return call.core.meter.count(prompt, model)
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes | bytearray | memoryview):
        kind = type(prompt).__name__
        raise TypeError(f"`prompt` is a text, a list of chat messages or a number of tokens, not a {kind}.")
    return call.core.meter.read_prompt(CHAT, _body(model, prompt)).input


def _body(model: str | None, prompt: str | int | Sequence[object]) -> bytes:
    """
    Return *prompt* as the body of a request.
    """
    if isinstance(prompt, int):
        return b""
    if isinstance(prompt, str):
        return msgspec.json.encode({"model": model, "prompt": prompt.encode(errors="replace").decode()})
    return msgspec.json.encode({"model": model, "messages": list(prompt)}, enc_hook=_plain)


def _plain(value: object) -> object:
    """
    Return a message as a dict where the host has it as a Pydantic model, as FastAPI's handlers do.
    """
    dump = getattr(value, "model_dump", None)
    if dump is None:
        raise TypeError(
            f"`prompt` is a list of chat messages, as dicts or Pydantic models; in it is a {type(value).__name__}."
        )
    return dump(mode="json", exclude_none=True)
