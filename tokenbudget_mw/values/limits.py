"""
Limits, what is asked of them, and what they answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

__all__ = [
    "NOTHING",
    "ONE_REQUEST",
    "ROOM",
    "Ask",
    "Check",
    "Cost",
    "Limit",
    "Mode",
    "OnBackendError",
    "Scope",
    "Unit",
    "Window",
]

Unit = Literal["requests", "tokens", "input_tokens", "output_tokens", "money", "concurrent"]
Scope = Literal["key", "user", "team", "project", "tenant", "model", "route", "global"]
Mode = Literal["enforce", "shadow"]
OnBackendError = Literal["allow", "deny", "local"]


@dataclass(frozen=True, slots=True)
class Window:
    """
    The time over which a limit counts.

    Attributes:
        seconds: Length of a trailing window; None for a calendar period.

        period: ``hour``, ``day``, ``week``, ``month``, ``quarter``, ``year`` of the calendar; None for a trailing window.

        anchor: On which day a period begins: 1 to 7, Monday to Sunday, of a week; 1 to 31 of a month, and of the first
            month of a quarter or year. A quarter or year that begins in another month than January has that month's
            number times 100 added: 406 is April 6th. In a month that is too short, the last day is meant.
    """

    seconds: float | None = None
    period: str | None = None
    anchor: int = 1


@dataclass(frozen=True, slots=True)
class Limit:
    """
    One promise: at most *amount* of *unit* in any *window*, for each value of the scopes *per*.

    Attributes:
        name: Short id for headers, rows and logs: ``"requests-minute"``; unique in the settings.

        unit: What is counted.

        amount: The most that may be counted: requests, tokens, concurrent calls; nano-dollars where *unit* is ``money``.

        window: Over which time; None for ``concurrent``.

        per: Scopes that together name the counter, ``("key", "model")``.

        algorithm: Name of the window algorithm: ``strict_log``, ``gcra``, ``calendar``, ``concurrent``.

        slots: How finely a trailing window is cut.

        mode: ``shadow`` decides and records, and refuses nobody.

        on_backend_error: What holds while the backend does not answer.

        text: The limit as the user wrote it.

        until: When it ends, in epoch seconds; None for never. Until then it holds in the place of what counts the same
            beside it.
    """

    name: str
    unit: Unit
    amount: int
    window: Window | None
    per: tuple[Scope, ...] = ("key",)
    algorithm: str = "strict_log"
    slots: int = 60
    mode: Mode = "enforce"
    on_backend_error: OnBackendError = "local"
    text: str = ""
    until: float | None = None

    def __hash__(self) -> int:
        # Names are unique in the settings, and limits that keys have of their own differ by their amounts; hashing all
        # fields takes as long as the rest of a look-up together.
        return hash(self.name) ^ self.amount


class Cost(msgspec.Struct, frozen=True, gc=False):
    """
    What a request takes from limits, a number a dimension.

    Attributes:
        requests: Requests.

        input_tokens: Input tokens, cached ones included.

        output_tokens: Output tokens, reasoning included.

        money_nano: Nano-dollars, rounded up.

        concurrent: Calls in flight.
    """

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    money_nano: int = 0
    concurrent: int = 0

    def of(self, unit: Unit) -> int:
        """
        Return the amount in dimension *unit*; ``tokens`` is input and output together.
        """
        if unit == "tokens":
            return self.input_tokens + self.output_tokens
        if unit == "money":
            return self.money_nano
        value: int = getattr(self, unit)
        return value


NOTHING = Cost()
"""What a call costs that is not charged."""

ONE_REQUEST = Cost(requests=1, concurrent=1)
"""A call whose handler will say what it used."""

ROOM = Cost(input_tokens=1, output_tokens=1, money_nano=1)
"""What such a call must find left: one of each, so that a spent budget refuses it."""


class Check(msgspec.Struct, frozen=True, gc=False):
    """
    One question to a backend: "may *counter*'s window *window* take *cost* more, below *cap*?"

    Attributes:
        counter: Whose counter, for example ``"key=k1,model=gpt-4o"``. All windows of a counter live together.

        window: Which window of it, for example ``"tokens:60"``. It has no amount in it, so a changed limit keeps its count.

        algorithm: Which window algorithm, a name in `rules.windows`.

        params: The algorithm's own integers (for ``strict_log``: slot length in microseconds, slots a window; for
            ``calendar``: start, end and end of the next period in microseconds since the epoch; for ``concurrent``: none).

        cost: What to take, in the limit's unit.

        cap: The limit's amount.

        enforced: Whether a "no" refuses the request (a shadow limit's does not).

        on_error: What holds while the backend does not answer: ``allow``, ``deny`` or ``local``.

        room: What must be left for the answer to be yes, though only *cost* is taken: for a call that will say its cost
            later, so that a spent limit refuses it.

        is_booked: Whether the books know what counts here. Where the backend has never heard of the window, such a check
            is not answered before it is seeded; see `Reply.unseeded`.
    """

    counter: str
    window: str
    algorithm: str
    params: tuple[int, ...]
    cost: int
    cap: int
    enforced: bool = True
    on_error: OnBackendError = "local"
    room: int = 0
    is_booked: bool = False


class Ask(msgspec.Struct, frozen=True, gc=False):
    """
    All checks of one request, decided in one atomic step: every enforced check fits, or nothing is charged.

    The shadow checks (``enforced=False``) are a second all-or-nothing group, charged only when the request is admitted
    and all of them fit; so a shadow limit counts what it would have counted had it been enforced.

    Attributes:
        id: Reservation id, unique (32 hexadecimal digits); a second ask of the same id is answered as the first was.

        tag: Cluster hash tag that all counters share: the tenant, or the widest scope known.

        checks: The questions.

        lease: Seconds after which an unsettled reservation gives back all it holds but requests. At most 1 day. 0 where
            nothing is reserved: what is charged is charged for good, no settlement follows, and the same id again is
            charged again.

        holder: Counter of the credential that asks, for example ``"key=k1"``: where that is barred, nothing is charged.
            Empty where there is none that could be barred.

        is_anonymous: Whether anybody can make as many such counters as they like (one an address, say): a backend that
            keeps a bounded number of counters bounds these apart.
    """

    id: str
    tag: str
    checks: tuple[Check, ...]
    lease: float = 600.0
    holder: str = ""
    is_anonymous: bool = False
