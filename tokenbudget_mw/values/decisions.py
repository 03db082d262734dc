"""
What limits answer, what is held of them, and what is decided.
"""

from __future__ import annotations

import msgspec

from tokenbudget_mw.values.limits import Check, Cost, Limit, Unit

__all__ = [
    "CROWDED",
    "CheckState",
    "Decision",
    "Hold",
    "Reply",
    "Reservation",
    "Seed",
    "Settlement",
    "Tally",
]

CROWDED = "crowded"
"""`Reply.barred` of an ask whose counter has as many open reservations as a backend keeps."""


class CheckState(msgspec.Struct, frozen=True, gc=False):
    """
    A backend's answer to one `Check`.

    Attributes:
        fits: Whether the cost fitted.

        remaining: What is left below the cap after this request (0 when in debt), in the limit's unit.

        reset: Seconds until everything counted now has left the window.

        retry_after: Seconds until the asked cost fits if nobody else spends; 0.0 where it fits, None where it never can.

        slot: Where it was charged (the algorithm's own number), -1 where it was not.
    """

    fits: bool
    remaining: int
    reset: float = 0.0
    retry_after: float | None = 0.0
    slot: int = -1


class Reply(msgspec.Struct, frozen=True, gc=False):
    """
    A backend's answer to an `Ask`.

    Attributes:
        admitted: Whether every enforced check fitted; if not, nothing was charged.

        states: One `CheckState` a check, in order.

        degraded: Whether a fallback answered because the backend could not.

        barred: Why the holder of the ask is barred (``revoked``, ``suspended``, …), or `CROWDED`; empty where it is not.
            A barred ask is not admitted, has charged nothing and has no states.

        unseeded: Positions of the checks whose windows must be seeded first. Such an ask is not admitted, has charged
            nothing and has no states; it is asked again after `Backend.seed`.
    """

    admitted: bool
    states: tuple[CheckState, ...]
    degraded: bool = False
    barred: str = ""
    unseeded: tuple[int, ...] = ()


class Seed(msgspec.Struct, frozen=True, gc=False):
    """
    What the books say that a window counts, for a backend that has never heard of it.

    Attributes:
        counter: As in `Check`.

        window: As in `Check`.

        algorithm: As in `Check`.

        params: As in `Check`.

        charges: Slots (the algorithm's own numbers) and what was charged in each, in the limit's unit. Empty where the
            books know of nothing.

        is_anonymous: As in `Ask`.
    """

    counter: str
    window: str
    algorithm: str
    params: tuple[int, ...]
    charges: tuple[tuple[int, int], ...] = ()
    is_anonymous: bool = False


class Hold(msgspec.Struct, frozen=True, gc=False):
    """
    What a reservation took from one window, and where.

    Attributes:
        check: The question that was asked.

        slot: Where it was charged.
    """

    check: Check
    slot: int


class Reservation(msgspec.Struct, frozen=True, gc=False):
    """
    An admitted request's claim on its limits, until it is settled.

    Attributes:
        id: As in `Ask`.

        tag: As in `Ask`.

        holds: What was charged.

        units: The limit unit of each hold, in order.

        cost: The whole reserved cost.

        expires_at: When the lease ends, in epoch seconds.
    """

    id: str
    tag: str
    holds: tuple[Hold, ...]
    units: tuple[Unit, ...]
    cost: Cost
    expires_at: float


class Settlement(msgspec.Struct, frozen=True, gc=False):
    """
    The truth about a reservation: each held window is moved to *actual*, at the slot that was charged.

    Settling never refuses, may leave a counter in debt, frees concurrency, and is idempotent by id. A window whose slot
    has left it is not touched. Where the lease has expired before, the actual amounts are charged in full.

    Attributes:
        reservation: What is settled.

        actual: The true amount of each hold, in order, in the hold's unit.

        booked_at: Where it is told long after the call, when the call's usage went to the books, in epoch seconds: a booked
            window that has started from there since then has it already. Else 0.0.
    """

    reservation: Reservation
    actual: tuple[int, ...]
    booked_at: float = 0.0


class Tally(msgspec.Struct, frozen=True, gc=False):
    """
    One limit, as a decision saw it.

    Attributes:
        limit: The limit.

        state: The backend's answer.

        cost: What was asked, in the limit's unit.
    """

    limit: Limit
    state: CheckState
    cost: int


class Decision(msgspec.Struct, frozen=True, gc=False):
    """
    Whether a request may run, and why.

    Attributes:
        admitted: Whether it runs.

        code: ``ok``, ``limit``, ``money``, ``credits``, ``unpriced``, ``backend``, ``credential``, ``payload``.

        status: HTTP status of the refusal; 200 where admitted.

        message: One sentence for the caller, safe to show.

        tallies: Every limit that applied.

        refused_by: Names of the limits that refused.

        would_refuse: Names of the shadow limits that would have refused.

        retry_after: Seconds until a retry can succeed; None where none can.

        reservation: What is held; None where nothing is: refused, or charged for good.

        degraded: Whether a fallback decided because the backend could not.
    """

    admitted: bool
    code: str = "ok"
    status: int = 200
    message: str = ""
    tallies: tuple[Tally, ...] = ()
    refused_by: tuple[str, ...] = ()
    would_refuse: tuple[str, ...] = ()
    retry_after: float | None = None
    reservation: Reservation | None = None
    degraded: bool = False
