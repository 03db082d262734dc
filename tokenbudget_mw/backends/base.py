"""
What a backend is: the place where counters live.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenbudget_mw.values import Ask, Reply, Reservation, Seed, Settlement

__all__ = ["MAX_OPEN", "AsyncBackend", "Backend", "Watched", "away_since"]

MAX_OPEN = 10_000
"""
How many reservations of one counter may be open. Beyond it asks are `CROWDED`: what waits to be settled is memory, and
whoever makes requests must not decide how much.
"""


class Backend(Protocol):
    """
    A place where counters live, for threads.

    Every method is atomic across the threads and processes that share the place, takes one round trip, and raises
    `BackendUnavailableError` when the place does not answer within its deadline.
    """

    def reserve(self, ask: Ask, now: float) -> Reply:
        """
        Take all costs of *ask*, or none.

        Args:
            ask: The checks of one request.

            now: Epoch seconds. A backend with a clock of its own that all processes share (Redis TIME) uses that one,
                unless it was opened with ``clock="caller"``.
        """
        ...

    def peek(self, ask: Ask, now: float) -> Reply:
        """
        Answer as `reserve` would, and charge nothing.
        """
        ...

    def settle(self, settlement: Settlement, now: float) -> bool:
        """
        Move every held window to its actual amount, and free the concurrency. See `Settlement`. A booked window that is
        lost is not started: its seed has the actual amount.

        Returns:
            False where this reservation was settled before (nothing is changed then).
        """
        ...

    def credit(self, ask: Ask, now: float) -> None:
        """
        Take each check's cost off its window, the newest charges first, at most all that counts: an operator's act.

        Where nothing is left, reservations that are open give nothing back there, when they are settled or end.
        """
        ...

    def renew(self, reservation: Reservation, lease: float, now: float) -> bool:
        """
        Let an open reservation end *lease* seconds from now, and not earlier: a heartbeat.

        Returns:
            False where it is not open any more (nothing is changed then).
        """
        ...

    def seed(self, tag: str, seeds: Sequence[Seed], now: float) -> None:
        """
        Start windows of the counters under *tag* at what the books say. A window that is known already stays as it is.
        """
        ...

    def bar(self, tag: str, counter: str, status: str, seconds: float, now: float) -> None:
        """
        Refuse asks whose holder is *counter*, from the next one on, as *status* (``revoked``, …), for *seconds*. An empty
        *status* admits it again. What it counts stays.
        """
        ...

    def close(self) -> None:
        """
        Give back connections. A closed backend that is used again opens new ones.
        """
        ...


@runtime_checkable
class Watched(Protocol):
    """
    A backend that notices when its place is away. No backend needs to be.
    """

    @property
    def away_since(self) -> float | None:
        """
        Since when the place does not answer and is not asked, in epoch seconds; None while it is.
        """
        ...


def away_since(backend: Backend) -> float | None:
    """
    Return since when *backend* is away, in epoch seconds; None where it is not, or does not notice.
    """
    return backend.away_since if isinstance(backend, Watched) else None


@runtime_checkable
class Clocked(Protocol):
    """
    A backend that counts by its callers' clock.
    """

    def ahead_of(self, now: float) -> float:
        """
        Return by how many seconds the moment that it counts by is later than *now*, in epoch seconds; 0.0 where it is not.
        """
        ...


def clock_behind(backend: Backend, now: float) -> float:
    """
    Return how many seconds pass before *backend*'s counters go on, because the clock was set back to *now*: 0.0 for none.
    """
    return backend.ahead_of(now) if isinstance(backend, Clocked) else 0.0


class AsyncBackend(Protocol):
    """
    The same place, for an event loop. The promises of `Backend` hold.
    """

    async def reserve(self, ask: Ask, now: float) -> Reply:
        """
        Take all costs of *ask*, or none.
        """
        ...

    async def peek(self, ask: Ask, now: float) -> Reply:
        """
        Answer as `reserve` would, and charge nothing.
        """
        ...

    async def settle(self, settlement: Settlement, now: float) -> bool:
        """
        Move every held window to its actual amount; False where it was settled before.
        """
        ...

    async def credit(self, ask: Ask, now: float) -> None:
        """
        Take each check's cost off its window, the newest charges first, at most all that counts.
        """
        ...

    async def renew(self, reservation: Reservation, lease: float, now: float) -> bool:
        """
        Let an open reservation end *lease* seconds from now, and not earlier; False where it is not open any more.
        """
        ...

    async def seed(self, tag: str, seeds: Sequence[Seed], now: float) -> None:
        """
        Start windows of the counters under *tag* at what the books say. A window that is known already stays as it is.
        """
        ...

    async def bar(self, tag: str, counter: str, status: str, seconds: float, now: float) -> None:
        """
        Refuse asks whose holder is *counter*, from the next one on, as *status*, for *seconds*; none where it is empty.
        """
        ...

    async def aclose(self) -> None:
        """
        Give back connections.
        """
        ...
