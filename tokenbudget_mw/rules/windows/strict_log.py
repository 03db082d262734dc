"""
The strict coalesced sliding log: never more than the cap in any trailing window.

Time is cut into slots of ``slot_us``; what is charged in one slot is counted as one entry, stamped with the slot's end.
An entry is forgotten only when its end has left the window, ``slot_us * slots`` long; so each hit is counted at least as
long as an exact log would, and at most one slot longer.

State: ``[total, end, amount, end, amount, …]``, oldest first, amounts above 0. Params: ``(slot_us, slots)``. Slot: the
slot's end, in microseconds since the epoch; so entries of another slot length stay true when the settings change it.
"""

from __future__ import annotations

__all__ = ["RELEASES", "calm", "charge", "credit", "empty_at", "frees_at", "give_back", "lifetime", "peek", "take"]

RELEASES = False


def peek(state: list[int], params: tuple[int, ...], now: int) -> tuple[int, int]:
    """
    Return the slot of *now* and the total that still counts.

    >>> peek([7, 60, 3, 120, 4], (60, 2), 180)
    (240, 4)
    """
    slot_us, slots = params
    slot = (now // slot_us + 1) * slot_us
    gone = now - slot_us * slots
    used = state[0]
    if not used or state[1] > gone:
        return slot, used
    i = 1
    while i < len(state) and state[i] <= gone:
        used -= state[i + 1]
        i += 2
    return slot, used


def take(state: list[int], params: tuple[int, ...], cost: int, most: int, now: int) -> tuple[int, int, int] | None:
    """
    Add *cost* to the slot of *now*, where entries stand already and none of a later slot.

    >>> state = [7, 60, 3, 120, 4]
    >>> take(state, (60, 2), 1, 10, 110), state
    ((120, 7, 240), [8, 60, 3, 120, 5])
    """
    used = state[0]
    if not used:
        return None
    slot_us, slots = params
    length = slot_us * slots
    slot = state[-2]
    if state[1] <= now - length:
        # What had left when the newest entry was made is forgotten; what left since then may yet have to come back. New
        # settings may have made slots shorter than that entry's: what has not left at all is never forgotten.
        _forget(state, min(slot - slot_us, now) - length)
        used = peek(state, params, now)[1]
    if not used <= most:
        return None
    if not slot - slot_us <= now < slot:
        slot = (now // slot_us + 1) * slot_us
        if slot <= state[-2] or not cost:
            return None
        state += (slot, 0)
    state[0] += cost
    state[-1] += cost
    return slot, used, slot + length


def calm(state: list[int], params: tuple[int, ...], now: int) -> tuple[int, int, int] | None:
    """
    Return the newest slot, when it has left, and when it ends or the oldest entry leaves, whatever comes first.

    >>> calm([7, 60, 3, 120, 4], (60, 2), 110)
    (120, 240, 120)
    """
    if len(state) == 1:
        return None
    slot_us, slots = params
    length = slot_us * slots
    slot = state[-2]
    if not slot - slot_us <= now < slot or state[1] <= now - length:
        return None
    return slot, slot + length, min(slot, state[1] + length)


def charge(state: list[int], params: tuple[int, ...], slot: int, amount: int, now: int) -> int:
    """
    Add *amount* at *slot*, unless that has left the window; forget what has.

    >>> state = [7, 60, 3, 120, 4]
    >>> charge(state, (60, 2), 240, 1, 180), state
    (360, [5, 120, 4, 240, 1])
    """
    length = params[0] * params[1]
    gone = now - length
    if len(state) > 1:
        if state[1] > gone and state[-2] == slot:  # nearly always
            state[0] += amount
            state[-1] += amount
            return slot + length
        _forget(state, gone)
    if amount and slot > gone:
        _add(state, slot, amount)
    return state[-2] + length if len(state) > 1 else now


def give_back(state: list[int], slot: int, amount: int) -> None:
    """
    Take *amount* off the entry at *slot*, if it is still there.
    """
    i = _place(state, slot)
    if i < len(state) and state[i] == slot:
        left = state[i + 1] - amount
        if left > 0:
            state[0] -= amount
            state[i + 1] = left
        else:
            state[0] -= state[i + 1]
            del state[i : i + 2]


def credit(state: list[int], amount: int) -> None:
    """
    Take up to *amount* off, the newest entries first.
    """
    while amount > 0 and len(state) > 1:
        part = min(amount, state[-1])
        _add(state, state[-2], -part)
        amount -= part


def frees_at(state: list[int], params: tuple[int, ...], excess: int, now: int) -> int:
    """
    Return when at least *excess* of what is counted now has left, oldest first.
    """
    length = params[0] * params[1]
    moment = now
    for i in range(1, len(state), 2):
        if excess <= 0:
            break
        if state[i] > now - length:
            excess -= state[i + 1]
            moment = state[i] + length
    return moment


def empty_at(state: list[int], params: tuple[int, ...], now: int) -> int:
    """
    Return when the newest entry leaves; *now* where none counts.
    """
    return max(now, state[-2] + params[0] * params[1]) if len(state) > 1 else now


def lifetime(params: tuple[int, ...], now: int) -> int:  # noqa: ARG001 - one signature for all algorithms
    """
    Return the window and the slot in which a charge may stand.
    """
    return params[0] * (params[1] + 1)


def _forget(state: list[int], gone: int) -> None:
    end = 1
    while end < len(state) and state[end] <= gone:
        state[0] -= state[end + 1]
        end += 2
    del state[1:end]


def _add(state: list[int], slot: int, amount: int) -> None:
    state[0] += amount
    i = _place(state, slot)
    if i == len(state) or state[i] != slot:
        state[i:i] = (slot, amount)
    elif state[i + 1] + amount:
        state[i + 1] += amount
    else:
        del state[i : i + 2]


def _place(state: list[int], slot: int) -> int:
    # From the end: nearly every change is to the newest entries.
    i = len(state)
    while i > 1 and state[i - 2] >= slot:
        i -= 2
    return i
