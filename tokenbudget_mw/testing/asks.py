"""
What tests ask of a backend: short ways to make checks, asks and settlements, and a blocking face for loops.
"""

from __future__ import annotations

import asyncio
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from tokenbudget_mw.values import Ask, Check, Cost, Hold, Reply, Reservation, Seed, Settlement

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from tokenbudget_mw.backends.base import AsyncBackend
    from tokenbudget_mw.values import Unit

__all__ = ["HOUR", "MINUTE", "START", "Blocking", "ask", "check", "in_flight", "seed", "settlement"]

MINUTE = (1_000_000, 60)
HOUR = (60_000_000, 60)
START = 1_700_000_000.0


def check(
    cost: int = 1,
    cap: int = 10,
    window: str = "tokens:60",
    *,
    params: tuple[int, ...] = MINUTE,
    algorithm: str = "strict_log",
    counter: str = "key=k1",
    enforced: bool = True,
    on_error: Any = "local",
    room: int = 0,
    is_booked: bool = False,
) -> Check:
    """
    Make a check; by default one token of ten a minute.
    """
    return Check(counter, window, algorithm, params, cost, cap, enforced, on_error, room, is_booked)


def in_flight(cap: int = 10, **options: Any) -> Check:
    """
    Make a check of concurrency.
    """
    return check(1, cap, "concurrent", params=(), algorithm="concurrent", **options)


def ask(
    *checks: Check,
    id: str | None = None,  # noqa: A002
    lease: float = 600.0,
    tag: str = "acme",
    holder: str = "",
) -> Ask:
    """
    Make an ask of *checks*.
    """
    return Ask(id or uuid.uuid4().hex, tag, checks, lease, holder)


def seed(*charges: tuple[int, int], of: Check) -> Seed:
    """
    Make a seed of the window of *of*: slots and amounts.
    """
    return Seed(of.counter, of.window, of.algorithm, of.params, charges)


def settlement(asked: Ask, reply: Reply, *actual: int) -> Settlement:
    """
    Settle what *reply* says that *asked* was charged; by default exactly that.
    """
    holds = tuple(Hold(c, s.slot) for c, s in zip(asked.checks, reply.states, strict=True) if s.slot >= 0)
    amounts = actual or tuple(hold.check.cost for hold in holds)
    units: tuple[Unit, ...] = tuple("tokens" for _ in holds)
    reservation = Reservation(asked.id, asked.tag, holds, units, Cost(), 0.0)
    return Settlement(reservation, amounts)


class Blocking:
    """
    An `AsyncBackend` as a `Backend`: each call runs on a loop of its own thread.
    """

    def __init__(self, backend: AsyncBackend) -> None:
        self._backend = backend
        self._loop = asyncio.new_event_loop()
        self._thread = ThreadPoolExecutor(1)
        self._running = self._thread.submit(self._loop.run_forever)

    def _run(self, call: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result(30)

    def reserve(self, ask: Ask, now: float) -> Reply:
        """
        Take all costs of *ask*, or none.
        """
        reply: Reply = self._run(self._backend.reserve(ask, now))
        return reply

    def peek(self, ask: Ask, now: float) -> Reply:
        """
        Answer as `reserve` would, and charge nothing.
        """
        reply: Reply = self._run(self._backend.peek(ask, now))
        return reply

    def settle(self, settlement: Settlement, now: float) -> bool:
        """
        Move every held window to its actual amount.
        """
        is_moved: bool = self._run(self._backend.settle(settlement, now))
        return is_moved

    def credit(self, ask: Ask, now: float) -> None:
        """
        Take each check's cost off its window.
        """
        self._run(self._backend.credit(ask, now))

    def renew(self, reservation: Reservation, lease: float, now: float) -> bool:
        """
        Let an open reservation end *lease* seconds from now, and not earlier.
        """
        is_open: bool = self._run(self._backend.renew(reservation, lease, now))
        return is_open

    def seed(self, tag: str, seeds: Sequence[Seed], now: float) -> None:
        """
        Start windows at what the books say.
        """
        self._run(self._backend.seed(tag, seeds, now))

    def bar(self, tag: str, counter: str, status: str, seconds: float, now: float) -> None:
        """
        Refuse asks whose holder is *counter*.
        """
        self._run(self._backend.bar(tag, counter, status, seconds, now))

    def close(self) -> None:
        """
        Close the backend and its loop.
        """
        self._run(self._backend.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._running.result(30)
        self._thread.shutdown()
        self._loop.close()
