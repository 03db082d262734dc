"""
Counters that were lost, or never were: what must be asked of the books, and what holds while those do not answer.

A backend that meets a window of a booked limit for the first time says so (`Reply.unseeded`). The books are then asked
what was used in the times that the window covers, and the window starts there instead of at nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from tokenbudget_mw.rules.windows import ALGORITHMS, MAX_AMOUNT
from tokenbudget_mw.values import Limit, Scope, Seed, Unit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tokenbudget_mw.rules.admission import Plan, Request
    from tokenbudget_mw.values import Check, Route, Subject

__all__ = ["Question", "Span", "alone", "is_bookable", "questions", "seed_of", "without"]

MICRO = 1_000_000
MOST_SPANS = 61
"""Most spans of a window; a window of more slots has neighbours of them in one."""

HOLDERS = frozenset[Scope]({"key", "user", "team", "project", "tenant"})


class Span(msgspec.Struct, frozen=True, gc=False):
    """
    A time whose usage belongs in one slot.

    Attributes:
        slot: The slot, as the window's algorithm numbers it.

        since_us: First moment, in microseconds since the epoch.

        until_us: First moment after it.
    """

    slot: int
    since_us: int
    until_us: int


class Question(msgspec.Struct, frozen=True):
    """
    What the books are asked: how much of *unit* was used in each of *spans*.

    Attributes:
        scopes: Whose usage: pairs of scope and value, those of the limit but the model; empty for everybody's.

        account: The subject's account; None where it has none.

        model: The model's one name; None for all models.

        unit: What is added up.

        spans: In which times.
    """

    scopes: tuple[tuple[Scope, str], ...]
    account: str | None
    model: str | None
    unit: Unit
    spans: tuple[Span, ...]


def is_bookable(limit: Limit) -> bool:
    """
    Tell whether the books know what *limit* counts: money of a holder in any window, and whatever has a calendar period.
    """
    if limit.window is None or limit.unit == "concurrent":
        return False
    if limit.window.period is not None:
        return True
    return limit.unit == "money" and not HOLDERS.isdisjoint(limit.per)


def questions(plan: Plan, unseeded: Sequence[int], request: Request, now: float) -> dict[int, Question]:
    """
    Return what to ask of the books, by position in *plan*.

    Args:
        plan: What was asked of the backend.

        unseeded: As in `Reply`.

        request: What *plan* was made of.

        now: Epoch seconds.
    """
    now_us = round(now * MICRO)
    found = {}
    for at in unseeded:
        limit = plan.limits[at]
        scopes: list[tuple[Scope, str | None]] = [
            (scope, _value(scope, request.subject, request.route)) for scope in limit.per
        ]
        found[at] = Question(
            scopes=tuple([(scope, value) for scope, value in scopes if value is not None]),
            account=request.subject.account,
            model=request.model if "model" in limit.per else None,
            unit=limit.unit,
            spans=_SPANS[limit.algorithm](plan.ask.checks[at].params, now_us),
        )
    return found


def _value(scope: Scope, subject: Subject, route: Route | None) -> str | None:
    if scope in {"model", "global"}:
        return None
    if scope == "route":
        return None if route is None else route.path
    value: str | None = getattr(subject, scope)
    return value


def seed_of(check: Check, question: Question, amounts: Sequence[int], *, is_anonymous: bool = False) -> Seed:
    """
    Return the start of *check*'s window, where the books counted *amounts*, one for each span of *question*.

    Args:
        check: The check.

        question: What the books were asked.

        amounts: What they said, in the limit's unit.

        is_anonymous: As in `Ask`.
    """
    charges = [
        (span.slot, min(amount, MAX_AMOUNT)) for span, amount in zip(question.spans, amounts, strict=True) if amount > 0
    ]
    return Seed(check.counter, check.window, check.algorithm, check.params, tuple(charges), is_anonymous)


def without(plan: Plan, unseeded: Sequence[int]) -> Plan:
    """
    Return what to ask instead of *plan* of usage that is on its way to the books: windows at *unseeded* will start there.
    """
    kept = [at for at in range(len(plan.limits)) if at not in unseeded]
    ask = replace(plan.ask, checks=tuple([plan.ask.checks[at] for at in kept]))
    return replace(plan, ask=ask, limits=tuple([plan.limits[at] for at in kept]))


def alone(plan: Plan, unseeded: Sequence[int]) -> Plan | None:
    """
    Return what to ask instead of *plan* while the books do not answer; None where a limit says that none may pass then.

    A limit that says ``allow`` is not asked. One that says ``local`` counts in a window beside its own, which starts at
    nothing; its own waits for the books.
    """
    checks: list[Check] = []
    limits: list[Limit] = []
    for at, (check, limit) in enumerate(zip(plan.ask.checks, plan.limits, strict=True)):
        if at not in unseeded:
            checks.append(check)
        elif check.on_error == "deny" and check.enforced:
            return None
        elif check.on_error == "local":
            checks.append(replace(check, window=f"{check.window}?", is_booked=False))
        else:
            continue
        limits.append(limit)
    return replace(plan, ask=replace(plan.ask, checks=tuple(checks)), limits=tuple(limits))


# -- which times a window covers --------------------------------------------------------------------------------------


def _period(params: tuple[int, ...], now: int) -> tuple[Span, ...]:
    start, end, next_end = params
    slot, _ = ALGORITHMS["calendar"].peek([0], params, now)
    return (Span(slot, slot, end if slot == start else next_end),)


def _slots(params: tuple[int, ...], now: int) -> tuple[Span, ...]:
    length, slots = params
    newest, _ = ALGORITHMS["strict_log"].peek([0], params, now)
    # a slot counts until its end has left the window: those of the window's length, and the one in which it begins
    oldest = newest - length * (slots + 1)
    step = length * -(-(slots + 1) // MOST_SPANS)
    ends = range(newest, oldest, -step)
    return tuple([Span(end, max(end - step, oldest), end) for end in reversed(ends)])


def _bucket(params: tuple[int, ...], now: int) -> tuple[Span, ...]:
    # what has leaked of it is not known, so nothing of the last full length has
    return (Span(now, now - params[0], now + 1),)


_SPANS: dict[str, Callable[[tuple[int, ...], int], tuple[Span, ...]]] = {
    "calendar": _period,
    "strict_log": _slots,
    "gcra": _bucket,
}
