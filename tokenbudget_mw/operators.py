"""
What operators ask and do: every limit of a subject explained, taken back to nothing, or credited.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from tokenbudget_mw.errors import ConfigurationError
from tokenbudget_mw.rules.layers import OWN
from tokenbudget_mw.rules.windows import MAX_AMOUNT
from tokenbudget_mw.values import Ask, Cost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tokenbudget_mw.backends.base import Backend
    from tokenbudget_mw.rules.admission import Admission
    from tokenbudget_mw.rules.layers import Placed
    from tokenbudget_mw.rules.policy import Policy
    from tokenbudget_mw.values import Check, CheckState, Limit, Route, Subject

__all__ = ["Explained", "Explanation", "Operators"]

NOTHING = Cost()
ONE = Cost(requests=1, input_tokens=1, money_nano=1, concurrent=1)


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

        degraded: Whether the backend was away: what is left is then this process's own share.
    """

    plan: str | None
    limits: tuple[Explained, ...]
    degraded: bool


class Operators:
    """
    Looks at limits and corrects them.

    Args:
        admission: The rules, for example ``core.guard.admission``.

        backend: Where counters live, ``core.guard.backend``.

        clock: Gives the moment, in epoch seconds.
    """

    def __init__(self, admission: Admission, backend: Backend, clock: Callable[[], float]) -> None:
        self._admission = admission
        self._backend = backend
        self._clock = clock

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
        limits, checks = policy.bind(held.limits, subject, route, model, NOTHING, NOTHING, now, ONE)
        reply = self._backend.peek(self._ask(subject, checks), now)
        placed = {id(each.limit): each for each in held.placed}
        lines = [
            _explained(placed[id(limit)], subject, check, state)
            for limit, check, state in zip(limits, checks, reply.states, strict=True)
        ]
        return Explanation(_plan(policy, subject), tuple(lines), reply.degraded)

    def reset(
        self, subject: Subject, *names: str, route: Route | None = None, model: str | None = None
    ) -> tuple[str, ...]:
        """
        Forget what the limits *names* of *subject* count; without names, what all of them do. Return their names.

        A limit that others share (``per tenant``, …) is reset for all of them.

        Raises:
            ConfigurationError: The subject has no such limit.

            BackendUnavailableError: The backend did not answer.
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

            BackendUnavailableError: The backend did not answer.
        """
        self._credit(subject, (name,), amount, route, model)

    def _credit(
        self, subject: Subject, names: tuple[str, ...], amount: int, route: Route | None, model: str | None
    ) -> tuple[str, ...]:
        now = self._clock()
        limits, checks = self._bind(subject, route, model, now)
        known = [limit.name for limit in limits]
        for name in names:
            if name not in known:
                raise ConfigurationError(f"No limit {name!r} applies here. Known: {', '.join(known) or 'none'}.")
        chosen = [
            _costing(check, amount)
            for limit, check in zip(limits, checks, strict=True)
            if not names or limit.name in names
        ]
        self._backend.credit(self._ask(subject, chosen), now)
        return names or tuple(known)

    def _bind(
        self, subject: Subject, route: Route | None, model: str | None, now: float
    ) -> tuple[list[Limit], list[Check]]:
        policy = self._admission.policy
        limits = policy.limits_for(subject, route, now)
        return policy.bind(limits, subject, route, model, NOTHING, NOTHING, now, ONE)

    def _ask(self, subject: Subject, checks: Iterable[Check]) -> Ask:
        policy = self._admission.policy
        return Ask(uuid.uuid4().hex, policy.tag_of(subject), tuple(checks), self._admission.lease)


def _costing(check: Check, cost: int) -> Check:
    return replace(check, cost=cost)


def _plan(policy: Policy, subject: Subject) -> str | None:
    return subject.plan if subject.plan in policy.plans else policy.default_plan


def _source(source: str, subject: Subject) -> str:
    if source != OWN:
        return source
    return f"key {subject.key}" if subject.source == "api_key" else "identify"


def _explained(placed: Placed, subject: Subject, check: Check, state: CheckState) -> Explained:
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
    )


def _sourced(placed: Iterable[Placed], subject: Subject) -> tuple[tuple[Limit, str], ...]:
    return tuple([(each.limit, _source(each.source, subject)) for each in placed])
