"""
Which limits apply to a request, and what each of them asks of the backend.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from tokenbudget_mw.errors import CredentialError
from tokenbudget_mw.rules.bound import Bound, Windowed, costing, is_for_good, params_of
from tokenbudget_mw.rules.calendar_periods import period_at
from tokenbudget_mw.rules.counter_names import CounterNames
from tokenbudget_mw.rules.layers import OWN, Held, Layer, counted, hold, window_of
from tokenbudget_mw.rules.seeding import is_bookable
from tokenbudget_mw.values import ONE_REQUEST, ROOM, Check

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tokenbudget_mw.values import Cost, Limit, Mode, Route, Scope, Subject, Window

__all__ = ["Plan", "Policy"]

_KNOWN_MOST = 4096
_SETS_MOST = 16_384
"""How many sets of limits that routes and subjects have of their own are kept worked out."""

_US = 1_000_000
_WIDEST_FIRST: tuple[Scope, ...] = ("tenant", "project", "team", "user", "key")
_HOLDERS: frozenset[Scope] = frozenset(_WIDEST_FIRST)
_NONE: Mapping[str, tuple[Limit, ...]] = MappingProxyType({})

_OwnKey = tuple[str | None, "tuple[Limit, ...]", int, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Plan:
    """
    A named set of limits.

    Attributes:
        name: How subjects refer to it.

        limits: The limits, all of which hold.

        holder: Scope whose value has the plan; limits that name no scope count for each of its values.

        mode: ``shadow`` where none of the limits refuses anybody.
    """

    name: str
    limits: tuple[Limit, ...]
    holder: Scope = "key"
    mode: Mode = "enforce"


class Policy:
    """
    The limits of all plans, ready to be asked per request. Safe to share between threads.

    Two limits that count the same thing (same scopes, unit, window and mode) share one counter; a request that meets
    both is charged once; `rules.layers` says which of them holds. A shadow limit beside an enforced one keeps its own
    count.

    Args:
        plans: Plans by name.

        limits: Limits that hold for everybody.

        default_plan: Name of the plan of subjects that have none.

        timezone: IANA name of the zone whose calendar counts.

        routes: The settings' routes, for the limits they have of their own.

        mode: ``shadow`` where the limits that subjects have of their own refuse nobody, either.

        overrides: Limits by scope and value (``"tenant:acme"``), each in the place of what counts the same elsewhere.

        has_books: Whether counters that a backend does not know start at what the books say.

    Attributes:
        is_shared: Whether all counters have one tag; see `tag_of`.
    """

    def __init__(
        self,
        plans: Mapping[str, Plan],
        limits: tuple[Limit, ...] = (),
        default_plan: str | None = None,
        timezone: str = "UTC",
        routes: Iterable[Route] = (),
        *,
        mode: Mode = "enforce",
        overrides: Mapping[str, tuple[Limit, ...]] = _NONE,
        has_books: bool = False,
    ) -> None:
        self.plans = plans
        self.limits = limits
        self.default_plan = default_plan
        self._zone = ZoneInfo(timezone)
        self._mode = mode
        self.has_books = has_books
        self.overrides = overrides
        used = {name.partition(":")[0] for name in overrides}
        self._override_scopes = tuple([scope for scope in _WIDEST_FIRST if scope in used])
        self._sets: dict[str | None, Held] = {}
        self._own_sets: dict[_OwnKey, tuple[Route | None, Held]] = {}
        self._bounds: dict[int, Windowed] = {}
        self._names = CounterNames()
        self._known: dict[tuple[Subject, int, str | None], tuple[Route | None, Bound]] = {}
        self._periods: dict[tuple[str | None, int], tuple[int, int, int]] = {}
        self._enforced: set[tuple[tuple[Scope, ...], str]] = set()
        known = [*limits, *(limit for plan in plans.values() for limit in plan.limits)]
        known += [limit for route in routes for limit in route.limits]
        known += [limit for own in overrides.values() for limit in own]
        self.is_shared = any(_HOLDERS.isdisjoint(limit.per) for limit in known)
        self._enforced.update(counted(limit) for limit in known if limit.mode == "enforce")
        self._know(known)
        self._settings_bounds = dict(self._bounds)

    def limits_for(self, subject: Subject, route: Route | None, now: float) -> tuple[Limit, ...]:
        """
        Return the limits that apply to *subject* on *route* at *now* (epoch seconds): those of its plan, of everybody, of
        the route, and its own.

        Raises:
            CredentialError: The subject's plan does not exist (any more) and there is no default plan: it is refused
                rather than let through without limits.
        """
        held = self._sets.get(subject.plan)
        if (
            held is not None
            and held.since <= now < held.until
            and not (subject.limits or self._override_scopes or (route is not None and route.limits))
        ):
            return held.limits
        return self.held_for(subject, route, now).limits

    def held_for(self, subject: Subject, route: Route | None, now: float) -> Held:
        """
        Return the same limits with where they are written, what they replace, and how long that stays so.
        """
        name = subject.plan
        if name is None or name not in self.plans:
            name = self._fallback_plan(name)
        overrides = self._overrides_of(subject) if self._override_scopes else ()
        if overrides or subject.limits or (route is not None and route.limits):
            return self._own_set(name, subject, route, overrides, now)
        held = self._sets.get(name)
        if held is None or not held.since <= now < held.until:
            # the ends of limits are looked at here, and not again before the next of them; a clock may go back, too
            held = self._sets[name] = hold(self._layers(name, None), (), now)
            self._know(held.limits)
        if subject.plan is None:
            self._sets[None] = held
        return held

    def bound(self, subject: Subject, route: Route | None, model: str | None, now: float) -> Bound:
        """
        Bind the limits of a request that is no more than one, as far as is known: `ONE_REQUEST`, with `ROOM`.

        That is the same for all such requests of *subject* on *route* for *model*, and so is worked out once. Those that
        cost something else differ in nothing but that; see `rules.bound.costing`.
        """
        key = (subject, id(route), model)
        known = self._known.get(key)
        if known is not None and known[1].since <= now < known[1].until:
            return known[1]
        held = self.held_for(subject, route, now)
        limits, checks = self.bind(held.limits, subject, route, model, ONE_REQUEST, ONE_REQUEST, now, ROOM)
        periods = [check.params for check in checks if check.algorithm == "calendar"]
        bound = Bound(
            tuple(limits),
            tuple(checks),
            since=max([held.since, *[period[0] / _US for period in periods]]),
            until=min([held.until, *[period[1] / _US for period in periods]]),
            is_for_good=is_for_good(limits),
        )
        if len(self._known) >= _KNOWN_MOST:
            self._known.clear()
        self._known[key] = (route, bound)  # the route is kept beside the result, so that its id is not used again
        return bound

    def bind(  # noqa: PLR0917 - names would tell no more
        self,
        limits: Iterable[Limit],
        subject: Subject,
        route: Route | None,
        model: str | None,
        upper: Cost,
        least: Cost,
        now: float,
        room: Cost | None = None,
    ) -> tuple[list[Limit], list[Check]]:
        """
        Turn *limits* into checks: return those that ask something of this request, and what they ask. Limits of which the
        request has no scope value are skipped.

        Args:
            limits: As `limits_for` gave them, or some of them.

            subject: Who pays.

            route: Where it goes.

            model: Model it asks for.

            upper: The most it may cost.

            least: What it costs in any case.

            now: Epoch seconds.

            room: What must be left without being taken; see `Check.room`.
        """
        kept: list[Limit] = []
        checks: list[Check] = []
        for limit in limits:
            counter = self._names.of(limit.per, subject, route, model)
            if counter is None:
                continue
            known = self._bounds.get(id(limit)) or self._bind(limit)
            params = known.params if known.period is None else self._period(known.period, now)
            kept.append(limit)
            checks.append(
                Check(
                    counter,
                    known.window,
                    limit.algorithm,
                    params,
                    0,
                    limit.amount,
                    known.enforced,
                    limit.on_backend_error,
                    is_booked=known.is_booked,
                )
            )
        return kept, costing(kept, checks, upper, least, room)

    def tag_of(self, subject: Subject) -> str:
        """
        Return the cluster hash tag of *subject*'s counters: its account (tenant, or the widest scope known).

        Where any limit is shared between accounts (``per global``, ``per model`` alone), all counters have the one tag
        ``global``: one atomic step can only take counters that live together.
        """
        return "global" if self.is_shared else subject.account or "global"

    def holder_of(self, subject: Subject) -> str:
        """
        Return the counter of the API key by which *subject* was found; empty where it was found otherwise.
        """
        return self._names.named("key", subject.key) if subject.source == "api_key" and subject.key is not None else ""

    def _fallback_plan(self, name: str | None) -> str | None:
        if name is not None and self.default_plan is None:
            raise CredentialError(f"The plan of this key, {name!r}, does not exist.", status=403, code="unknown_plan")
        return self.default_plan

    def _layers(self, plan: str | None, route: Route | None) -> list[Layer]:
        layers = [] if plan is None else [Layer(f"plan {plan}", self.plans[plan].limits)]
        layers.append(Layer("limits", self.limits))
        return layers if route is None else [*layers, Layer(f"route {route.path}", route.limits)]

    def _overrides_of(self, subject: Subject) -> tuple[str, ...]:
        values = [(scope, getattr(subject, scope)) for scope in self._override_scopes]
        names = [f"{scope}:{value}" for scope, value in values if value is not None]
        return tuple([name for name in names if name in self.overrides])

    def _own_set(
        self, plan: str | None, subject: Subject, route: Route | None, overrides: tuple[str, ...], now: float
    ) -> Held:
        if route is not None and not route.limits:
            route = None
        key = (plan, subject.limits, 0 if route is None else id(route.limits), overrides)
        known = self._own_sets.get(key)
        if known is None or not known[1].since <= now < known[1].until:
            if route is not None:
                self._enforced.update(counted(limit) for limit in route.limits if limit.mode == "enforce")
            # the route is kept beside the result, so that its limits' id is not used again
            above = [Layer(f"override {name}", self.overrides[name]) for name in overrides]
            known = (route, hold(self._layers(plan, route), [*above, Layer(OWN, self._own(subject))], now))
            if max(len(self._own_sets), len(self._bounds)) >= _SETS_MOST:
                self._own_sets, self._sets, self._bounds = {}, {}, dict(self._settings_bounds)
            self._own_sets[key] = known
            self._know(known[1].limits)
        return known[1]

    def _own(self, subject: Subject) -> tuple[Limit, ...]:
        if self._mode == "enforce":
            return subject.limits
        return tuple([replace(limit, mode="shadow") for limit in subject.limits])

    def _know(self, limits: Iterable[Limit]) -> None:
        for limit in limits:
            if id(limit) not in self._bounds:
                self._bounds[id(limit)] = self._bind(limit)

    def _bind(self, limit: Limit) -> Windowed:
        window = window_of(limit)
        period = limit.window if limit.window is not None and limit.window.period is not None else None
        if period is not None and self._zone.key != "UTC":
            # a period of another zone that began later would end the one that is counted, with what was used in it
            window += f" {self._zone.key}"
        enforced = limit.mode == "enforce"
        if not enforced and counted(limit) in self._enforced:
            window += "~"
        is_booked = self.has_books and is_bookable(limit)
        return Windowed(limit, window, params_of(limit), period, enforced, is_booked)

    def _period(self, window: Window, now: float) -> tuple[int, int, int]:
        key = (window.period, window.anchor)
        known = self._periods.get(key)
        if known is None or not known[0] <= now * _US < known[1]:
            period = period_at(window.period or "", now, self._zone, window.anchor)
            known = self._periods[key] = (period.start_us, period.end_us, period.next_end_us)
        return known
