"""
What operators ask and do: every limit of a subject explained, taken back to nothing, or credited.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from tokenbudget_mw.backends.base import away_since
from tokenbudget_mw.errors import BackendUnavailableError, ConfigurationError
from tokenbudget_mw.rules.admission import Plan, Request
from tokenbudget_mw.rules.layers import OWN
from tokenbudget_mw.rules.windows import MAX_AMOUNT
from tokenbudget_mw.values import NOTHING, Ask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tokenbudget_mw.backends.base import Backend
    from tokenbudget_mw.rules.admission import Admission
    from tokenbudget_mw.rules.layers import Placed
    from tokenbudget_mw.rules.policy import Policy
    from tokenbudget_mw.upkeep.seeding import Starter
    from tokenbudget_mw.values import Check, CheckState, Limit, Reply, Route, Subject

__all__ = ["Explained", "Explanation", "Look", "Operators"]


@dataclass(frozen=True, slots=True)
class Explained:
    """
    One limit of a subject, as it stands.

    Attributes:
        limit: The limit.

        source: Where it comes from: ``plan free``, ``limits``, ``route /v1/*``; ``key k1`` where it is the key's own, and
            ``identify`` where the host's function gave it.

        counter: Whose count it is, for example ``key=k1``.

        remaining: What is left, in the limit's unit.

        is_spent: Whether not even 1 more fits.

        reset: Seconds until nothing counts any more.

        frees: Seconds until 1 more fits, where it is spent; None where that is never.

        replaced: The limits in whose place it holds, each with where it comes from. The first of them holds again when
            this one has ended (`Limit.until`) or is taken away.

        looser: Limits that count the same and are not smaller, so that nobody notices them.

        is_known: Whether that is how it stands; not while the books do not say at what its count begins: then it shows as
            unused, and `Limit.on_backend_error` holds.
    """

    limit: Limit
    source: str
    counter: str
    remaining: int
    is_spent: bool
    reset: float
    frees: float | None
    replaced: tuple[tuple[Limit, str], ...] = ()
    looser: tuple[tuple[Limit, str], ...] = ()
    is_known: bool = True

    @property
    def used(self) -> int:
        """
        What counts now; at least the amount where the limit is in debt.
        """
        return self.limit.amount - self.remaining


@dataclass(frozen=True, slots=True)
class Explanation:
    """
    Every limit of a subject.

    Attributes:
        plan: The plan that holds; None where none does.

        limits: The limits, in the order of the settings.

        degraded: Whether the backend did not answer: what is left is then this process's own share.

        away_since: Since when it is known not to answer, in epoch seconds; None where it is not.
    """

    plan: str | None
    limits: tuple[Explained, ...]
    degraded: bool
    away_since: float | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """
    What a backend says of a subject's windows.

    Attributes:
        request: A request of the subject's that costs nothing.

        plan: What was asked for it.

        states: How each check of it stands; empty for a key that is barred.

        unknown: Positions of the checks whose windows the backend does not know yet.
    """

    request: Request
    plan: Plan
    states: tuple[CheckState, ...]
    unknown: tuple[int, ...]


class Operators:
    """
    Looks at limits and corrects them.

    Args:
        admission: The rules, for example ``core.guard.admission``.

        backend: Where counters live, ``core.guard.backend``.

        clock: Gives the moment, in epoch seconds.

        starter: Starts counters that the backend does not know, ``core.guard.starter``; without it they show as unused.

        model_name: Gives a model its one name, by which limits per model count, however it is spelt: ``core.model_name``.
    """

    def __init__(
        self,
        admission: Admission,
        backend: Backend,
        clock: Callable[[], float],
        starter: Starter | None = None,
        model_name: Callable[[str], str] = str,
    ) -> None:
        self._admission = admission
        self._backend = backend
        self._clock = clock
        self._starter = starter
        self._model_name = model_name

    def explain(self, subject: Subject, *, route: Route | None = None, model: str | None = None) -> Explanation:
        """
        Say which limits apply to *subject*, where each comes from, what is left of it, and when it frees.

        Args:
            subject: Whose limits.

            route: On which route; without it limits per route are left out.

            model: For which model; without it limits per model are left out.
        """
        policy, now = self._admission.policy, self._clock()
        held = policy.held_for(subject, route, now)
        request, plan = self._plan(subject, route, model, now, held.limits)
        reply, unknown = self._peek(request, plan, now)
        placed = {id(each.limit): each for each in held.placed}
        pairs = zip(plan.ask.checks, reply.states, strict=True)
        lines = [
            _explained(placed[id(plan.limits[at])], subject, check, state, is_known=at not in unknown)
            for at, (check, state) in enumerate(pairs)
        ]
        return Explanation(_plan(policy, subject), tuple(lines), reply.degraded, away_since(self._backend))

    def look(self, subject: Subject) -> Look:
        """
        Look at the windows of *subject* as they are: none is started. Limits per route and per model are left out.

        Raises:
            BackendUnavailableError: The backend did not answer.
        """
        now = self._clock()
        request, plan = self._plan(subject, None, None, now)
        first, then = self._backend.peek(plan.ask, now), self._backend.peek(_known(plan), now)
        if first.degraded or then.degraded:  # a share of this process's own is not what counters say
            raise BackendUnavailableError("The backend does not answer, so what its counters say is not known.")
        return Look(request, plan, then.states, first.unseeded)

    def reset(
        self, subject: Subject, *names: str, route: Route | None = None, model: str | None = None
    ) -> tuple[str, ...]:
        """
        Forget what the limits *names* of *subject* count; without names, what all of them do. Return their names.

        A limit that others share (``per tenant``, …) is reset for all of them.

        Raises:
            ConfigurationError: The subject has no such limit.

            BackendUnavailableError: The backend did not answer, or not the books at which a count begins.
        """
        return self._credit(subject, names, MAX_AMOUNT, route, model)

    def credit(
        self, subject: Subject, name: str, amount: int, *, route: Route | None = None, model: str | None = None
    ) -> None:
        """
        Take *amount* off what the limit *name* of *subject* counts, the newest charges first.

        Args:
            subject: Whose limit.

            name: Which limit.

            amount: How much, in the limit's unit; nano-dollars of money.

            route: On which route, for a limit per route.

            model: For which model, for a limit per model.

        Raises:
            ConfigurationError: The subject has no such limit.

            BackendUnavailableError: The backend did not answer, or not the books at which a count begins.
        """
        self._credit(subject, (name,), amount, route, model)

    def _credit(
        self, subject: Subject, names: tuple[str, ...], amount: int, route: Route | None, model: str | None
    ) -> tuple[str, ...]:
        now = self._clock()
        request, plan = self._plan(subject, route, model, now)
        known = [limit.name for limit in plan.limits]
        for name in names:
            if name not in known:
                raise ConfigurationError(f"No limit {name!r} applies here. Known: {', '.join(known) or 'none'}.")
        chosen = [at for at, limit in enumerate(plan.limits) if not names or limit.name in names]
        _, unknown = self._peek(request, plan, now)
        if missed := [plan.limits[at].name for at in chosen if at in unknown]:
            # what is started only later would bring back what is taken off
            raise BackendUnavailableError(
                f"The books do not say at what {', '.join(missed)} begins, so nothing was taken off. Try again."
            )
        checks = tuple([replace(plan.ask.checks[at], cost=amount) for at in chosen])
        self._backend.credit(replace(plan.ask, checks=checks), now)
        return names or tuple(known)

    def _peek(self, request: Request, plan: Plan, now: float) -> tuple[Reply, tuple[int, ...]]:
        """
        Look at windows, started at what the books say where they were not known; return where they do not say it, too.
        """
        reply = self._backend.peek(plan.ask, now)
        if not reply.unseeded:
            return reply, ()
        is_started = self._starter is None or self._starter.start(request, plan, reply.unseeded)
        return self._backend.peek(_known(plan), now), () if is_started else reply.unseeded

    def _plan(
        self,
        subject: Subject,
        route: Route | None,
        model: str | None,
        now: float,
        limits: tuple[Limit, ...] | None = None,
    ) -> tuple[Request, Plan]:
        policy = self._admission.policy
        model = None if model is None else self._model_name(model)
        found = policy.limits_for(subject, route, now) if limits is None else limits
        bound, costless = policy.bind(found, subject, route, model, NOTHING, NOTHING, now)
        checks = [replace(check, room=1) for check in costless]
        request = Request(uuid.uuid4().hex, subject, route, model, NOTHING, NOTHING)
        ask = Ask(request.id, policy.tag_of(subject), tuple(checks), self._admission.lease)
        return request, Plan(ask, tuple(bound), NOTHING)


def _known(plan: Plan) -> Ask:
    return replace(plan.ask, checks=tuple([replace(check, is_booked=False) for check in plan.ask.checks]))


def _plan(policy: Policy, subject: Subject) -> str | None:
    return subject.plan if subject.plan in policy.plans else policy.default_plan


def _source(source: str, subject: Subject) -> str:
    if source != OWN:
        return source
    return f"key {subject.key}" if subject.source == "api_key" else "identify"


def _explained(placed: Placed, subject: Subject, check: Check, state: CheckState, *, is_known: bool) -> Explained:
    return Explained(
        limit=placed.limit,
        source=_source(placed.source, subject),
        counter=check.counter,
        remaining=state.remaining,
        is_spent=not state.fits,
        reset=max(0.0, state.reset),
        frees=state.retry_after,
        replaced=_sourced(placed.replaced, subject),
        looser=_sourced(placed.looser, subject),
        is_known=is_known,
    )


def _sourced(placed: Iterable[Placed], subject: Subject) -> tuple[tuple[Limit, str], ...]:
    return tuple([(each.limit, _source(each.source, subject)) for each in placed])
