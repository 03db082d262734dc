"""
What both colours of the Redis backend say to Redis, and how they read its answer.

The script is put together from ``redis.lua``, ``redis_long.lua`` and the window algorithms' Lua files, which stand beside the Python ones.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from tokenbudget_mw.rules.windows import ALGORITHMS, MAX_AMOUNT
from tokenbudget_mw.values import CheckState, Reply

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tokenbudget_mw.values import Ask, Reservation, Seed, Settlement

__all__ = [
    "DOUBTS",
    "DOUBTS_AT_ONCE",
    "NOTHING_ASKED",
    "SERVER_CLOCK",
    "Call",
    "Script",
    "abandon_call",
    "bar_call",
    "credit_call",
    "is_charged",
    "parse_reply",
    "peek_call",
    "renew_call",
    "reserve_call",
    "seed_call",
    "settle_call",
]

SERVER_CLOCK = -1

NOTHING_ASKED = Reply(True, ())

DOUBTS = 1024
"""How many reservations of unknown outcome are remembered, to be given back."""

DOUBTS_AT_ONCE = 16

ADMITTED, BARRED, UNSEEDED = 1, -1, -2


class Call(NamedTuple):
    """
    One call of the script.

    Attributes:
        keys: The counters.

        payload: The packed argument.
    """

    keys: tuple[str, ...]
    payload: bytes

    def arguments(self) -> tuple[int, tuple[str | bytes, ...]]:
        """
        Return the number of keys, and keys and arguments, as EVAL and EVALSHA take them.
        """
        return len(self.keys), (*self.keys, self.payload)

    def parts(self) -> list[bytes]:
        """
        Return the same as the parts of a command.
        """
        return [b"%d" % len(self.keys), *[key.encode() for key in self.keys], self.payload]


class Script:
    """
    The script's text and its name in Redis.

    Attributes:
        text: Source, as EVAL takes it.

        sha: Its SHA-1, as EVALSHA takes it.
    """

    def __init__(self) -> None:
        windows = files("tokenbudget_mw.rules.windows")
        parts = ["local MODULES = {}\n"]
        for name in ALGORITHMS:
            source = windows.joinpath(f"{name}.lua").read_text(encoding="utf-8")
            parts.append(f"MODULES.{name} = function()\n{source}end\n")
        here = files("tokenbudget_mw.backends")
        parts += [here.joinpath(name).read_text(encoding="utf-8") for name in ("redis.lua", "redis_long.lua")]
        self.text = "".join(parts)
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


def reserve_call(ask: Ask, now_us: int = SERVER_CLOCK) -> Call:
    """
    Ask for *ask*, at *now_us* or at Redis's own time.
    """
    return _ask_call("reserve", ask, now_us)


def peek_call(ask: Ask, now_us: int = SERVER_CLOCK) -> Call:
    """
    Ask what `reserve_call` would be told.
    """
    return _ask_call("peek", ask, now_us)


def credit_call(ask: Ask, now_us: int = SERVER_CLOCK) -> Call:
    """
    Take each check's cost off its window.
    """
    return _ask_call("credit", ask, now_us)


def settle_call(settlement: Settlement, now_us: int = SERVER_CLOCK) -> Call:
    """
    Tell the truth about a reservation.
    """
    reservation = settlement.reservation
    keys: dict[str, int] = {}
    values = _head("settle", now_us, reservation.id)
    for hold, actual in zip(reservation.holds, settlement.actual, strict=True):
        check = hold.check
        key = keys.setdefault(check.counter, len(keys) + 1)
        amounts = _whole(check.cost, check.window), hold.slot, _whole(actual, check.window)
        values += (key, check.window, check.algorithm, check.params, *amounts, True, False)
    return _call(values, reservation.tag, keys)


def renew_call(reservation: Reservation, lease: float, now_us: int = SERVER_CLOCK) -> Call:
    """
    Let an open reservation end *lease* seconds from now.
    """
    keys = _numbered(hold.check.counter for hold in reservation.holds)
    return _call(_head("renew", now_us, reservation.id, lease), reservation.tag, keys)


def seed_call(tag: str, seeds: Sequence[Seed], now_us: int = SERVER_CLOCK) -> Call:
    """
    Start windows at what the books say.
    """
    keys: dict[str, int] = {}
    values = _head("seed", now_us)
    for seed in seeds:
        key, window = keys.setdefault(seed.counter, len(keys) + 1), seed.window
        charges = [_whole(number, window) for charge in seed.charges for number in charge]
        values += (key, window, seed.algorithm, seed.params, 0, 0, 0, True, charges)
    return _call(values, tag, keys)


def bar_call(tag: str, counter: str, status: str, seconds: float, now_us: int = SERVER_CLOCK) -> Call:
    """
    Refuse asks of the holder *counter* as *status* for *seconds*, or no longer where that is empty.
    """
    return _call(_head("bar", now_us, status, seconds), tag, {counter: 1})


def abandon_call(ask: Ask, now_us: int = SERVER_CLOCK) -> Call:
    """
    Give back all that *ask* took: nobody waits for its answer any more, so its request is never made.
    """
    return _call(_head("abandon", now_us, ask.id), ask.tag, _numbered(check.counter for check in ask.checks))


def is_charged(answer: Sequence[Any]) -> bool:
    """
    Tell from the script's answer to `reserve_call` whether there is something to give back.
    """
    return answer[0] == ADMITTED


def parse_reply(answer: Sequence[Any]) -> Reply:
    """
    Read the script's answer to `reserve_call` or `peek_call`.
    """
    values = iter(answer)
    outcome = next(values)
    if outcome == BARRED:
        return Reply(False, (), barred=next(values).decode())
    if outcome == UNSEEDED:
        return Reply(False, (), unseeded=tuple(values))
    states = [_state(*state) for state in zip(values, values, values, values, values, strict=True)]
    return Reply(outcome == ADMITTED, tuple(states))


def _state(fitted: int, remaining: int, reset_us: int, wait_us: int, slot: int) -> CheckState:
    wait = wait_us / 1_000_000 if wait_us >= 0 else None
    return CheckState(bool(fitted), remaining, reset_us / 1_000_000, wait, slot)


def _ask_call(op: str, ask: Ask, now_us: int) -> Call:
    keys: dict[str, int] = {}
    values = _head(op, now_us, ask.id, ask.lease)
    for check in ask.checks:
        cost, window = check.cost, check.window
        key = keys.setdefault(check.counter, len(keys) + 1)
        amounts = _whole(cost, window), _whole(max(cost, check.room), window), _whole(check.cap, window)
        values += (key, window, check.algorithm, check.params, *amounts, check.enforced, check.is_booked)
    values[CHARGED] = len(keys)
    if ask.holder:
        values[HOLDER] = keys.setdefault(ask.holder, len(keys) + 1)
    return _call(values, ask.tag, keys)


HOLDER, CHARGED = 4, 5

_pack = msgspec.msgpack.Encoder().encode


def _head(op: str, now_us: int, id_: str = "", lease: float = 0.0) -> list[Any]:
    # Operation, moment, reservation id (of a bar: its status), lease (of a bar: its time) in microseconds, the number of
    # the holder's key, how many keys the checks are about; then of each check its key, window, algorithm, parameters,
    # cost, need, cap, whether it is enforced, whether it is booked. Of a hold: ... cost, slot, actual amount; of a seed:
    # its charges at the end.
    return [op, now_us, id_, round(lease * 1_000_000), 0, 0]


def _numbered(counters: Iterable[str]) -> dict[str, int]:
    return {counter: number for number, counter in enumerate(dict.fromkeys(counters), 1)}


def _call(values: list[Any], tag: str, counters: Iterable[str]) -> Call:
    # An empty tag would be no hash tag at all, and scatter the keys over a cluster.
    return Call(tuple([f"tb:{{{tag or '-'}}}:{counter}" for counter in counters]), _pack(values))


def _whole(amount: int, window: str) -> int:
    # NaN fails every comparison, and Lua counts in doubles: both end here.
    if type(amount) is not int or not 0 <= amount <= MAX_AMOUNT:
        raise ValueError(f"An amount is a whole number from 0 to 2**53 - 1; {window} was given {amount!r}.")
    return amount
