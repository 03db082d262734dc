"""
Limits on single endpoints, as the adapters' decorators and dependencies declare them.
"""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgspec

from tokenbudget_mw.calls.call import running
from tokenbudget_mw.calls.recording import new_id
from tokenbudget_mw.calls.refusing import Unmetered, refusal_for
from tokenbudget_mw.errors import BudgetExceeded, ConfigurationError, RefusedError
from tokenbudget_mw.rules import refusals
from tokenbudget_mw.rules.admission import Request
from tokenbudget_mw.rules.layers import Layer, counted, hold
from tokenbudget_mw.settings.limits import parse_limit, split_limits
from tokenbudget_mw.values import ONE_REQUEST, Route

if TYPE_CHECKING:
    from tokenbudget_mw.calls.call import Call
    from tokenbudget_mw.core import Core
    from tokenbudget_mw.rules.refusals import Refusal
    from tokenbudget_mw.values import Decision, Facts, Limit, Mode, OnBackendError, Subject

__all__ = ["EndpointLimit", "refusal_of"]

log = logging.getLogger("tokenbudget_mw")

MET = "tokenbudget.met"
"""Where a server's request keeps the limits on endpoints that it has met."""


@dataclass(frozen=True, slots=True)
class EndpointLimit:
    """
    Limits on one endpoint, each counted for every holder and this endpoint alone.

    Inside a metered request all units work; the reservation is settled with the request. Elsewhere, where nothing is
    metered, only limits on requests do.

    Attributes:
        name: The endpoint, as it stands in counters.

        texts: The limits, as they were written.

        kinds: What the limits count, apart from their amounts.

        known: The limits under settings, by their `mode` and `on_backend_error`.

        told: Names of which the log has said that something here does not hold them.
    """

    name: str
    texts: tuple[str, ...]
    kinds: frozenset[object]
    known: dict[tuple[Mode, OnBackendError], tuple[Limit, ...]] = field(default_factory=dict, compare=False, repr=False)
    told: set[str] = field(default_factory=set, compare=False, repr=False)

    @classmethod
    def parse(cls, texts: tuple[str, ...], *, name: str) -> EndpointLimit:
        """
        Read limit strings.

        Raises:
            ConfigurationError: One of them makes no sense.
        """
        if not texts:
            raise ConfigurationError("limit() needs at least one limit, for example '10 requests/minute'.")
        limits = _read(texts, "enforce", "local")
        if any(limit.until is not None for limit in limits):
            raise ConfigurationError(
                "limit() takes no limit with an end ('until'). Give it to a plan or to a route's `limits`."
            )
        return cls(name, texts, frozenset(map(counted, limits)))

    def named(self, name: str) -> EndpointLimit:
        """
        Return the same limits for the endpoint *name*.
        """
        return replace(self, name=name)

    def admit(self, core: Core, facts: Facts) -> None:
        """
        Admit a request to the endpoint.

        Raises:
            BudgetExceeded: A limit refuses.

            CredentialError: Nobody knows who asks.
        """
        if not core.settings.enabled:
            return
        met = self._meet(core, facts)
        try:
            subject = met.payer() or core.identifier.resolve(facts)
            decision = core.guard.admit(met.request(subject))
            met.take(decision)
        except RefusedError as error:
            met.note(error)
            raise
        if _running() is None and decision.reservation is not None:
            core.guard.settle(decision.reservation, ONE_REQUEST)

    async def aadmit(self, core: Core, facts: Facts) -> None:
        """
        Admit a request to the endpoint, on an event loop.
        """
        if not core.settings.enabled:
            return
        met = self._meet(core, facts)
        try:
            subject = met.payer() or await core.identifier.aresolve(facts)
            decision = await core.async_guard.admit(met.request(subject))
            met.take(decision)
        except RefusedError as error:
            met.note(error)
            raise
        if _running() is None and decision.reservation is not None:
            await core.async_guard.settle(decision.reservation, ONE_REQUEST)

    def _meet(self, core: Core, facts: Facts) -> _Met:
        """
        Return the limits as the settings of *core* have them, and with counters of their own where the request of *facts* has
        met others that would move these, too: a router's and its endpoint's, two decorators on a view.
        """
        earlier: list[EndpointLimit] = facts.raw.setdefault(MET, []) if isinstance(facts.raw, MutableMapping) else []
        turn = 1 + sum(each.name == self.name and not each.kinds.isdisjoint(self.kinds) for each in earlier)
        earlier.append(self)
        meant = core.settings.mode, core.settings.on_backend_error
        limits = self.known.get(meant)
        if limits is None:
            limits = self.known[meant] = _read(self.texts, *meant)
        if turn == 1:
            return _Met(core, facts, Route(self.name), limits, self.told)
        apart = tuple([replace(limit, name=f"{limit.name}-{turn}") for limit in limits])
        return _Met(core, facts, Route(f"{self.name} #{turn}"), apart, self.told)


@dataclass(frozen=True, slots=True)
class _Met:
    """
    Limits on an endpoint, as one request meets them.
    """

    core: Core
    facts: Facts
    route: Route
    limits: tuple[Limit, ...]
    told: set[str]

    def payer(self) -> Subject | None:
        """
        Return the subject of the call that runs here; None where none does.
        """
        call = _running()
        return None if call is None else call.subject

    def request(self, subject: Subject) -> Request:
        """
        Return what is asked of the limits for *subject*.
        """
        call, request_id = _running(), new_id(self.core.clock())
        if call is None:
            self._tell()
            return Request(request_id, subject, self.route, None, ONE_REQUEST, ONE_REQUEST, limits=self.limits)
        return msgspec.structs.replace(call.request(), id=request_id, route=self.route, limits=self.limits)

    def take(self, decision: Decision) -> None:
        """
        Let the call that runs here hold an admission. Raises `BudgetExceeded` where *decision* is none.
        """
        if not decision.admitted:
            raise BudgetExceeded(decision)
        call = _running()
        if call is not None:
            call.hold(decision)
            call.endpoints = (*call.endpoints, (self.route, self.limits, call.model_name))

    def note(self, error: RefusedError) -> None:
        """
        Keep with *error* what its response needs, where no call runs that knows.
        """
        if _running() is None:  # else the call counts it and answers, when it is rendered
            error.asked = Unmetered(new_id(self.core.clock()), self.core, self.facts, self.route)
            self.core.outcomes.refuse(refusals.decision_of_error(error).code)

    def _tell(self) -> None:
        idle, name = [limit.text for limit in self.limits if limit.unit != "requests"], self.route.path
        if idle and name not in self.told:
            self.told.add(name)
            log.error(
                "limit(%s) on %s holds nobody: no route of the settings covers this request, so that nothing but requests is "
                "counted there. Add the path to `routes`.",
                ", ".join(map(repr, idle)),
                name,
            )


def _read(texts: tuple[str, ...], mode: Mode, on_backend_error: OnBackendError) -> tuple[Limit, ...]:
    given = [part for text in texts for part in (isinstance(text, str) and split_limits(text)) or [text]]
    limits = [
        parse_limit(part, path="limit()", place="route", mode=mode, on_backend_error=on_backend_error) for part in given
    ]
    named = tuple([replace(limit, name=f"{limit.name}-endpoint") for limit in limits])
    # of two that count the same the smaller holds, as in the settings
    return hold([Layer("limit()", named)], (), 0.0).limits


def _running() -> Call | None:
    call = running.get()
    # a call that has ended, as for a background task's, settles nothing any more
    return None if call is None or call.is_ended else call


def refusal_of(error: RefusedError) -> Refusal:
    """
    Build the response to what a handler, decorator or dependency let through.
    """
    decision = refusals.decision_of_error(error)
    call = running.get()
    if call is not None:
        return call.exceed(decision)
    if isinstance(error.asked, Unmetered):
        return refusal_for(error.asked, decision)
    return refusals.render(decision, style="hybrid", request_id=new_id(0.0))
