"""
Calls in flight: a charge counts until it is settled, or its lease ends.

State: ``[total]``. No params. Slot: always 0. Nobody knows when a call ends, so a refused caller is told to ask again
after `RETRY_US`.
"""

from __future__ import annotations

__all__ = [
    "RELEASES",
    "RETRY_US",
    "calm",
    "charge",
    "credit",
    "empty_at",
    "frees_at",
    "give_back",
    "lifetime",
    "peek",
    "take",
]

RELEASES = True
RETRY_US = 1_000_000


def peek(state: list[int], params: tuple[int, ...], now: int) -> tuple[int, int]:  # noqa: ARG001 - one signature for all
    """
    Return slot 0 and the calls in flight.
    """
    return 0, state[0]


def take(state: list[int], params: tuple[int, ...], cost: int, most: int, now: int) -> tuple[int, int, int] | None:
    """
    Add *cost* calls where at most *most* are in flight.
    """
    used = state[0]
    if not used <= most:
        return None
    state[0] = used + cost
    return 0, used, empty_at(state, params, now)


def calm(state: list[int], params: tuple[int, ...], now: int) -> tuple[int, int, int] | None:  # noqa: ARG001
    """
    Return None: a charge is never worked out ahead.
    """
    return None


def charge(state: list[int], params: tuple[int, ...], slot: int, amount: int, now: int) -> int:  # noqa: ARG001
    """
    Add *amount* calls.
    """
    state[0] += amount
    return empty_at(state, params, now)


def give_back(state: list[int], slot: int, amount: int) -> None:  # noqa: ARG001
    """
    Take *amount* calls off.
    """
    state[0] = max(0, state[0] - amount)


def credit(state: list[int], amount: int) -> None:
    """
    Take up to *amount* off the calls in flight.
    """
    state[0] = max(0, state[0] - amount)


def frees_at(state: list[int], params: tuple[int, ...], excess: int, now: int) -> int:  # noqa: ARG001
    """
    Return the moment to ask again.
    """
    return now + RETRY_US if excess > 0 else now


def empty_at(state: list[int], params: tuple[int, ...], now: int) -> int:  # noqa: ARG001
    """
    Return the moment to look again; *now* where no call is in flight.
    """
    return now + RETRY_US if state[0] else now


def lifetime(params: tuple[int, ...], now: int) -> int:  # noqa: ARG001
    """
    Return 0: the lease alone decides how long a call counts.
    """
    return 0
