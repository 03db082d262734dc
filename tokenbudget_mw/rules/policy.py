"""
Which limits apply to a request, and what each of them asks of the backend.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote
from zoneinfo import ZoneInfo

import msgspec

from tokenbudget_mw.errors import CredentialError
from tokenbudget_mw.rules.calendar_periods import period_at
from tokenbudget_mw.values import ONE_REQUEST, ROOM, Check

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tokenbudget_mw.values import Cost, Limit, Mode, Route, Scope, Subject

__all__ = ["Bound", "Plan", "Policy", "escape"]

_PLAIN = re.compile(r"[\w.:/@+*-]{1,128}", re.ASCII)
_DIGEST_LENGTH = 32
_KNOWN_MOST = 4096
_US = 1_000_000
_DEFAULT_SLOTS = 60
_HOLDERS: frozenset[Scope] = frozenset({"key", "user", "team", "project", "tenant"})


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


class Bound(msgspec.Struct, frozen=True):
    """
    Limits, and what each asks of one request.

    Attributes:
        limits: Those that ask something.

        checks: The question of each, in order.

        until: When the questions are others, in epoch seconds: the first end of a calendar period among them.
    """

    limits: tuple[Limit, ...]
    checks: tuple[Check, ...]
    until: float = math.inf


@dataclass(frozen=True, slots=True)
class _Window:
    """
    A limit, worked out as far as it can be without a request.

    Attributes:
        limit: The limit.

        window: `Check.window`.

        params: `Check.params`; None where the period of the calendar has yet to be looked up.

        period: Name of that period.

        enforced: `Check.enforced`.
    """

    limit: Limit
    window: str
    params: tuple[int, ...] | None
    period: str
    enforced: bool


class Policy:
    """
    The limits of all plans, ready to be asked per request. Safe to share between threads.

    Two limits that count the same thing (same scopes, unit, window and mode) share one counter; a request that meets
    both is charged once, against the smaller amount. A shadow limit beside an enforced one keeps its own count.

    Args:
        plans: Plans by name.

        limits: Limits that hold for everybody.

        default_plan: Name of the plan of subjects that have none.

        timezone: IANA name of the zone whose calendar counts.

        routes: The settings' routes, for the limits they have of their own.
    """

    def __init__(
        self,
        plans: Mapping[str, Plan],
        limits: tuple[Limit, ...] = (),
        default_plan: str | None = None,
        timezone: str = "UTC",
        routes: Iterable[Route] = (),
    ) -> None:
        self.plans = plans
        self.limits = limits
        self.default_plan = default_plan
        self._zone = ZoneInfo(timezone)
        self._sets: dict[str | None, tuple[Limit, ...]] = {}
        self._route_sets: dict[tuple[str | None, int], tuple[tuple[Limit, ...], tuple[Limit, ...]]] = {}
        self._windows: dict[int, _Window] = {}
        self._counters: dict[tuple[str | None, ...], str] = {}
        self._plain: dict[tuple[Subject, int], tuple[Route | None, Bound]] = {}
        self._periods: dict[str, tuple[int, int, int]] = {}
        self._enforced: set[tuple[tuple[Scope, ...], str]] = set()
        known = [*limits, *(limit for plan in plans.values() for limit in plan.limits)]
        known += [limit for route in routes for limit in route.limits]
        self._is_shared = any(_HOLDERS.isdisjoint(limit.per) for limit in known)
        self._know(known)

    def limits_for(self, subject: Subject, route: Route | None) -> tuple[Limit, ...]:
        """
        Return the limits that apply to *subject* on *route*: those of its plan, of everybody, of the route.

        Raises:
            CredentialError: The subject's plan does not exist (any more) and there is no default plan: it is refused
                rather than let through without limits.
        """
        name = subject.plan
        if name is None or name not in self.plans:
            name = self._fallback_plan(name)
        if route is None or not route.limits:
            found = self._sets.get(name)
            if found is None:
                found = self._sets[name] = _strictest(self._of_plan(name))
            return found
        return self._with_route(name, route)

    def bind_plain(self, subject: Subject, route: Route | None, now: float) -> Bound:
        """
        Bind the limits of a request that is no more than one, as far as is known: `ONE_REQUEST`, with `ROOM`.

        That is the same for all such requests of *subject* on *route*, and so is worked out once.
        """
        key = (subject, id(route))
        known = self._plain.get(key)
        if known is not None and now < known[1].until:
            return known[1]
        applying = self.limits_for(subject, route)
        limits, checks = self.bind(applying, subject, route, None, ONE_REQUEST, ONE_REQUEST, now, ROOM)
        ends = [check.params[1] / _US for check in checks if check.algorithm == "calendar"]
        bound = Bound(tuple(limits), tuple(checks), min(ends, default=math.inf))
        if len(self._plain) >= _KNOWN_MOST:
            self._plain.clear()
        self._plain[key] = (route, bound)  # the route is kept beside the result, so that its id is not used again
        return bound

    def bind(  # noqa: PLR0917 - called once a request: names would cost more than they tell
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
        Turn *limits* into checks: return those that ask something of this request, and what they ask.

        A limit asks for the most that the request may cost, but for no more than its whole amount: a request whose true
        cost fits an empty window is never refused there. Limits of which the request has no scope value are skipped.

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
        bound: list[Limit] = []
        checks: list[Check] = []
        per: tuple[Scope, ...] | None = None
        counter = None
        for limit in limits:
            if limit.per != per:  # most limits of a request count for the same scopes
                per = limit.per
                counter = self._counter(per, subject, route, model)
            if counter is None:
                continue
            unit = limit.unit
            cost = upper.of(unit)
            cap = limit.amount
            if cost > cap:
                # 1 at least: an amount of 0 blocks whatever is not free
                cost = min(cost, max(cap, least.of(unit), 1))
            known = self._windows.get(id(limit)) or self._bind(limit)
            params = known.params
            if params is None:
                params = self._period(known.period, now)
            check = Check(
                counter,
                known.window,
                limit.algorithm,
                params,
                cost,
                cap,
                known.enforced,
                limit.on_backend_error,
                0 if room is None else room.of(unit),
            )
            bound.append(limit)
            checks.append(check)
        return bound, checks

    def tag_of(self, subject: Subject) -> str:
        """
        Return the cluster hash tag of *subject*'s counters: its account (tenant, or the widest scope known).

        Where any limit is shared between accounts (``per global``, ``per model`` alone), all counters have the one tag
        ``global``: one atomic step can only take counters that live together.
        """
        return "global" if self._is_shared else subject.account or "global"

    def _fallback_plan(self, name: str | None) -> str | None:
        if name is not None and self.default_plan is None:
            raise CredentialError(f"The plan of this key, {name!r}, does not exist.", status=403, code="unknown_plan")
        return self.default_plan

    def _of_plan(self, name: str | None) -> tuple[Limit, ...]:
        return self.limits if name is None else (*self.plans[name].limits, *self.limits)

    def _with_route(self, name: str | None, route: Route) -> tuple[Limit, ...]:
        key = (name, id(route.limits))
        found = self._route_sets.get(key)
        if found is None:
            self._know(route.limits)
            # the route's limits are kept beside the result, so that their id is not used again
            found = (route.limits, _strictest((*self._of_plan(name), *route.limits)))
            if len(self._route_sets) < _KNOWN_MOST:
                self._route_sets[key] = found
        return found[1]

    def _know(self, limits: Iterable[Limit]) -> None:
        limits = tuple(limits)
        self._enforced.update((limit.per, _window(limit)) for limit in limits if limit.mode == "enforce")
        for limit in limits:
            if len(self._windows) < _KNOWN_MOST:
                self._windows[id(limit)] = self._bind(limit)

    def _bind(self, limit: Limit) -> _Window:
        window = _window(limit)
        enforced = limit.mode == "enforce"
        if not enforced and (limit.per, window) in self._enforced:
            window += "~"
        period = limit.window.period if limit.window is not None else None
        return _Window(limit, window, None if period else _params(limit), period or "", enforced)

    def _period(self, name: str, now: float) -> tuple[int, int, int]:
        known = self._periods.get(name)
        if known is None or not known[0] <= now * _US < known[1]:
            period = period_at(name, now, self._zone)
            known = self._periods[name] = (period.start_us, period.end_us, period.next_end_us)
        return known

    def _counter(self, per: tuple[Scope, ...], subject: Subject, route: Route | None, model: str | None) -> str | None:
        if len(per) == 1:
            scope = per[0]
            value = _value(scope, subject, route, model)
            return None if value is None else self._name((scope, value))
        pairs: list[str | None] = []
        for scope in per:
            value = _value(scope, subject, route, model)
            if value is None:
                return None
            pairs += (scope, value)
        return self._name(tuple(pairs))

    def _name(self, pairs: tuple[str | None, ...]) -> str:
        name = self._counters.get(pairs)
        if name is None:
            name = ",".join(_part(str(pairs[at]), str(pairs[at + 1])) for at in range(0, len(pairs), 2))
            if len(self._counters) >= _KNOWN_MOST:
                self._counters.clear()
            self._counters[pairs] = name
        return name


def _value(scope: Scope, subject: Subject, route: Route | None, model: str | None) -> str | None:
    if scope == "model":
        return model
    if scope == "route":
        return None if route is None else route.path
    if scope == "global":
        return ""
    value: str | None = getattr(subject, scope)
    return value


def _part(scope: str, value: str) -> str:
    return scope if scope == "global" else f"{scope}={escape(value)}"


def escape(value: str) -> str:
    """
    Return *value* so that it can stand in a counter's name: at most 128 characters, two values never the same.

    >>> escape("gpt-4o"), escape("a,key=b")
    ('gpt-4o', 'a%2Ckey%3Db')
    """
    if _PLAIN.fullmatch(value):
        return value
    quoted = quote(value, safe="/:@+*", errors="surrogatepass").replace("~", "%7E")
    if value and len(quoted) <= 128:
        return quoted
    digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_LENGTH]
    # `~` occurs in no escaped value, so that nobody can choose a value that reads like another's digest
    return f"{quoted[:95]}~{digest}" if value else "~"


def _window(limit: Limit) -> str:
    if limit.window is None:
        return limit.unit
    if limit.window.period is not None:
        return f"{limit.unit}:{limit.window.period}"
    slots = "" if limit.slots == _DEFAULT_SLOTS else f"/{limit.slots}"
    if limit.algorithm == "gcra":
        slots = "/gcra"  # another kind of count
    return f"{limit.unit}:{limit.window.seconds:g}{slots}"


def _params(limit: Limit) -> tuple[int, ...]:
    if limit.window is None or limit.window.seconds is None:
        return ()
    length_us = round(limit.window.seconds * _US)
    if limit.algorithm == "gcra":
        return (length_us, max(limit.amount, 1))
    return (-(-length_us // limit.slots), limit.slots)


def _strictest(limits: tuple[Limit, ...]) -> tuple[Limit, ...]:
    """
    Keep, of limits that share a counter, the one with the smallest amount.
    """
    kept: dict[tuple[tuple[Scope, ...], str, Mode], Limit] = {}
    for limit in limits:
        key = (limit.per, _window(limit), limit.mode)
        if key not in kept or limit.amount < kept[key].amount:
            kept[key] = limit
    return tuple(kept.values())
