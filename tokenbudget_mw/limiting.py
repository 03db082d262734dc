"""
Limits on single endpoints, as the adapters' decorators and dependencies declare them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgspec

from tokenbudget_mw.calls.call import running
from tokenbudget_mw.calls.recording import new_id
from tokenbudget_mw.calls.refusing import Unmetered, refusal_for
from tokenbudget_mw.errors import BudgetExceeded, ConfigurationError, RefusedError
from tokenbudget_mw.rules import refusals
from tokenbudget_mw.rules.admission import Request
from tokenbudget_mw.settings.limits import parse_limit
from tokenbudget_mw.values import ONE_REQUEST, Route

if TYPE_CHECKING:
    from tokenbudget_mw.calls.call import Call
    from tokenbudget_mw.core import Core
    from tokenbudget_mw.rules.refusals import Refusal
    from tokenbudget_mw.values import Decision, Facts, Limit, Subject

__all__ = ["EndpointLimit", "refusal_of"]

log = logging.getLogger("tokenbudget_mw")


@dataclass(frozen=True, slots=True)
class EndpointLimit:
    """
    Limits on one endpoint, each counted for every holder and this endpoint alone.

    Inside a metered request all units work; the reservation is settled with the request. Elsewhere, where nothing is
    metered, only limits on requests do.

    Attributes:
        limits: The limits.

        name: The endpoint, as it stands in counters.

        told: Names of which the log has said that something here does not hold them.
    """

    limits: tuple[Limit, ...]
    name: str
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
        limits = [parse_limit(text, path="limit()", place="route") for text in texts]
        if any(limit.until is not None for limit in limits):
            raise ConfigurationError(
                "limit() takes no limit with an end ('until'). Give it to a plan or to a route's `limits`."
            )
        return cls(tuple([replace(limit, name=f"{limit.name}-endpoint") for limit in limits]), name)

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
        try:
            subject = self._subject_here() or core.identifier.resolve(facts)
            decision = core.guard.admit(self._request(core, subject))
            self._take(decision)
        except RefusedError as error:
            self._note(error, core, facts)
            raise
        if _running() is None and decision.reservation is not None:
            core.guard.settle(decision.reservation, ONE_REQUEST)

    async def aadmit(self, core: Core, facts: Facts) -> None:
        """
        Admit a request to the endpoint, on an event loop.
        """
        if not core.settings.enabled:
            return
        try:
            subject = self._subject_here() or await core.identifier.aresolve(facts)
            decision = await core.async_guard.admit(self._request(core, subject))
            self._take(decision)
        except RefusedError as error:
            self._note(error, core, facts)
            raise
        if _running() is None and decision.reservation is not None:
            await core.async_guard.settle(decision.reservation, ONE_REQUEST)

    def _subject_here(self) -> Subject | None:
        call = _running()
        return call.subject if call is not None else None

    def _request(self, core: Core, subject: Subject) -> Request:
        call = _running()
        route = Route(self.name)
        if call is None:
            self._tell()
            return Request(new_id(core.clock()), subject, route, None, ONE_REQUEST, ONE_REQUEST, limits=self.limits)
        return msgspec.structs.replace(call.request(), id=new_id(core.clock()), route=route, limits=self.limits)

    def _tell(self) -> None:
        idle = [limit.text for limit in self.limits if limit.unit != "requests"]
        if idle and self.name not in self.told:
            self.told.add(self.name)
            log.error(
                "limit(%s) on %s holds nobody: no route of the settings covers this request, so that nothing but requests is "
                "counted there. Add the path to `routes`.",
                ", ".join(map(repr, idle)),
                self.name,
            )

    def _take(self, decision: Decision) -> None:
        if not decision.admitted:
            raise BudgetExceeded(decision)
        call = _running()
        if call is not None:
            call.hold(decision)
            call.endpoints = (*call.endpoints, (Route(self.name), self.limits))

    def _note(self, error: RefusedError, core: Core, facts: Facts) -> None:
        if _running() is None:  # else the call counts it and answers, when it is rendered
            error.asked = Unmetered(new_id(core.clock()), core, facts, Route(self.name))
            core.outcomes.refuse(refusals.decision_of_error(error).code)


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
