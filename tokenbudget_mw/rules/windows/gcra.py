"""
The generic cell rate algorithm, as a bucket that leaks: smooths, at the smallest state, and is less strict.

What is charged fills the bucket; it leaks by the cap in each length of time, evenly. So a spent limit comes back little by
little instead of slot by slot, and a window may see up to twice the cap: a full bucket, and what leaks meanwhile.

State: ``[0]`` or ``[level, since, length_us, cap]``: *level* is all that was charged since the bucket was last empty, at
*since*, when it began to leak by *cap* in *length_us*. Params: ``(length_us, cap)``, both above 0. Slot: the moment of the
charge. Quotients are floats on purpose: Lua has the same, and the same operations give the same result. A debt that would
take longer than `FAR_US` to leak is said to have gone by then: beyond it floats, and so Lua, know no single microseconds.
"""

from __future__ import annotations

import math

__all__ = [
    "FAR_US",
    "RELEASES",
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

RELEASES = False
FAR_US = 4_000_000_000_000_000


def peek(state: list[int], params: tuple[int, ...], now: int) -> tuple[int, int]:  # noqa: ARG001 - one signature for all
    """
    Return *now*, and what has not leaked.

    >>> peek([6, 0, 60, 6], (60, 6), 30), peek([6, 0, 60, 6], (60, 6), 39)
    ((30, 3), (39, 3))
    """
    return now, _left(state, now)


def take(state: list[int], params: tuple[int, ...], cost: int, most: int, now: int) -> tuple[int, int, int] | None:
    """
    Add *cost* to a bucket that is not empty and leaks as *params* say.
    """
    used = _left(state, now)
    if not 0 < used <= most or (state[2], state[3]) != params:
        return None
    state[0] += cost
    return now, used, _leaked_at(state, state[0])


def calm(state: list[int], params: tuple[int, ...], now: int) -> tuple[int, int, int] | None:  # noqa: ARG001
    """
    Return None: a charge is never worked out ahead.
    """
    return None


def charge(state: list[int], params: tuple[int, ...], slot: int, amount: int, now: int) -> int:
    """
    Add *amount*, unless even a full bucket would have leaked since *slot*.
    """
    left = _left(state, now)
    if not left or (state[2], state[3]) != params:
        state[:] = (left, now, *params)
    if now - slot < params[0]:
        state[0] += amount
    return empty_at(state, params, now)


def give_back(state: list[int], slot: int, amount: int) -> None:
    """
    Take *amount* off, unless the bucket was empty since *slot*: then it has leaked.
    """
    if len(state) > 1 and slot >= state[1]:
        state[0] -= min(amount, state[0])


def credit(state: list[int], amount: int) -> None:
    """
    Take up to *amount* off the bucket.
    """
    state[0] = max(0, state[0] - amount)


def frees_at(state: list[int], params: tuple[int, ...], excess: int, now: int) -> int:  # noqa: ARG001
    """
    Return the moment at which *excess* of what counts now has leaked.
    """
    if excess <= 0:
        return now
    return max(now, _leaked_at(state, state[0] - _left(state, now) + excess))


def empty_at(state: list[int], params: tuple[int, ...], now: int) -> int:  # noqa: ARG001
    """
    Return the moment at which the bucket is empty; *now* where it is.
    """
    return _leaked_at(state, state[0]) if _left(state, now) else now


def lifetime(params: tuple[int, ...], now: int) -> int:  # noqa: ARG001
    """
    Return the time that a full bucket takes to leak.
    """
    return params[0]


def _left(state: list[int], now: int) -> int:
    if len(state) == 1:
        return 0
    level, since, length, cap = state
    return max(0, level - math.floor((now - since) * (cap / length)))


def _leaked_at(state: list[int], amount: int) -> int:
    _, since, length, cap = state
    rate = cap / length
    moment = math.ceil(amount / rate)
    if moment >= FAR_US:
        return since + FAR_US
    # A float's last digit must not make a promise that `_left` breaks.
    while math.floor(moment * rate) < amount:
        moment += 1
    while moment and math.floor((moment - 1) * rate) >= amount:
        moment -= 1
    return since + moment
