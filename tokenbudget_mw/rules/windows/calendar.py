"""
Periods of the calendar: what is counted in one period is forgotten at its end.

The caller works out the period, because time zones are no matter for a backend. If the backend's own clock has already
passed the end, the next period counts; if it has not reached the start, the period before counts to its end: a caller
whose clock is ahead ends none. A counter never goes back to an older period than it has seen.

State: ``[0]`` or ``[total, start, end]``. Params: ``(start, end, next_end)``. Slot: the period's start. All moments
in microseconds since the epoch.
"""

from __future__ import annotations

__all__ = ["RELEASES", "calm", "charge", "credit", "empty_at", "frees_at", "give_back", "lifetime", "peek", "take"]

RELEASES = False


def peek(state: list[int], params: tuple[int, ...], now: int) -> tuple[int, int]:
    """
    Return the start of the period that counts, and its total.

    >>> peek([7, 0, 100], (0, 100, 200), 99), peek([7, 0, 100], (0, 100, 200), 100)
    ((0, 7), (100, 0))
    """
    start, _ = _period(state, params, now)
    return start, state[0] if len(state) > 1 and state[1] == start else 0


def take(state: list[int], params: tuple[int, ...], cost: int, most: int, now: int) -> tuple[int, int, int] | None:
    """
    Add *cost* to the period that is counted already.
    """
    if len(state) == 1 or now >= params[1] or state[1] != params[0] or not state[0] <= most:
        return None
    used, start, end = state
    state[0] += cost
    return start, used, end if state[0] and end > now else now


def calm(state: list[int], params: tuple[int, ...], now: int) -> tuple[int, int, int] | None:  # noqa: ARG001
    """
    Return None: a charge is never worked out ahead.
    """
    return None


def charge(state: list[int], params: tuple[int, ...], slot: int, amount: int, now: int) -> int:
    """
    Add *amount* to the period that starts at *slot*, unless that is over.
    """
    start, end = _period(state, params, now)
    if len(state) == 1 or state[1] != start:
        state[:] = (0, start, end)
    if slot == start:
        state[0] += amount
    return max(now, end) if state[0] else now


def give_back(state: list[int], slot: int, amount: int) -> None:
    """
    Take *amount* off the period that starts at *slot*, if it still counts.
    """
    if len(state) > 1 and state[1] == slot:
        if amount < state[0]:
            state[0] -= amount
        else:
            state[0] = 0


def credit(state: list[int], amount: int) -> None:
    """
    Take up to *amount* off the period.
    """
    state[0] = max(0, state[0] - amount)


def frees_at(state: list[int], params: tuple[int, ...], excess: int, now: int) -> int:
    """
    Return the end of the period, when everything leaves at once.
    """
    return max(now, _period(state, params, now)[1]) if excess > 0 else now


def empty_at(state: list[int], params: tuple[int, ...], now: int) -> int:
    """
    Return the end of the period; *now* where nothing counts.
    """
    return max(now, _period(state, params, now)[1]) if peek(state, params, now)[1] else now


def lifetime(params: tuple[int, ...], now: int) -> int:
    """
    Return the time to the end of the next period, in which a charge may stand.
    """
    return max(params[2] - now, 0)


def _period(state: list[int], params: tuple[int, ...], now: int) -> tuple[int, int]:
    start, end, next_end = params
    if now >= end:
        start, end = end, next_end
    if len(state) > 1 and (state[1] >= start or now < min(start, state[2])):
        return state[1], state[2]
    return start, end
