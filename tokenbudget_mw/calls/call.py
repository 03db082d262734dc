"""
One call: a metered request from its facts to its records, and what a handler can say of it meanwhile. It knows no protocol:
`asgi` and `wsgi` walk it through `identify -> read -> request -> decide -> respond, feed -> end`, and wait for the guard in between.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from tokenbudget_mw import threads
from tokenbudget_mw.calls.bodies import parse_body, read_body
from tokenbudget_mw.calls.marking import Marking, charges_outliving, end_marks
from tokenbudget_mw.calls.recording import Charge, charges_of, cost_of, new_id, records_of
from tokenbudget_mw.calls.recounting import counted_by_now
from tokenbudget_mw.calls.refusing import headers_for, refusal_for
from tokenbudget_mw.calls.reserving import Reserved, Unreserved, take_at_endpoints, take_late, take_per_model
from tokenbudget_mw.calls.settling import READABLE, STREAM_TYPES, asked_of, charges_for, outcome_for, tap_for
from tokenbudget_mw.errors import SpoolFullError, TokenBudgetError
from tokenbudget_mw.rules.admission import Request
from tokenbudget_mw.rules.pricing import estimate, moment_of
from tokenbudget_mw.values import EMPTY_TAGS, NOTHING, ONE_REQUEST, ROOM, Cost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from concurrent.futures import Future

    from tokenbudget_mw.calls.forms import LateForm
    from tokenbudget_mw.core import Core
    from tokenbudget_mw.rules.refusals import Refusal
    from tokenbudget_mw.rules.settlement import Ending
    from tokenbudget_mw.tapping.base import Tap
    from tokenbudget_mw.values import Decision, Facts, Limit, Prompt, Reservation, Route, Subject, TokenCount, Usage

__all__ = ["Call", "current", "idle", "running", "running_call"]

running: ContextVar[Call | None] = ContextVar("tokenbudget_call", default=None)
"""The call that runs in this context."""

idle: ContextVar[Callable[[], Call | None]] = ContextVar("tokenbudget_idle", default=lambda: None)
"""Gives what stands for it where the middleware is switched off."""

# Held for a moment when a call ends or is charged: one for all, since a call is too short-lived for a lock of its own. As
# others that ends of calls take, it is one that its thread may take again: there the garbage collector closes streams.
_ending = threads.lock()


def current() -> Call:
    """
    Return the call that runs here: inside a handler, sync or async, or in what it started with its context.

    Raises:
        TokenBudgetError: No metered request runs here.
    """
    call = running_call() or idle.get()()
    if call is None:
        raise TokenBudgetError("No metered request runs here: is the middleware installed, and is this path a route?")
    return call


def running_call() -> Call | None:
    """
    Return the same, or None.
    """
    call = running.get()
    return None if call is None else call.part or call


class Call:
    """
    One metered request.

    Attributes:
        id: The request's id, 32 hexadecimal digits; the reservation's, and that of its usage row.

        subject: Who pays; None until it is known.

        decision: What was decided; None until it was.

        tags: Labels for the usage row.

        upper: The most that it may cost.

        held: Reservations to settle when it ends.

        endpoints: Limits on single endpoints that are among *held*, their routes, and the model's name that they met.

        extensions: Reservations of what its stream took beyond the first; they are given back when *held* is settled.

        ended_by: The refusal that ended its stream.

        counting: The exact count that an ``async`` route makes meanwhile.

        form: Its body, where that is a form too long to be read ahead.

        timed_out: Whether its framework makes a response of a timeout that its handler raised.

        part: The call of the message that a websocket's app works at, where messages are metered.

        trail: The ids by which others know it; see `recording.trail_of`.

        unrecorded: Why its rows are not on the spool (`spool_full: raise`), to be raised when all is settled.
    """

    subject: Subject | None = None
    prompt: Prompt | None = None
    decision: Decision | None = None
    tap: Tap | None = None
    status: int | None = None
    content_type: str | None = None
    content_encoding = ""
    is_stream = False
    first_byte: float | None = None
    duration = 0.0
    tags: Mapping[str, str] = EMPTY_TAGS
    is_ended = False
    held: tuple[Reservation, ...] = ()
    endpoints: tuple[tuple[Route, tuple[Limit, ...], str | None], ...] = ()
    extensions: tuple[Reservation, ...] = ()
    upper: Cost = NOTHING
    ended_by: Decision | None = None
    part: Call | None = None
    trail: tuple[str | None, str | None] | None = None
    unrecorded: SpoolFullError | None = None
    counting: Future[TokenCount] | None = None
    form: LateForm | None = None
    timed_out = False
    _charges: tuple[Charge, ...] = ()
    _parsed: Any = None
    _marking: Marking | None = None

    def __init__(self, core: Core, facts: Facts, route: Route) -> None:
        self.core = core
        self.facts = facts
        self.route = route
        self.started_at = core.clock()
        self.started = core.timer()
        self.id = new_id(self.started_at)

    @property
    def plan(self) -> str | None:
        """
        Name of the subject's plan.
        """
        subject = self.subject
        return None if subject is None else subject.plan or self.core.settings.default_plan

    @property
    def payer(self) -> Subject:
        """
        The subject, which is known by now.
        """
        if self.subject is None:
            raise TokenBudgetError("This request has no subject: it was not identified.")
        return self.subject

    @property
    def model_name(self) -> str | None:
        """
        The one name of the model that is asked for, however the request spells it.
        """
        prompt = self.prompt
        return None if prompt is None or prompt.model is None else self.core.model_name(prompt.model)

    @property
    def wants_body(self) -> bool:
        """
        Whether the request's body must be read to know what it may cost.
        """
        return self.route.format is not None

    def parse(self, body: bytes) -> None:
        """
        Do the first half of `read` with a whole *body*. Raises `PayloadError`.
        """
        self._parsed = parse_body(self, body)

    def read(self, body: bytes, is_whole: bool) -> None:
        """
        Take the request's *body*, or its head. Raises `PayloadError`.
        """
        read_body(self, body, self._parsed, is_whole=is_whole)
        self._parsed = None

    def request(self) -> Request:
        """
        Return what this call asks of the limits. Raises `UnpricedModelError`.
        """
        subject = self.payer
        if self.prompt is None:
            return Request(self.id, subject, self.route, None, ONE_REQUEST, ONE_REQUEST, room=ROOM)
        moment = moment_of(subject, self.prompt, self.started_at)
        reserve = self.core.settings.output_reserve
        self.upper, least = estimate(self.core.tariffs, self.prompt, moment, output_reserve=reserve)
        return Request(self.id, subject, self.route, self.model_name, self.upper, least)

    def is_refused(self) -> bool:
        """
        Tell whether it ended before its app ran.
        """
        return self.decision is not None and not self.decision.admitted

    def refuse(self, decision: Decision) -> Refusal:
        """
        End the call before its app ran, and return the response.
        """
        self.decision = decision
        refusal = refusal_for(self, decision)
        self.status = refusal.status
        self.duration = self.core.timer() - self.started
        self.is_ended = True
        self.core.outcomes.refuse(decision.code)
        self.core.outcomes.end("refused")
        if self.core.settings.record_refusals and self.subject is not None:
            self._record((), settle_reason="refused")
        return refusal

    def exceed(self, decision: Decision) -> Refusal:
        """
        Return the response to a call whose handler was refused a reservation and let that end it.
        """
        self.decision = decision
        refusal = refusal_for(self, decision)
        self.status = refusal.status
        self.core.outcomes.refuse(decision.code)
        return refusal

    def limit_headers(self) -> list[tuple[str, str]]:
        """
        Return the headers that tell the client where its limits stand.
        """
        decision = self.decision  # a refusal that a handler's framework renders brings its own
        return headers_for(self, decision.tallies) if decision and decision.admitted else []

    def hold(self, decision: Decision) -> None:
        """
        Take an admission: its reservation is settled at the end of this call, its limits show in the headers.
        """
        if self.decision is not None and self.decision.tallies:
            decision = replace(decision, tallies=(*self.decision.tallies, *decision.tallies))
        self.decision = decision
        if decision.reservation is not None:
            self.held = (*self.held, decision.reservation)
            self.core.heartbeat.hold(decision.reservation)
        if self.prompt is not None:
            self.marking()

    def marking(self) -> Marking:
        """
        Return this call's marks on the spool, the first of which is made now if it is not there.
        """
        self._marking = self._marking or Marking(self)
        return self._marking

    def respond(self, status: int, headers: Iterable[tuple[str, str]]) -> None:
        """
        Take the start of the response: lower-case names and values.
        """
        self.status = int(status)  # apps give an `HTTPStatus` too, which no row takes
        for name, value in headers:
            if name == "content-type":
                self.content_type = value.partition(";")[0].strip().lower()[:64]
            elif name == "content-encoding":
                self.content_encoding = value.strip().lower()
        self.is_stream = self.content_type in STREAM_TYPES
        self.tap = tap_for(self)

    def feed(self, chunk: bytes) -> None:
        """
        Take a piece of the response's body that is about to pass.
        """
        if self.first_byte is None:
            if not chunk or self.is_ended:
                return
            self.first_byte = self.core.timer() - self.started
        if self.tap is not None and isinstance(chunk, READABLE):  # what is no chunk is the server's to refuse
            self.tap.feed(chunk if type(chunk) is bytes else bytes(chunk))

    def tag(self, **tags: str) -> None:
        """
        Label this request's usage row: ``current().tag(feature="search")``.
        """
        self.tags = {**self.tags, **{name: str(value) for name, value in tags.items()}}

    def charge(self, response: object, *, model: str | None = None) -> Usage:
        """
        Charge what a model call used to this request's subject.

        Args:
            response: Any provider's response object or dict, a dict of token counts, or a `Usage`.

            model: Model, where the response does not name it.

        Returns:
            What was charged.

        Raises:
            TypeError: There is no usage in *response*.
        """
        usage = self.core.meter.read_response(response)
        self.add(usage, model=model)
        return usage

    def add(self, usage: Usage, *, model: str | None = None) -> None:
        """
        Charge *usage* as it is, its source included: for what has read a response itself. *model* as of `charge`.
        """
        asked = model or asked_of(self, usage)
        for charge in charges_of(self, usage, asked, asked) if self.core.settings.enabled else ():
            if self._is_late(charge):
                self._record_late(charge)
                take_late(self, charge)

    def reserve(
        self,
        *,
        model: str,
        prompt: str | int | Sequence[object] = 0,
        max_output: int | None = None,
    ) -> Reserved:
        """
        Hold what a model call may cost while it runs: ``with current().reserve(model=…, prompt=…) as held: …``.

        Works with ``with`` in sync code and ``async with`` in async code. Inside, call ``held.charge(response)``; a block
        that ends without a charge is charged as reserved, one that raises is not charged.

        Args:
            model: Model to be called.

            prompt: Its prompt: a text, chat messages (dicts or Pydantic models), or a number of tokens.

            max_output: Most output tokens; ``output_reserve`` of the settings by default.

        Raises:
            BudgetExceeded: On entry, if a limit refuses.

            ValueError, TypeError: A number of tokens, or *prompt*, is none.
        """
        made = Reserved if self.core.settings.enabled else Unreserved
        return made(self, model=model, prompt=prompt, max_output=max_output)

    def add_settled(self, charge: Charge, place: int) -> None:
        """
        Add a *charge* whose reservation, marked at *place*, has been settled already.
        """
        take_at_endpoints(self, cost_of([charge]), charge.usage.model)
        if self._is_late(charge, place):
            self._record_late(charge)

    def _is_late(self, charge: Charge, instead_of: int = -1) -> bool:
        """
        Take *charge* for the end of this call, unless that has passed.
        """
        mark = -1 if self.is_ended else self.marking().charge(charge, instead_of)
        with _ending:
            is_late = self.is_ended
            if not is_late:
                self._charges = (*self._charges, charge)
        if is_late and mark >= 0:
            self.marking().release(mark)
        return is_late

    def end(self, ending: Ending) -> Cost:
        """
        End the call, once: put its rows on the spool, and return its true cost for the guard to settle.
        """
        for reservation in self.held + self.extensions:  # first: a signal's handler may raise in the rest
            self.core.heartbeat.drop(reservation)
        with _ending:
            self.is_ended, reported = True, self._charges
        reported += charges_outliving(self._marking)
        self.duration = self.core.timer() - self.started
        if self.counting is not None:
            self.prompt = counted_by_now(self.prompt, self.counting)
        tapped = self.tap.usage() if self.tap is not None else None
        self.tap = None  # what it holds may be large, and a server may keep the connection's objects for long
        outcome = outcome_for(self, ending, tapped, is_reported=bool(reported))
        self.core.outcomes.end(outcome)
        if not (reported or self.prompt or tapped or self.core.settings.record_requests):
            end_marks(self._marking)
            return ONE_REQUEST
        charges = reported or charges_for(self, outcome, tapped)
        try:
            self._record(charges, settle_reason=outcome)
        except SpoolFullError as error:
            self.unrecorded = error
        end_marks(self._marking)
        unsettled = [charge for charge in charges if not charge.is_settled]
        take_per_model(self, unsettled)
        return cost_of(unsettled, requests=1)

    def _record_late(self, charge: Charge) -> None:
        self.core.outcomes.end("late")
        self._record([charge], settle_reason="late", is_first=False)

    def _record(self, charges: Sequence[Charge], *, settle_reason: str, is_first: bool = True) -> None:
        for record in records_of(self, charges, settle_reason=settle_reason, is_first=is_first):
            self.core.record(record)
