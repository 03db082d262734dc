"""
Histories that workers have written, put together and held against the counters.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from history_worker import CALLS, LIMITS, LONG, asked, checks, reply_of

from tokenbudget_mw.testing.asks import ask, in_flight, settlement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tokenbudget_mw.backends.base import Backend

__all__ = ["Call", "counters", "read", "resolve", "worst"]


@dataclass
class Call:
    """
    An admitted call.

    Attributes:
        cost: What was reserved, in tokens.

        moment: When, by the counter's own clock, in microseconds; None where only the counter knows.

        slots: Where it was charged.

        actual: What it was settled at; None where it never was.

        is_settled: Whether the settlement was confirmed.

        lease: Its lease, in seconds.
    """

    cost: int
    moment: int | None
    slots: list[int]
    actual: int | None = None
    is_settled: bool = False
    lease: float = LONG


def read(lines: Iterable[str]) -> tuple[dict[str, Call], list[dict[str, Any]], int]:
    """
    Return the admitted calls by id, the questions whose answer nobody heard, and how many were refused.
    """
    calls: dict[str, Call] = {}
    open_questions: dict[str, dict[str, Any]] = {}
    refused = 0
    for text in lines:
        line = json.loads(text)
        match line["event"]:
            case "asked":
                open_questions[line["id"]] = line
            case "told":
                question = open_questions.pop(line["id"])
                if line["slots"] is None:
                    refused += 1
                    continue
                slots = line["slots"]
                calls[line["id"]] = Call(question["cost"], slots[-1], slots, lease=question["lease"])
            case "settling":
                calls[line["id"]].actual = line["actual"]
            case _:
                calls[line["id"]].is_settled = True
    return calls, list(open_questions.values()), refused


def resolve(backend: Backend, calls: dict[str, Call], unheard: list[dict[str, Any]], now: float) -> int:
    """
    Bring to an end what killed workers have left: ask again what nobody heard, settle what may not have been settled.

    Returns:
        How many questions stay open: their leases are so short that they may have ended, and then nobody knows any more
        whether they were admitted. Of those that were, the request counts.
    """
    for line in unheard:
        if line["lease"] != LONG:
            continue
        reply = backend.reserve(asked(line), now)
        if reply.admitted:
            calls[line["id"]] = Call(line["cost"], None, [state.slot for state in reply.states], actual=line["cost"])
    for name, call in calls.items():
        if call.is_settled or (call.actual is None and call.lease != LONG):
            continue
        call.actual = call.cost if call.actual is None else call.actual
        question = asked({"id": name, "cost": call.cost, "lease": call.lease})
        amounts = (1, call.actual, call.actual, 1, 1, call.actual, 1)
        backend.settle(settlement(question, reply_of(call.slots), *amounts), now)
        call.is_settled = True
    return sum(line["lease"] != LONG for line in unheard)


def worst(calls: Iterable[Call], window: str) -> int:
    """
    Return the most that any trailing window of *window*'s length has admitted, at what the calls came to.
    """
    length, _ = LIMITS[window]
    entries = sorted((c.moment, 1 if window.startswith("requests") else c.actual or 0) for c in calls if c.moment)
    most = total = begin = 0
    for moment, amount in entries:
        total += amount
        while entries[begin][0] <= moment - length:
            total -= entries[begin][1]
            begin += 1
        most = max(most, total)
    return most


def counters(backend: Backend, clock: Callable[[], float]) -> tuple[int, int, int]:
    """
    Return what the counters hold: requests, tokens, calls in flight.
    """
    _, _, _, _, requests, tokens, _ = checks(0)
    states = backend.peek(ask(requests, tokens, in_flight(CALLS, counter="tenant=t")), clock()).states
    return 10**9 - states[0].remaining, 10**9 - states[1].remaining, CALLS - states[2].remaining
