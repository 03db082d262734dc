"""
What both colours of the Redis backend say to Redis, and how they read its answer.

The script is put together from ``quick.lua``, ``counters.lua``, ``long.lua`` and the window algorithms' Lua files,
which stand beside the Python ones. ``…_take.lua``, ``…_look.lua`` and ``…_move.lua`` go into ``quick.lua``, the quick way.
"""

from __future__ import annotations

import hashlib
import re
import struct
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

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

FILES = ("quick.lua", "counters.lua", "long.lua")

NUMBERS = {name: number for number, name in enumerate(ALGORITHMS, 1)}
"""The algorithms' numbers, which stand in Redis, too: a new one comes at the end."""

RESERVE, PEEK, SETTLE, ABANDON, CREDIT, RENEW, SEED, BAR = range(1, 9)

REFUSED, ADMITTED, ALL_FIT = 0, 1, 2
BARRED, UNSEEDED = -1, -2

HOLDER, CHARGED, COUNT, PLAIN = 3, 4, 5, 6
PADDING = ((0, 0, 0), (0, 0), (0,), ())
SHADOW, BOOKED = 16, 32


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
        windows, here = files("tokenbudget_mw.rules.windows"), files("tokenbudget_mw.backends.redis")
        ways: dict[str, list[str]] = {"take": [], "look": [], "move": []}
        long = ["local MODULES = {}\n"]
        for name, number in NUMBERS.items():
            for way, part in ways.items():
                source = windows.joinpath(f"{name}_{way}.lua").read_text(encoding="utf-8")
                part.append(f"if algorithm == {number} then\n{source}")
            source = windows.joinpath(f"{name}.lua").read_text(encoding="utf-8")
            long.append(f"MODULES[{number}] = function()\n{source}end\n")
        quick, *rest = [here.joinpath(name).read_text(encoding="utf-8") for name in FILES]
        for way, part in ways.items():
            other = "else\nis_moved = false\nend" if way == "move" else "end"
            quick = quick.replace(f"--@{way.upper()}@", "else".join(part) + other)
        quick = re.sub(r"@(\d+)(d|i8)@", lambda found: found[2] * int(found[1]), quick)
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
    packer = _Packer(SETTLE, now_us, settlement.booked_at)
    for hold, actual in zip(reservation.holds, settlement.actual, strict=True):
        check = hold.check
        cost = check.cost
        if not (type(cost) is int and type(actual) is int and 0 <= cost <= MAX_AMOUNT >= actual >= 0):
            _refuse(check.window, cost, actual)
        packer.add(check, cost, hold.slot, actual, check.is_booked * BOOKED)
    return packer.call(reservation.tag, reservation.id)


def renew_call(reservation: Reservation, lease: float, now_us: int = SERVER_CLOCK) -> Call:
    """
    Let an open reservation end *lease* seconds from now.
    """
    packer = _Packer(RENEW, now_us, lease)
    for hold in reservation.holds:
        packer.number(hold.check.counter)
    return packer.call(reservation.tag, reservation.id)


def seed_call(tag: str, seeds: Sequence[Seed], now_us: int = SERVER_CLOCK) -> Call:
    """
    Start windows at what the books say.
    """
    packer, charges = _Packer(SEED, now_us, 0.0), list[int]()
    for seed in seeds:
        packer.add(seed, len(seed.charges), 0, 0)
        for slot, amount in seed.charges:
            if not (type(slot) is int and type(amount) is int and 0 <= slot <= MAX_AMOUNT >= amount >= 0):
                _refuse(seed.window, slot, amount)
            charges += (slot, amount)
    packer.numbers += charges  # behind all seeds
    return packer.call(tag)


def bar_call(tag: str, counter: str, status: str, seconds: float, now_us: int = SERVER_CLOCK) -> Call:
    """
    Refuse asks of the holder *counter* as *status* for *seconds*, or no longer where that is empty.
    """
    packer = _Packer(BAR, now_us, seconds)
    packer.number(counter)
    return packer.call(tag, status)


def abandon_call(ask: Ask, now_us: int = SERVER_CLOCK) -> Call:
    """
    Give back all that *ask* took: nobody waits for its answer any more, so its request is never made.
    """
    packer = _Packer(ABANDON, now_us, 0.0)
    for check in ask.checks:
        packer.number(check.counter)
    return packer.call(ask.tag, ask.id)


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
        if outcome == BARRED:
            return Reply(False, (), barred=values[0].decode())
        return Reply(False, (), unseeded=tuple(values))
    numbers = struct.unpack(f"<{len(answer) >> 3}q", answer)
    if numbers[0] != ALL_FIT:
        rest = iter(numbers[1:])
        states = [_state(*state) for state in zip(rest, rest, rest, rest, rest, strict=True)]
        return Reply(numbers[0] != REFUSED, tuple(states))
    state = CheckState
    return Reply(
        True,
        tuple(
            [
                state(True, numbers[at], numbers[at + 1] / 1_000_000, 0.0, numbers[at + 2])
                for at in range(1, len(numbers), 3)
            ]
        ),
    )


def _outcome(answer: bytes) -> int:
    outcome: int = struct.unpack_from("<q", answer)[0]
    return outcome


def _state(fitted: int, remaining: int, reset_us: int, wait_us: int, slot: int) -> CheckState:
    wait = wait_us / 1_000_000 if wait_us >= 0 else None
    return CheckState(bool(fitted), remaining, reset_us / 1_000_000, wait, slot)


def _ask_call(op: int, ask: Ask, now_us: int) -> Call:
    packer = _Packer(op, now_us, ask.lease)
    for check in ask.checks:
        cost, cap, room = check.cost, check.cap, check.room
        need = room if room > cost else cost  # noqa: FURB136 - max() takes longer than the rest of the line
        # A NaN is no int, and fails every comparison: it would be a yes.
        if not (type(cost) is type(need) is type(cap) is int and cost >= 0 and need <= MAX_AMOUNT >= cap >= 0):
            _refuse(check.window, cost, need, cap)
        packer.add(check, cost, need, cap, (not check.enforced) * SHADOW + check.is_booked * BOOKED)
    packer.charged()
    if ask.holder:
        packer.numbers[HOLDER] = packer.number(ask.holder)
    return packer.call(ask.tag, ask.id)


class _Packer:
    """
    Puts a call together.

    Attributes:
        numbers: Operation, moment, lease (of a bar: its time; of a settlement: `booked_at`) in microseconds, the number of the holder's key, how many keys
            the checks are about, how many checks, whether none is a shadow; then of each check the number of its key, its
            algorithm and flags, three parameters, cost, need, cap. Of a hold: cost, slot, actual amount; of a seed: how many
            charges, which come behind all seeds.
    """

    __slots__ = ("_counter", "_key", "_windows", "_windows_of", "numbers")

    def __init__(self, op: int, now_us: int, lease: float) -> None:
        self.numbers = [op, now_us, round(lease * 1_000_000), 0, 0, 0, 1]
        self._windows_of: dict[str, list[str]] = {}
        self._counter: str | None = None

    def add(self, check: Check | Seed, first: int, second: int, third: int, flags: int = 0) -> None:
        """
        Ask about *check*.
        """
        numbers, params = self.numbers, check.params
        if check.counter != self._counter:  # most checks of a request are about the same counter
            self._counter = check.counter
            self._key = self.number(check.counter)
            self._windows = self._windows_of[check.counter]
        self._windows.append(check.window)
        numbers[COUNT] += 1
        if flags & SHADOW:
            numbers[PLAIN] = 0
        numbers += (self._key, NUMBERS[check.algorithm] + flags, *params, *PADDING[len(params)], first, second, third)

    def number(self, counter: str) -> int:
        """
        Return the number of *counter*'s key, which takes part from now on.
        """
        self._windows_of.setdefault(counter, [])
        return list(self._windows_of).index(counter) + 1

    def charged(self) -> None:
        """
        All counters so far are to be charged.
        """
        self.numbers[CHARGED] = len(self._windows_of)

    def call(self, tag: str, id_: str = "") -> Call:
        """
        Return the call; the id of a bar is its status.
        """
        prefix = (
            f"tb:{{{tag or '-'}}}:"  # an empty tag would be no hash tag at all, and scatter the keys over a cluster
        )
        packed = struct.pack(f"<{len(self.numbers)}q", *self.numbers)
        lines = ["\n".join(windows).encode() for windows in self._windows_of.values()]
        return Call(tuple([prefix + counter for counter in self._windows_of]), (packed, id_.encode(), *lines))


def _refuse(window: str, *amounts: int) -> NoReturn:
    amount = next(one for one in amounts if type(one) is not int or not 0 <= one <= MAX_AMOUNT)
    raise ValueError(f"An amount is a whole number from 0 to 2**53 - 1; {window} was given {amount!r}.")
