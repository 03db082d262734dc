"""
What is reserved ahead: portions, the asks that may take from them, and for how long they are good.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenbudget_mw.backends.debts import reservation_of
from tokenbudget_mw.backends.leased.shapes import GRACE
from tokenbudget_mw.rules.windows import MAX_AMOUNT
from tokenbudget_mw.values import Hold, Settlement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenbudget_mw.backends.leased.shapes import Refill, Shape, Terms
    from tokenbudget_mw.values import Ask, Check, CheckState, Reply, Reservation

__all__ = [
    "Portion",
    "Portions",
    "filled",
    "moved",
    "nothing_of",
    "remember",
    "validity",
]

REMEMBERED = 65_536
"""How many ids of reservations are kept that other hands hold, or that nobody settled in time; oldest forgotten first."""


class Portion:
    """
    One reservation in the backend, made ahead for several asks.

    Attributes:
        shape: The asks that may take from it.

        ask: The question that reserved it.

        lease: The longest lease of an ask that may take from it, in seconds.

        left: What is not used of each window; below 0 where calls used more than they reserved.

        slots: Where it was charged.

        facts: Of each window: where it was charged, what the backend had left beside it, and when it would be empty, in
            epoch seconds; a sequence each.

        ends: When it is not used any more, in seconds of the stock's clock.

        wall: The same in epoch seconds.

        expires: When calls that took from it and are still open have ended, by the stock's clock.

        open: How many calls took from it and are not settled.

        served: How many took from it.

        is_live: Whether it is used.

        is_told: Whether the backend is told of it although calls are open.

        is_closed: Whether nothing changes any more what is told.
    """

    __slots__ = (
        "ask", "ends", "expires", "facts", "is_closed", "is_live", "is_told", "lease", "left", "open",
        "served", "shape", "slots", "wall",
    )  # fmt: skip

    def __init__(self, shape: Shape, ask: Ask, states: Sequence[CheckState], lease: float) -> None:
        self.shape = shape
        self.ask = ask
        self.lease = lease
        self.left = [check.cost for check in ask.checks]
        self.slots = [state.slot for state in states]
        self.facts: tuple[list[int], list[int], list[float]] = ([], [], [])
        self.ends = self.wall = self.expires = 0.0
        self.open = self.served = 0
        self.is_live = True
        self.is_told = self.is_closed = False

    @property
    def reservation(self) -> Reservation:
        """
        The reservation that it is in the backend.
        """
        holds = tuple([Hold(check, slot) for check, slot in zip(self.ask.checks, self.slots, strict=True)])
        return reservation_of(self.ask, holds)

    @property
    def settlement(self) -> Settlement:
        """
        What was used of it.
        """
        used = [check.cost - left for check, left in zip(self.ask.checks, self.left, strict=True)]
        return Settlement(self.reservation, tuple([min(amount, MAX_AMOUNT) for amount in used]))

    def spare(self, check: Check) -> int:
        """
        Return what is not used of *check*'s window; 0 where it is none of its windows.
        """
        for own, left in zip(self.ask.checks, self.left, strict=True):
            if own.window == check.window and own.counter == check.counter:
                return max(left, 0)
        return 0


class Portions:
    """
    Portions that the backend is not told of yet, found by what they hold.
    """

    def __init__(self) -> None:
        self._by_counter: dict[tuple[str, str], dict[Portion, None]] = {}

    def add(self, portion: Portion) -> None:
        """
        Find *portion* from now on.
        """
        for check in portion.ask.checks:
            self._by_counter.setdefault((portion.ask.tag, check.counter), {})[portion] = None

    def discard(self, portion: Portion) -> None:
        """
        Find *portion* no more.
        """
        for key in {(portion.ask.tag, check.counter) for check in portion.ask.checks}:
            portions = self._by_counter.get(key, {})
            portions.pop(portion, None)
            if not portions:
                self._by_counter.pop(key, None)

    def of(self, tag: str, counter: str) -> list[Portion]:
        """
        Return those that hold something of *counter* under *tag*.
        """
        return list(self._by_counter.get((tag, counter), ()))

    def all(self) -> list[Portion]:
        """
        Return each once.
        """
        return list(dict.fromkeys([portion for portions in self._by_counter.values() for portion in portions]))


def moved(check: Check, actual: int) -> int:
    """
    Return by how much *actual* is less than what *check* took.

    Raises:
        ValueError: It is no amount.
    """
    if type(actual) is not int or not 0 <= actual <= MAX_AMOUNT:
        raise ValueError(f"An amount is a whole number from 0 to 2**53 - 1; {check.window} was given {actual!r}.")
    return check.cost - actual


def nothing_of(ask: Ask, states: Sequence[CheckState]) -> Settlement:
    """
    Return the settlement that gives back all that *ask* was given.
    """
    holds = tuple([Hold(c, state.slot) for c, state in zip(ask.checks, states, strict=True) if state.slot >= 0])
    return Settlement(reservation_of(ask, holds), (0,) * len(holds))


def validity(checks: Sequence[Check], states: Sequence[CheckState]) -> tuple[int, int] | None:
    """
    Return the backend's moment of a charge, and the moment from which on a charge would go to another slot anywhere.

    Both in microseconds since the epoch; None where they cannot be told, or not everything was charged. The moment comes
    from what a state says: everything leaves a window one length after its newest slot, and that is the slot of now. (The
    slots of a window all have one length: its name says which.)

    >>> from tokenbudget_mw.values import Check, CheckState
    >>> check = Check("key=k1", "requests:60", "strict_log", (1_000_000, 60), 5, 10)
    >>> validity([check], [CheckState(True, 5, 60.75, 0.0, 9_000_000)])
    (8250000, 9000000)
    """
    here, ends = -1, []
    for check, state in zip(checks, states, strict=True):
        if state.slot < 0:
            return None
        reset = round(state.reset * 1_000_000)
        if check.algorithm == "strict_log":
            slot_us, slots = check.params
            end, gone = state.slot, state.slot + slot_us * slots
        elif state.slot in check.params[:2]:
            end = gone = check.params[check.params.index(state.slot) + 1]
        else:
            return None
        ends.append(end)
        if check.cost:
            here = gone - reset
            if check.algorithm == "strict_log" and not 0 < end - here <= check.params[0]:
                return None
    return (here, min(ends)) if here >= 0 and min(ends) > here else None


def filled(refill: Refill, reply: Reply, terms: Terms, *, is_virtual: bool) -> Portion | None:
    """
    Return what *reply* says was given; None where that cannot be used.

    It is good while the backend's moment is within the slots that were charged. How long that is, the reply says; it is
    counted from before the question left, so that the way there and back is part of it.
    """
    if not reply.admitted or reply.degraded:
        return None
    found = validity(refill.ask.checks, reply.states)
    if found is None:
        return None
    here, end = found
    portion = Portion(refill.shape, refill.ask, reply.states, refill.lease)
    if is_virtual:
        portion.ends = portion.wall = min(end / 1_000_000, refill.now + terms.seconds)
    else:
        seconds = min((end - here) / 1_000_000 - terms.margin, terms.seconds)
        portion.ends, portion.wall = refill.sent + seconds, refill.now + seconds
    rest = [state.remaining for state in reply.states]
    portion.facts = (portion.slots, rest, [refill.now + state.reset for state in reply.states])
    portion.expires = refill.sent + refill.ask.lease - GRACE
    return portion


def remember(ids: dict[str, None], id_: str) -> None:
    """
    Add *id_* to *ids*, and forget the oldest where they are too many.
    """
    while len(ids) >= REMEMBERED:
        del ids[next(iter(ids))]
    ids[id_] = None
