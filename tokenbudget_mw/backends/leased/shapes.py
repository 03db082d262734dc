"""
Which asks may share what is reserved ahead, and how much that should be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from tokenbudget_mw.rules.windows import MAX_AMOUNT

if TYPE_CHECKING:
    from tokenbudget_mw.backends.leased.portions import Portion
    from tokenbudget_mw.values import Ask, Reply

__all__ = ["GRACE", "Plan", "Refill", "Shape", "Shapes", "Terms", "is_leasable"]

SHORTEST_SLOT_US = 250_000
"""Slots shorter than this, in microseconds, end before a portion is worth its round trip."""

GRACE = 5.0
"""A portion is settled so many seconds before the backend would take it back."""

DAY = 86_400.0

SHAPES = 10_000
"""How many shapes are known. Beyond it new ones ask the backend each time, until idle ones are forgotten."""

IDLE = 60.0
"""A shape that had to ask for nothing so many seconds may be forgotten."""

Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Terms:
    """
    How much may be reserved ahead, and for how long.

    Attributes:
        seconds: How long a portion is used at most.

        most: How many asks a portion is for at most.

        share: A portion takes at most one part in so many of what is left of any window, so that few strand in one process.

        first: How many asks the first portion is for; 1 asks the backend for that ask alone.

        margin: By how many seconds a portion is used shorter than it is good, because no two clocks go alike.
    """

    seconds: float = 1.0
    most: int = 65_536
    share: int = 8
    first: int = 1
    margin: float = 0.001

    def longer(self, lease: float) -> float:
        """
        Return the lease of a portion whose calls have *lease*, in seconds.
        """
        return min(DAY, lease + self.seconds + GRACE)


class Shape:
    """
    Asks for the same windows, with the same caps, for the same holder.

    Attributes:
        portions: What may be taken from, newest first.

        asks: For how many asks the last portion was.

        asked: When the backend was last asked, in seconds of the stock's clock.

        remaining: What the backend said last is left of each window; empty where it has not said.

        strict_until: Until then the backend is asked each time, because what it gave could not be used.

        is_filling: Whether somebody is asking for a portion just now.

        open: How many calls that were admitted here are not settled.
    """

    __slots__ = ("asked", "asks", "is_filling", "open", "portions", "remaining", "strict_until")

    def __init__(self, first: int) -> None:
        self.portions: list[Portion] = []
        self.asks = first
        self.asked = float("-inf")
        self.remaining: list[int] = []
        self.strict_until = 0.0
        self.is_filling = False
        self.open = 0

    def is_idle(self, since: float) -> bool:
        """
        Tell whether nothing is held and nothing was asked after *since*.
        """
        return not self.portions and not self.is_filling and self.asked < since

    def size(self, ask: Ask, ended: list[Portion], terms: Terms, time: float) -> int:
        """
        Return for how many asks like *ask* to reserve at *time*, after the portions *ended*; below 2 for none ahead.

        As many as the last term had, and a little more; twice as many where they did not last.
        """
        if self.portions or (not ended and time < self.asked + terms.seconds):
            wanted = 2 * self.asks
        else:
            served = sum([portion.served for portion in ended])
            wanted = served + served // 4 if ended else terms.first
        self.asked = time
        self.asks = max(1, min(wanted, terms.most, self.most(ask, terms.share)))
        return 1 if time < self.strict_until else self.asks

    def most(self, ask: Ask, share: int) -> int:
        """
        Return for how many asks like *ask* one part in *share* of what is left suffices.
        """
        costs = [max(check.cost, check.room) for check in ask.checks]
        most = min([MAX_AMOUNT // cost for cost in costs if cost], default=MAX_AMOUNT)
        return min([left // (share * cost) for left, cost in zip(self.remaining, costs, strict=False) if cost] + [most])

    def heard(self, reply: Reply) -> None:
        """
        Learn from the backend's *reply* to an ask alone. As long as little is left, it is asked each time.
        """
        self.remaining = [state.remaining for state in reply.states]
        if not reply.admitted:
            self.asks = 1

    def failed(self, reply: Reply, terms: Terms, time: float) -> None:
        """
        Learn that nothing could be reserved ahead: the backend refused, or what it gave cannot be used here.
        """
        self.asks = 1
        if reply.admitted:
            self.strict_until = time + terms.seconds


class Refill(NamedTuple):
    """
    A portion that is to be asked for.

    Attributes:
        shape: For which asks.

        ask: The question, for all of it.

        lease: The longest lease of an ask that may take from it, in seconds.

        now: When it was wanted, in epoch seconds.

        sent: The same moment by the clock of the stock, in seconds.
    """

    shape: Shape
    ask: Ask
    lease: float
    now: float
    sent: float


class Plan(NamedTuple):
    """
    What to do about an ask that could not be answered here.

    Attributes:
        shape: Its shape; None where nothing may be reserved ahead for it.

        refill: The portion to ask for first; None where the backend is asked for the ask alone.
    """

    shape: Shape | None
    refill: Refill | None = None


class Shapes(dict[Key, Shape]):
    """
    The shapes that are known, those that asked last at the end.
    """

    def of(self, ask: Ask, first: int, time: float) -> Shape | None:
        """
        Return the shape of *ask*, for *first* asks where it is new; None where too many are known.
        """
        key = key_of(ask)
        shape = self.pop(key, None)
        if shape is None:
            while self and next(iter(self.values())).is_idle(time - IDLE):
                del self[next(iter(self))]
            if len(self) >= SHAPES:
                return None
            shape = Shape(first)
        self[key] = shape
        return shape


def key_of(ask: Ask) -> Key:
    """
    Return what asks have in common that may share what is reserved ahead.
    """
    # a chain: the fastest that Python builds and hashes, and it is done for every ask
    key: Key = (ask.tag, ask.holder)
    for check in ask.checks:
        key = (key, check.counter, check.window, check.cap)
    return key


def is_leasable(ask: Ask) -> bool:
    """
    Tell whether quota for *ask* may be reserved ahead.

    A bucket that leaks (``gcra``) forgets what was charged a moment ago, calls in flight belong to calls, and slots may be
    too short. Where nothing is asked for, there is nothing to reserve.
    """
    for check in ask.checks:
        if type(check.cost) is not int or check.cost < 0:
            return False
        if check.algorithm == "strict_log":
            if check.params[0] < SHORTEST_SLOT_US:
                return False
        elif check.algorithm != "calendar":
            return False
    return any(check.cost for check in ask.checks)
