"""
A backend that does not answer is left alone until it does.

`Guarded` and `AsyncGuarded` count failures of the backend that they wrap. When it fails too often they open: every call
fails at once, at no cost, while a probe in the background asks again and again, and closes them at the first answer.
Where a backend has several servers, each has a circuit of its own: one that is away does not take the others with it.
"""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from typing import TYPE_CHECKING, TypeVar

from tokenbudget_mw import threads
from tokenbudget_mw.backends.circuits import Circuit, Circuits
from tokenbudget_mw.errors import BackendUnavailableError
from tokenbudget_mw.processes import call_in_children
from tokenbudget_mw.values import Ask, Check, Cost, Hold, Reservation, Settlement

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tokenbudget_mw.backends.base import AsyncBackend, Backend
    from tokenbudget_mw.backends.circuits import Breaker, CircuitState
    from tokenbudget_mw.values import Reply, Seed

__all__ = ["AsyncGuarded", "Circuit", "Circuits", "Guarded", "probe"]

T = TypeVar("T")


class Guarded:
    """
    A `Backend` behind a `Circuit`.

    Args:
        backend: What is wrapped.

        circuit: Its state; `Circuits` where it has several servers.

        probe_every: Seconds between two probes while it is open.
    """

    def __init__(self, backend: Backend, circuit: Breaker, *, probe_every: float = 0.1) -> None:
        self._backend = backend
        self._breaker = circuit
        self._probe_every = probe_every
        self._asked = 0.0
        self._begin()
        call_in_children(self._begin)

    def _begin(self) -> None:
        self._prober: threading.Thread | None = None
        self._start = threading.Lock()
        self._closed = threading.Event()

    @property
    def health(self) -> tuple[CircuitState, ...]:
        """
        What is known of each server that was asked so far.
        """
        return tuple([circuit.state for circuit in self._breaker.all()])

    @property
    def away_since(self) -> float | None:
        """
        Since when the backend, or one of its servers, is away, in epoch seconds; None while none is.
        """
        return min([state.since for state in self.health if state.is_open], default=None)

    def reserve(self, ask: Ask, now: float) -> Reply:
        """
        Take all costs of *ask*, or none.
        """
        return self._ask(ask.tag, now, self._backend.reserve, ask)

    def peek(self, ask: Ask, now: float) -> Reply:
        """
        Answer as `reserve` would, and charge nothing.
        """
        return self._ask(ask.tag, now, self._backend.peek, ask)

    def settle(self, settlement: Settlement, now: float) -> bool:
        """
        Move every held window to its actual amount; False where that was done before.
        """
        return self._ask(settlement.reservation.tag, now, self._backend.settle, settlement)

    def credit(self, ask: Ask, now: float) -> None:
        """
        Take each check's cost off its window, the newest charges first, at most all that counts.
        """
        self._backend.credit(ask, now)

    def renew(self, reservation: Reservation, lease: float, now: float) -> bool:
        """
        Let an open reservation end *lease* seconds from now, and not earlier; False where it is not open any more.
        """
        return self._ask(reservation.tag, now, self._backend.renew, reservation, lease)

    def seed(self, tag: str, seeds: Sequence[Seed], now: float) -> None:
        """
        Start windows of the counters under *tag* at what the books say.
        """
        self._ask(tag, now, self._backend.seed, tag, seeds)

    def bar(self, tag: str, counter: str, status: str, seconds: float, now: float) -> None:
        """
        Refuse asks whose holder is *counter*; an operator is told at once where the backend does not answer.
        """
        self._backend.bar(tag, counter, status, seconds, now)

    def close(self) -> None:
        """
        Stop probing, and close the backend.
        """
        self._closed.set()
        if self._prober is not None:
            self._prober.join(1.0)
        self._backend.close()

    def _ask(self, tag: str, now: float, call: Callable[..., T], *arguments: object) -> T:
        circuit = self._breaker.of(tag)
        if circuit.is_open:
            self._see_to_probes(now)
            circuit.check()
        try:
            answer = call(*arguments, now)
        except BackendUnavailableError as exc:
            circuit.failed(exc)
            self._asked = time.monotonic()
            if circuit.is_open:
                self._see_to_probes(now)
            raise
        circuit.succeeded()
        return answer

    def _see_to_probes(self, now: float) -> None:
        if threads.can_run():
            self._ensure_prober(now)
        elif away := self._away():
            self._probe_here(away, now)

    def _away(self) -> list[Circuit]:
        return [circuit for circuit in self._breaker.all() if circuit.is_open]

    def _ensure_prober(self, now: float) -> None:
        # Not alive: never started, or left behind by a fork.
        with self._start:
            if self._prober is None or not self._prober.is_alive():
                self._closed.clear()  # used again after it was closed: a test client's next lifespan
                self._prober = threads.start(self._probe, now, name="tokenbudget-probe")

    def _probe(self, now: float) -> None:
        while away := self._away():
            if self._closed.wait(min(circuit.pause(self._probe_every) for circuit in away)):
                return
            self._probe_once(away, now)

    def _probe_here(self, away: Sequence[Circuit], now: float) -> None:
        # The request that comes when it is time does it, in the place of a thread.
        if time.monotonic() - self._asked >= min(circuit.pause(self._probe_every) for circuit in away):
            self._probe_once(away, now)
            self._asked = time.monotonic()

    def _probe_once(self, away: Sequence[Circuit], now: float) -> None:
        for circuit in away:
            ask = probe(circuit.tag)
            try:
                reply = self._backend.reserve(ask, now)
                self._backend.settle(probe_settlement(ask, reply), now)
            except BackendUnavailableError:
                continue
            circuit.close()


class AsyncGuarded:
    """
    An `AsyncBackend` behind a `Circuit`. Arguments as of `Guarded`.
    """

    def __init__(self, backend: AsyncBackend, circuit: Breaker, *, probe_every: float = 0.1) -> None:
        self._backend = backend
        self._breaker = circuit
        self._probe_every = probe_every
        self._prober: asyncio.Task[None] | None = None

    @property
    def health(self) -> tuple[CircuitState, ...]:
        """
        What is known of each server that was asked so far.
        """
        return tuple([circuit.state for circuit in self._breaker.all()])

    async def reserve(self, ask: Ask, now: float) -> Reply:
        """
        Take all costs of *ask*, or none.
        """
        return await self._ask(ask.tag, now, self._backend.reserve, ask)

    async def peek(self, ask: Ask, now: float) -> Reply:
        """
        Answer as `reserve` would, and charge nothing.
        """
        return await self._ask(ask.tag, now, self._backend.peek, ask)

    async def settle(self, settlement: Settlement, now: float) -> bool:
        """
        Move every held window to its actual amount; False where that was done before.
        """
        return await self._ask(settlement.reservation.tag, now, self._backend.settle, settlement)

    async def credit(self, ask: Ask, now: float) -> None:
        """
        Take each check's cost off its window, the newest charges first, at most all that counts.
        """
        await self._backend.credit(ask, now)

    async def renew(self, reservation: Reservation, lease: float, now: float) -> bool:
        """
        Let an open reservation end *lease* seconds from now, and not earlier; False where it is not open any more.
        """
        return await self._ask(reservation.tag, now, self._backend.renew, reservation, lease)

    async def seed(self, tag: str, seeds: Sequence[Seed], now: float) -> None:
        """
        Start windows of the counters under *tag* at what the books say.
        """
        await self._ask(tag, now, self._backend.seed, tag, seeds)

    async def bar(self, tag: str, counter: str, status: str, seconds: float, now: float) -> None:
        """
        Refuse asks whose holder is *counter*; an operator is told at once where the backend does not answer.
        """
        await self._backend.bar(tag, counter, status, seconds, now)

    async def aclose(self) -> None:
        """
        Stop probing, and close the backend.
        """
        if self._prober is not None and self._prober.get_loop() is asyncio.get_running_loop():
            self._prober.cancel()
            await asyncio.gather(self._prober, return_exceptions=True)
        await self._backend.aclose()

    async def _ask(self, tag: str, now: float, call: Callable[..., Awaitable[T]], *arguments: object) -> T:
        circuit = self._breaker.of(tag)
        if circuit.is_open:
            self._ensure_prober(now)
            circuit.check()
        try:
            answer = await call(*arguments, now)
        except BackendUnavailableError as exc:
            circuit.failed(exc)
            if circuit.is_open:
                self._ensure_prober(now)
            raise
        circuit.succeeded()
        return answer

    def _ensure_prober(self, now: float) -> None:
        # A task rests with its loop; one of a loop that runs probes for all.
        if self._prober is None or self._prober.done() or not self._prober.get_loop().is_running():
            self._prober = asyncio.get_running_loop().create_task(self._probe(now))

    async def _probe(self, now: float) -> None:
        while away := [circuit for circuit in self._breaker.all() if circuit.is_open]:
            await asyncio.sleep(min(circuit.pause(self._probe_every) for circuit in away))
            for circuit in away:
                ask = probe(circuit.tag)
                try:
                    reply = await self._backend.reserve(ask, now)
                    await self._backend.settle(probe_settlement(ask, reply), now)
                except BackendUnavailableError:
                    continue
                circuit.close()


_PROBE = Check("probe", "requests:1", "strict_log", (1_000_000, 1), 0, 0)


def probe(tag: str = "probe") -> Ask:
    """
    Ask for nothing, under *tag*, but in a way that writes: a backend that can only be read is not back.
    """
    return Ask(uuid.uuid4().hex, tag, (_PROBE,), lease=1.0)


def probe_settlement(ask: Ask, reply: Reply) -> Settlement:
    """
    Settle what `probe` reserved.
    """
    holds = (Hold(_PROBE, reply.states[0].slot),)
    return Settlement(Reservation(ask.id, ask.tag, holds, ("requests",), Cost(), 0.0), (0,))
