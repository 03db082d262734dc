"""
Limits, worked out: as far as they can be without a request, and for one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tokenbudget_mw.values import Check, Cost, Limit, Window

__all__ = ["Bound", "Windowed", "costing", "is_for_good", "params_of"]

_US = 1_000_000


class Bound(msgspec.Struct, frozen=True):
    """
    Limits, and what each asks of one request.

    Attributes:
        limits: Those that ask something.

        checks: The question of each, in order.

        since: The moment before which the questions were others, in epoch seconds.

        until: The moment from which they are others: a period of the calendar ends, or a limit.

        is_for_good: Whether what is taken stays taken: a request is a request whatever comes of it, so where nothing else is
            limited, there is nothing to settle.
    """

    limits: tuple[Limit, ...]
    checks: tuple[Check, ...]
    since: float = -math.inf
    until: float = math.inf
    is_for_good: bool = False


@dataclass(frozen=True, slots=True)
class Windowed:
    """
    A limit, worked out as far as it can be without a request.

    Attributes:
        limit: The limit.

        window: `Check.window`.

        params: `Check.params`; empty where the period of the calendar has yet to be looked up.

        period: Window of that period; None where there is none.

        enforced: `Check.enforced`.

        is_booked: `Check.is_booked`.
    """

    limit: Limit
    window: str
    params: tuple[int, ...]
    period: Window | None
    enforced: bool
    is_booked: bool


def costing(
    limits: Sequence[Limit], checks: Sequence[Check], upper: Cost, least: Cost, room: Cost | None = None
) -> list[Check]:
    """
    Return the *checks* of *limits* for another request, which costs most *upper* and in any case *least*, and for which
    *room* must be left.

    A limit is asked for the most that the request may cost, but for no more than its whole amount: a request whose true
    cost fits an empty window is never refused there.
    """
    asked: list[Check] = []
    for at, check in enumerate(checks):  # zip() takes longer
        unit, cap = limits[at].unit, check.cap
        cost = upper.of(unit)
        if cost > cap:
            # 1 at least: an amount of 0 blocks whatever is not free
            cost = min(cost, max(cap, least.of(unit), 1))
        asked.append(replace(check, cost=cost, room=0 if room is None else room.of(unit)))
    return asked


def is_for_good(limits: Iterable[Limit]) -> bool:
    """
    Tell whether *limits* are on requests alone; see `Bound.is_for_good`.
    """
    for limit in limits:  # noqa: SIM110 - a generator costs more than all of this
        if limit.unit != "requests":
            return False
    return True


def params_of(limit: Limit) -> tuple[int, ...]:
    """
    Return `Check.params` of a limit on a trailing window; empty for any other.
    """
    if limit.window is None or limit.window.seconds is None:
        return ()
    length_us = round(limit.window.seconds * _US)
    if limit.algorithm == "gcra":
        return (length_us, max(limit.amount, 1))
    return (-(-length_us // limit.slots), limit.slots)
