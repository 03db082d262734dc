"""
Where a window counts in a storage that only knows counters: which keys, and what their values mean.

A window is a few counters, one a slot of time. So a charge is moved or given back where it was made, and never more than
the cap counts in any trailing window; the rules of `rules.windows` read the counters as they read their own state.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from tokenbudget_mw.rules.windows import ALGORITHMS, State, fits
from tokenbudget_mw.values import CheckState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tokenbudget_mw.values import Check, Seed

__all__ = ["FLIGHT_US", "SLOTS", "Look", "Place", "bar_key", "charged", "looked", "place_of", "regrouped"]

SLOTS = 4
"""Into how many slots a trailing window is cut at most: each one is a counter to read."""

FLIGHT_US = 900_000_000
"""How long a slot of calls in flight is, in microseconds."""

GRACE = 60
"""Seconds that a counter is kept beyond its slot's last use, for clocks that differ."""

KNOWN_FOR = 366 * 86_400
"""Seconds for which a trailing window is known to have been seeded."""

US = 1_000_000


class Place(NamedTuple):
    """
    Where a window counts at one moment.

    Attributes:
        name: What the keys of its counters begin with.

        slots: The slots that count, newest first; a charge goes into the first.

        ends: When the first slot leaves the window, in microseconds since the epoch.

        seconds: How long a counter of it is kept.

        rules: The window algorithm that reads these slots.

        params: What that takes.
    """

    name: str
    slots: tuple[int, ...]
    ends: int
    seconds: int
    rules: str
    params: tuple[int, ...]

    def key(self, slot: int) -> str:
        """
        Return the key of the counter of *slot*.
        """
        return f"{self.name}:{slot}"

    @property
    def neighbours(self) -> tuple[int, ...]:
        """
        The slots before and after the first: where others charge that read their clock a moment earlier or later.
        """
        if len(self.slots) == 1:
            return ()
        newest, before = self.slots[:2]
        return before, 2 * newest - before

    @property
    def mark(self) -> tuple[str, int]:
        """
        The key that says that the window was seeded, and the seconds for which it is kept.
        """
        if self.rules == "calendar":
            return f"{self.key(self.slots[0])}:known", self.seconds
        return f"{self.name}:known", KNOWN_FOR


@dataclass(slots=True)
class Look:
    """
    What a check found.

    Attributes:
        check: The check.

        place: Where it counts.

        amounts: What each slot of it counts, in their order.

        ahead: What the slot after the first counts.
    """

    check: Check
    place: Place
    amounts: list[int]
    ahead: int = 0

    @property
    def used(self) -> int:
        """
        What counts altogether.
        """
        return sum(self.amounts) + self.ahead

    @property
    def fitted(self) -> bool:
        """
        Whether the cost fits beside it.
        """
        return self.would_fit(self.used)

    def would_fit(self, used: int) -> bool:
        """
        Tell whether the cost fits where *used* counts.
        """
        return fits(used, max(self.check.cost, self.check.room), self.check.cap)

    def state(self) -> State:
        """
        Return what the rules take for the state of this window.
        """
        if self.place.rules == "concurrent":
            return [self.used]
        if self.place.rules == "calendar":
            return [self.used, self.place.slots[0], self.place.ends]
        state = [self.used]
        for slot, amount in zip(reversed(self.place.slots), reversed(self.amounts), strict=True):
            if amount:
                state += (slot, amount)
        if self.ahead:
            state += (self.place.neighbours[1], self.ahead)
        return state


def looked(look: Look, moment: int, now: float) -> CheckState:
    """
    Answer a check that is not charged.

    Args:
        look: What it found.

        moment: The backend's moment, in microseconds.

        now: The caller's, in seconds, from which its waits are counted.
    """
    check, rules, state = look.check, ALGORITHMS[look.place.rules], look.state()
    used, need = look.used, max(check.cost, check.room)
    wait: float | None = 0.0
    if not look.fitted:
        excess = used + need - check.cap
        wait = None if need > check.cap else _until(rules.frees_at(state, look.place.params, excess, moment), now)
    reset = _until(rules.empty_at(state, look.place.params, moment), now)
    return CheckState(look.fitted, max(check.cap - used, 0), reset, wait, -1)


def charged(look: Look, moment: int, now: float) -> CheckState:
    """
    Answer a check whose *look* has its cost in it already. Arguments as of `looked`.
    """
    reset = _until(ALGORITHMS[look.place.rules].empty_at(look.state(), look.place.params, moment), now)
    return CheckState(True, max(look.check.cap - look.used, 0), reset, 0.0, look.place.slots[0])


def _until(moment: int, now: float) -> float:
    return (moment - round(now * US)) / US


def bar_key(tag: str, counter: str) -> str:
    """
    Return the key that says whether the holder *counter* is barred.
    """
    return _digest(tag, counter, "bar")


def place_of(tag: str, check: Check | Seed, moment: int, lease: float) -> Place:
    """
    Return where the window of *check* counts at *moment*.

    Args:
        tag: As in `Ask`.

        check: The window.

        moment: In microseconds since the epoch.

        lease: For how many seconds a call in flight must count.
    """
    slots, ends, rules, params = _KINDS[check.algorithm](check.params, moment, lease)
    # Hashed: storages differ in what a key may be made of, and names of subjects do not belong into them.
    # Without what changes from period to period, but with the length of the slots.
    made_of = params if rules == "strict_log" else ()
    name = _digest(tag, check.counter, check.window, rules, *map(str, made_of))
    return Place(name, slots, ends, math.ceil((ends - moment) / US) + GRACE, rules, params)


def regrouped(seed: Seed, place: Place) -> dict[int, int]:
    """
    Return what *seed* charges in each slot of *place*; what has left it is not there.
    """
    amounts = dict.fromkeys(place.slots, 0)
    for slot, amount in seed.charges:
        at = slot
        if place.rules == "strict_log":
            length, _ = place.params
            # a fine slot is known by its end, which belongs to the next one; a moment of `gcra` by itself
            inside = slot if seed.algorithm == "gcra" else slot - 1
            at = min((inside // length + 1) * length, place.slots[0])
        if at in amounts:
            amounts[at] += amount
    return amounts


_Kind = tuple[tuple[int, ...], int, str, tuple[int, ...]]


def _trailing(params: tuple[int, ...], moment: int, _: float) -> _Kind:
    # the same log, with fewer slots; one more counts than fit, because the oldest has not wholly left
    slot_us, slots = params
    cut = min(slots, SLOTS)
    length = -(-slot_us * slots // cut)
    newest = (moment // length + 1) * length
    return tuple([newest - length * n for n in range(cut + 1)]), newest + length * cut, "strict_log", (length, cut)


def _bucket(params: tuple[int, ...], moment: int, lease: float) -> _Kind:
    # as a trailing window of its length: never more than the cap, but it comes back slot by slot
    return _trailing((-(-params[0] // SLOTS), SLOTS), moment, lease)


def _period(params: tuple[int, ...], moment: int, _: float) -> _Kind:
    start, end, next_end = params
    if moment >= end:
        start, end = end, max(next_end, moment)
    return (start,), end, "calendar", params


def _flight(_: tuple[int, ...], moment: int, lease: float) -> _Kind:
    # as many slots as a lease may reach into, so that what a dead process holds leaves with its slot
    newest = (moment // FLIGHT_US + 1) * FLIGHT_US
    count = math.ceil(lease * US / FLIGHT_US) + 1
    slots = tuple([newest - FLIGHT_US * n for n in range(count)])
    return slots, newest + FLIGHT_US * (count - 1), "concurrent", ()


_KINDS: Mapping[str, Callable[[tuple[int, ...], int, float], _Kind]] = MappingProxyType(
    {"strict_log": _trailing, "gcra": _bucket, "calendar": _period, "concurrent": _flight}
)


def _digest(*parts: str) -> str:
    text = "\x00".join(parts).encode("utf-8", "surrogatepass")
    return f"tb:{hashlib.blake2b(text, digest_size=16).hexdigest()}"
