"""
Window algorithms: how a counter forgets.

Each algorithm is one pure file here, with its twin in Lua beside it, and one line in `ALGORITHMS`. Its state is a plain
list of integers whose first item is the total (``[0]``: nothing was counted yet), so that memory and Redis keep the same
thing. Times are whole microseconds since the epoch. Three more Lua files are what nearly every call needs, written out for
speed: ``…_take.lua`` charges, ``…_look.lua`` answers a refusal, ``…_move.lua`` settles; what they leave to the twin costs
Redis three times as much, and answers the same.

Two rules are common to all and stand here: what fits, and what is left.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from tokenbudget_mw.rules.windows import calendar, concurrent, gcra, strict_log

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ALGORITHMS", "MAX_AMOUNT", "Algorithm", "State", "fits"]

State = list[int]

MAX_AMOUNT = 2**53 - 1
"""The largest amount that Lua, which counts in doubles, holds exactly."""


class Algorithm(Protocol):
    """
    One way to forget. *params* are those of `Check`; *now* never goes backwards for one counter; amounts are 0 or more.

    Attributes:
        RELEASES: Whether settling frees all that was held, whatever was used.
    """

    @property
    def RELEASES(self) -> bool: ...  # noqa: N802, D102 - a module's constant

    def peek(self, state: State, params: tuple[int, ...], now: int) -> tuple[int, int]:
        """
        Return the slot that a charge made *now* belongs to, and the total that still counts. Changes nothing.
        """
        ...

    def take(
        self, state: State, params: tuple[int, ...], cost: int, most: int, now: int
    ) -> tuple[int, int, int] | None:
        """
        Charge *cost* now if at most *most* counts already: the short way of `peek` and `charge`.

        Returns:
            The slot, the total that counted before, and `empty_at`. None where it does not fit or the short way does
            not lead there; the state is as it was then. What it did is undone, exactly, by `give_back`.
        """
        ...

    def calm(self, state: State, params: tuple[int, ...], now: int) -> tuple[int, int, int] | None:
        """
        Say for how long a charge is an addition to the first and to the last number of *state*, and nothing else.

        Returns:
            The slot of such charges (the very object that stands last but one in the state, and does so for as long as
            nothing else has changed it), `empty_at`, and the moment from which they are no such additions any more. None
            where they never are.
        """
        ...

    def charge(self, state: State, params: tuple[int, ...], slot: int, amount: int, now: int) -> int:
        """
        Add *amount* at *slot*, unless that slot has left the window; forget what has left. Returns `empty_at`.
        """
        ...

    def give_back(self, state: State, slot: int, amount: int) -> None:
        """
        Take *amount* off *slot* if it is still counted. Needs no parameters, because an expired lease has none.
        """
        ...

    def credit(self, state: State, amount: int) -> None:
        """
        Take up to *amount* off whatever counts, the newest first.
        """
        ...

    def frees_at(self, state: State, params: tuple[int, ...], excess: int, now: int) -> int:
        """
        Return the moment at which at least *excess* of what is counted now has left.
        """
        ...

    def empty_at(self, state: State, params: tuple[int, ...], now: int) -> int:
        """
        Return the moment at which all that is counted now has left; *now* where nothing is.
        """
        ...

    def lifetime(self, params: tuple[int, ...], now: int) -> int:
        """
        Return for how many microseconds a charge made *now* may matter.
        """
        ...


ALGORITHMS: Mapping[str, Algorithm] = MappingProxyType(
    {
        "strict_log": strict_log,
        "gcra": gcra,
        "calendar": calendar,
        "concurrent": concurrent,
    }
)


def fits(used: int, cost: int, cap: int) -> bool:
    """
    Tell whether *cost* more may be counted. Nothing always fits, also into a spent or indebted window.

    >>> fits(60, 40, 100), fits(61, 40, 100), fits(120, 0, 100), fits(0, 1, 0)
    (True, False, True, False)
    """
    return used + cost <= cap or cost == 0
