"""
Which limits hold, of those that are written in several places, and which of them take the place of others.

The places are the lists of the settings (the plan's limits, everybody's, the route's) and above them the overrides of the
settings and the limits that a subject has of its own. Two limits count the same where scopes, unit and window are the same. Of those that do

- one with an end holds, until then, in the place of those that stand in the same list;
- one of a higher place holds in the place of those of lower places;
- the smallest holds, of what is then left.

A shadow limit refuses nobody, so it takes the place of shadow limits only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tokenbudget_mw.values import Limit, Mode, Scope

__all__ = ["OWN", "Held", "Layer", "Placed", "counted", "hold", "window_of"]

_DEFAULT_SLOTS = 60

OWN = "own"
"""Source of the limits that a subject has of its own."""


@dataclass(frozen=True, slots=True)
class Layer:
    """
    A list of limits.

    Attributes:
        source: Where it is written: ``plan free``, ``limits``, ``route /v1/*``, ``override tenant:acme``, ``own``.

        limits: What is written there.
    """

    source: str
    limits: tuple[Limit, ...] = ()


@dataclass(frozen=True, slots=True)
class Placed:
    """
    A limit that holds.

    Attributes:
        limit: The limit.

        source: Where it is written, as of `Layer`.

        replaced: Those in whose place it holds; the first of them is the next to hold.

        looser: Those that count the same and hold as well, unnoticed, because they are not smaller.
    """

    limit: Limit
    source: str
    replaced: tuple[Placed, ...] = ()
    looser: tuple[Placed, ...] = ()


@dataclass(frozen=True, slots=True)
class Held:
    """
    The limits that hold, and how long that stays so.

    Attributes:
        placed: The limits, with where they are written.

        limits: The limits alone.

        since: The moment before which others held, in epoch seconds.

        until: The moment from which others hold.
    """

    placed: tuple[Placed, ...]
    limits: tuple[Limit, ...]
    since: float
    until: float


def hold(layers: Sequence[Layer], above: Sequence[Layer], now: float) -> Held:
    """
    Work out which limits hold *now*.

    Args:
        layers: The lists that stand beside one another.

        above: Those that stand above them, each above the one before.

        now: Epoch seconds.
    """
    placed = [each for layer in layers for each in _standing(layer, now)]
    for layer in above:
        placed = _over(placed, _strictest(_untried(_standing(layer, now))))
    placed = _named_apart(_strictest(placed))
    ends = [limit.until for layer in (*layers, *above) for limit in layer.limits if limit.until is not None]
    return Held(
        placed=tuple(placed),
        limits=tuple([each.limit for each in placed]),
        since=max((end for end in ends if end <= now), default=-math.inf),
        until=min((end for end in ends if end > now), default=math.inf),
    )


def counted(limit: Limit) -> tuple[tuple[Scope, ...], str]:
    """
    Name what *limit* counts; two limits of one name count the same.
    """
    return limit.per, window_of(limit)


def window_of(limit: Limit) -> str:
    """
    Return `Check.window`, which has no amount in it.

    >>> from tokenbudget_mw.values import Limit, Window
    >>> window_of(Limit("x", "money", 5, Window(period="month", anchor=15), algorithm="calendar"))
    'money:month@15'
    """
    if limit.window is None:
        return limit.unit
    if limit.window.period is not None:
        anchor = "" if limit.window.anchor == 1 else f"@{limit.window.anchor}"
        return f"{limit.unit}:{limit.window.period}{anchor}"
    slots = "" if limit.slots == _DEFAULT_SLOTS else f"/{limit.slots}"
    if limit.algorithm == "gcra":
        slots = "/gcra"  # another kind of count
    return f"{limit.unit}:{limit.window.seconds:g}{slots}"


def _standing(layer: Layer, now: float) -> list[Placed]:
    """
    Return what stands in *layer* at *now*: nothing that has ended, and nothing in whose place another holds.
    """
    placed = [Placed(limit, layer.source) for limit in layer.limits if limit.until is None or now < limit.until]
    endless = [each for each in placed if each.limit.until is None]
    ending = [each for each in placed if each.limit.until is not None]
    return _over(endless, ending)


def _untried(placed: list[Placed]) -> list[Placed]:
    """
    Leave out trials beside an enforced limit, which would count in the same window.
    """
    return _over(_of_mode(placed, "shadow"), _of_mode(placed, "enforce"))


def _of_mode(placed: Iterable[Placed], mode: Mode) -> list[Placed]:
    return [each for each in placed if each.limit.mode == mode]


def _over(below: list[Placed], above: list[Placed]) -> list[Placed]:
    """
    Put each limit of *above* where the first of those in whose place it holds stood, or at the end.
    """
    kept: list[Placed | None] = list(below)
    for upper in above:
        at = [place for place, each in enumerate(below) if _gives_way(each.limit, upper.limit)]
        replaced = tuple([former for place in at for former in (below[place], *below[place].replaced)])
        free = [place for place in at if kept[place] is below[place]]
        for place in free:
            kept[place] = None
        chosen = replace(upper, replaced=(*upper.replaced, *replaced))
        if free:
            kept[free[0]] = chosen
        else:
            kept.append(chosen)
    return [each for each in kept if each is not None]


def _gives_way(lower: Limit, upper: Limit) -> bool:
    return (upper.mode == "enforce" or lower.mode == "shadow") and counted(lower) == counted(upper)


def _strictest(placed: Iterable[Placed]) -> list[Placed]:
    """
    Keep, of limits that share a counter, the one with the smallest amount.
    """
    kept: dict[tuple[tuple[tuple[Scope, ...], str], Mode], Placed] = {}
    for each in placed:
        key = (counted(each.limit), each.limit.mode)
        other = kept.get(key)
        if other is None:
            kept[key] = each
        elif each.limit.amount < other.limit.amount:
            kept[key] = replace(each, looser=(other, *other.looser))
        else:
            kept[key] = replace(other, looser=(*other.looser, each))
    return list(kept.values())


def _named_apart(placed: Iterable[Placed]) -> list[Placed]:
    """
    Give limits of one name, as they may come from different lists, names of their own by a number at the end.
    """
    names: set[str] = set()
    apart: list[Placed] = []
    for each in placed:
        name, count = each.limit.name, 1
        while name in names:
            count += 1
            name = f"{each.limit.name}-{count}"
        names.add(name)
        apart.append(each if count == 1 else replace(each, limit=replace(each.limit, name=name)))
    return apart
