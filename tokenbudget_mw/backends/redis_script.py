"""
What both colours of the Redis backend say to Redis, and how they read its answer.

The script is put together from ``redis.lua``, ``redis_counters.lua``, ``redis_long.lua`` and the window algorithms' Lua files,
which stand beside the Python ones: what ``…_quick.lua`` says is the usual way.
"""

from __future__ import annotations

import hashlib
import re
import struct
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

from tokenbudget_mw.rules.windows import ALGORITHMS, MAX_AMOUNT
from tokenbudget_mw.values import CheckState, Reply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenbudget_mw.values import Ask, Check, Reservation, Seed, Settlement

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

FILES = ("redis.lua", "redis_counters.lua", "redis_long.lua")

NUMBERS = {name: number for number, name in enumerate(ALGORITHMS, 1)}
"""The algorithms' numbers, which stand in Redis, too: a new one comes at the end."""

RESERVE, PEEK, SETTLE, ABANDON, CREDIT, RENEW, SEED, BAR = range(1, 9)

REFUSED, ADMITTED, ALL_FIT = 0, 1, 2
BARRED, UNSEEDED = -1, -2

PARAMS = 3
"""Integers that an algorithm has."""

FLAG = 16


class Call(NamedTuple):
    """
    One call of the script.

    Attributes:
        keys: The counters.

        values: Packed numbers, id, and the names of each counter's windows.
    """

    keys: tuple[str, ...]
    values: tuple[bytes, ...]

    def arguments(self) -> tuple[int, tuple[str | bytes, ...]]:
        """
        Return the number of keys, and keys and arguments, as EVAL and EVALSHA take them.
        """
        return len(self.keys), (*self.keys, *self.values)

    def parts(self) -> list[bytes]:
        """
        Return the same as the parts of a command.
        """
        return [b"%d" % len(self.keys), *[key.encode() for key in self.keys], *self.values]


class Script:
    """
    The script's text and its name in Redis.

    Attributes:
        text: Source, as EVAL takes it.

        sha: Its SHA-1, as EVALSHA takes it.
    """

    def __init__(self) -> None:
        windows, here = files("tokenbudget_mw.rules.windows"), files("tokenbudget_mw.backends")
        take, move, long = list[str](), list[str](), ["local MODULES = {}\n"]
        for name, number in NUMBERS.items():
            for part, way in ((take, "take"), (move, "move")):
                source = windows.joinpath(f"{name}_{way}.lua").read_text(encoding="utf-8")
                part.append(f"if algorithm == {number} then\n{source}")
            source = windows.joinpath(f"{name}.lua").read_text(encoding="utf-8")
            long.append(f"MODULES[{number}] = function()\n{source}end\n")
        quick, *rest = [here.joinpath(name).read_text(encoding="utf-8") for name in FILES]
        quick = quick.replace("--@TAKE@", "else".join(take) + "end").replace("--@MOVE@", "else".join(move) + "end")
        quick = re.sub(r"@(\d+)@", lambda found: "d" * int(found[1]), quick)
        self.text = "".join([quick, *long, *rest])
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


def reserve_call(ask: Ask, now_us: int = SERVER_CLOCK) -> Call:
    """
    Ask for *ask*, at *now_us* or at Redis's own time.
    """
    return _ask_call(RESERVE, ask, now_us)


def peek_call(ask: Ask, now_us: int = SERVER_CLOCK) -> Call:
    """
    Ask what `reserve_call` would be told.
    """
    return _ask_call(PEEK, ask, now_us)


def credit_call(ask: Ask, now_us: int = SERVER_CLOCK) -> Call:
    """
    Take each check's cost off its window.
    """
    return _ask_call(CREDIT, ask, now_us)


def settle_call(settlement: Settlement, now_us: int = SERVER_CLOCK) -> Call:
    """
    Tell the truth about a reservation.
    """
    reservation = settlement.reservation
    names: dict[str, list[str]] = {}
    numbers = [SETTLE, now_us, 0, 0, 0, len(reservation.holds), 1]
    for hold, actual in zip(reservation.holds, settlement.actual, strict=True):
        check, window = hold.check, hold.check.window
        amounts = _whole(check.cost, window), hold.slot, _whole(actual, window)
        numbers += _about(check, names, amounts)
    return _call(numbers, reservation.id, reservation.tag, names)


def renew_call(reservation: Reservation, lease: float, now_us: int = SERVER_CLOCK) -> Call:
    """
    Let an open reservation end *lease* seconds from now.
    """
    names: dict[str, list[str]] = {hold.check.counter: [] for hold in reservation.holds}
    return _call([RENEW, now_us, _microseconds(lease), 0, 0, 0, 0], reservation.id, reservation.tag, names)


def seed_call(tag: str, seeds: Sequence[Seed], now_us: int = SERVER_CLOCK) -> Call:
    """
    Start windows at what the books say.
    """
    names: dict[str, list[str]] = {}
    numbers, charges = [SEED, now_us, 0, 0, 0, len(seeds), 0], list[int]()
    for seed in seeds:
        numbers += _about(seed, names, (len(seed.charges), 0, 0))
        charges += [_whole(number, seed.window) for charge in seed.charges for number in charge]
    return _call(numbers + charges, "", tag, names)


def bar_call(tag: str, counter: str, status: str, seconds: float, now_us: int = SERVER_CLOCK) -> Call:
    """
    Refuse asks of the holder *counter* as *status* for *seconds*, or no longer where that is empty.
    """
    return _call([BAR, now_us, _microseconds(seconds), 0, 0, 0, 0], status, tag, {counter: []})


def abandon_call(ask: Ask, now_us: int = SERVER_CLOCK) -> Call:
    """
    Give back all that *ask* took: nobody waits for its answer any more, so its request is never made.
    """
    names: dict[str, list[str]] = {check.counter: [] for check in ask.checks}
    return _call([ABANDON, now_us, 0, 0, 0, 0, 0], ask.id, ask.tag, names)


def is_charged(answer: Any) -> bool:
    """
    Tell from the script's answer to `reserve_call` whether there is something to give back.
    """
    return isinstance(answer, bytes) and _outcome(answer) != REFUSED


def parse_reply(answer: Any) -> Reply:
    """
    Read the script's answer to `reserve_call` or `peek_call`.
    """
    if isinstance(answer, list):
        outcome, *values = answer
        return (
            Reply(False, (), barred=values[0].decode())
            if outcome == BARRED
            else Reply(False, (), unseeded=tuple(values))
        )
    outcome, *numbers = map(int, struct.unpack(f"<{len(answer) // 8}d", answer))
    values = iter(numbers)
    if outcome == ALL_FIT:
        states = [
            CheckState(True, remaining, reset / 1_000_000, 0.0, slot)
            for remaining, reset, slot in zip(values, values, values, strict=True)
        ]
    else:
        states = [_state(*state) for state in zip(values, values, values, values, values, strict=True)]
    return Reply(outcome != REFUSED, tuple(states))


def _outcome(answer: bytes) -> float:
    outcome: float = struct.unpack_from("<d", answer)[0]
    return outcome


def _state(fitted: int, remaining: int, reset_us: int, wait_us: int, slot: int) -> CheckState:
    wait = wait_us / 1_000_000 if wait_us >= 0 else None
    return CheckState(bool(fitted), remaining, reset_us / 1_000_000, wait, slot)


def _ask_call(op: int, ask: Ask, now_us: int) -> Call:
    names: dict[str, list[str]] = {}
    numbers = [op, now_us, _microseconds(ask.lease), 0, 0, len(ask.checks), 1]
    for check in ask.checks:
        cost, window = check.cost, check.window
        amounts = _whole(cost, window), _whole(max(cost, check.room), window), _whole(check.cap, window)
        flags = (not check.enforced) + 2 * check.is_booked
        numbers += _about(check, names, amounts, flags)
        numbers[PLAIN] &= check.enforced
    numbers[CHARGED] = len(names)
    if ask.holder:
        names.setdefault(ask.holder, [])
        numbers[HOLDER] = list(names).index(ask.holder) + 1
    return _call(numbers, ask.id, ask.tag, names)


HOLDER, CHARGED, PLAIN = 3, 4, 6


def _about(check: Check | Seed, names: dict[str, list[str]], amounts: tuple[int, int, int], flags: int = 0) -> list[int]:
    # The number of its key; its algorithm, and whether it is a shadow, whether it is booked; parameters; cost, need, cap.
    # Of a hold: cost, slot, actual amount; of a seed: how many charges, which come behind all seeds.
    windows = names.setdefault(check.counter, [])
    windows.append(check.window)
    key = list(names).index(check.counter) + 1
    params = check.params + (0,) * (PARAMS - len(check.params))
    return [key, NUMBERS[check.algorithm] + FLAG * flags, *params, *amounts]


def _call(numbers: list[int], id_: str, tag: str, names: dict[str, list[str]]) -> Call:
    # The numbers begin with operation, moment, lease (of a bar: its time) in microseconds, the number of the holder's key,
    # how many keys the checks are about, how many checks; the id of a bar is its status.
    # An empty tag would be no hash tag at all, and scatter the keys over a cluster.
    keys = tuple([f"tb:{{{tag or '-'}}}:{counter}" for counter in names])
    lines = ["\n".join(windows).encode() for windows in names.values()]
    return Call(keys, (struct.pack(f"<{len(numbers)}d", *numbers), id_.encode(), *lines))


def _microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)


def _whole(amount: int, window: str) -> int:
    # NaN fails every comparison, and Lua counts in doubles: both end here.
    if type(amount) is not int or not 0 <= amount <= MAX_AMOUNT:
        raise ValueError(f"An amount is a whole number from 0 to 2**53 - 1; {window} was given {amount!r}.")
    return amount
