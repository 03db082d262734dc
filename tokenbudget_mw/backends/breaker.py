"""
A backend that does not answer is left alone until it does.

`Guarded` and `AsyncGuarded` count failures of the backend that they wrap. When it fails too often they open: every call
fails at once, at no cost, while a probe in the background asks again and again, and closes them at the first answer.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import uuid
from collections import deque
from typing import TYPE_CHECKING

from tokenbudget_mw.errors import BackendUnavailableError
from tokenbudget_mw.values import Ask, Check, Cost, Hold, Reservation, Settlement

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tokenbudget_mw.backends.base import AsyncBackend, Backend
    from tokenbudget_mw.values import Reply, Seed

__all__ = ["AsyncGuarded", "Circuit", "Guarded"]

log = logging.getLogger("tokenbudget_mw")


class Circuit:
    """
    Whether a backend is trusted to answer. Safe to share between threads, loops and both colours.

    Args:
        name: What the log calls the backend; never its URL, which may hold a password.

        in_a_row: So many failures in a row open it.

        ratio: This share of failures among the last *window* calls opens it, too.

        window: See *ratio*.

        clock: Gives the moment, in epoch seconds.

    Attributes:
        is_open: Whether calls are refused.

        since: Since when they are, in epoch seconds; None while they are not.
    """

    def __init__(
        self,
        name: str,
        *,
        in_a_row: int = 3,
        ratio: float = 0.5,
        window: int = 20,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.is_open = False
        self.since: float | None = None
        self._clock = clock
        self._in_a_row = in_a_row
        self._ratio = ratio
        self._outcomes: deque[bool] = deque(maxlen=window)
        self._failures = 0
        self._lock = threading.Lock()

    def succeeded(self) -> None:
        """
        Count an answer.
        """
        # Without the lock where nothing has failed lately: this is every call of a healthy backend.
        if self._outcomes:
            with self._lock:
                self._failures = 0
                self._outcomes.append(True)
                if all(self._outcomes):
                    self._outcomes.clear()

    def failed(self, error: BackendUnavailableError) -> None:
        """
        Count a failure; open where they are too many.
        """
        with self._lock:
            self._failures += 1
            self._outcomes.append(False)
            is_full = len(self._outcomes) == self._outcomes.maxlen
            too_many = is_full and self._outcomes.count(False) >= self._ratio * len(self._outcomes)
            if self.is_open or not (too_many or self._failures >= self._in_a_row):
                return
            self.is_open = True
            self.since = self._clock()
        log.error("Backend %s is away; limits follow their on_backend_error. %s", self.name, error)

    def close(self) -> None:
        """
        Trust the backend again.
        """
        with self._lock:
            if not self.is_open:
                return
            self.is_open = False
            self.since = None
            self._failures = 0
            self._outcomes.clear()
        log.warning("Backend %s is back; limits are shared again.", self.name)

    def check(self) -> None:
        """
        Raise `BackendUnavailableError` while it is open.
        """
        if self.is_open:
            raise BackendUnavailableError(f"Backend {self.name} is away, and is not asked until it answers again.")


class Guarded:
    """
    A `Backend` behind a `Circuit`.

    Args:
        backend: What is wrapped.

        circuit: Its state.

        probe_every: Seconds between two probes while it is open.
    """

    def __init__(self, backend: Backend, circuit: Circuit, *, probe_every: float = 0.1) -> None:
        self._backend = backend
        self._circuit = circuit
        self._probe_every = probe_every
        self._prober: threading.Thread | None = None
        self._start = threading.Lock()
        self._closed = threading.Event()

    @property
    def away_since(self) -> float | None:
        """
        Since when the backend is away, in epoch seconds; None while it is not.
        """
        return self._circuit.since

    def reserve(self, ask: Ask, now: float) -> Reply:
        """
        Take all costs of *ask*, or none.
        """
        self._enter(now)
        try:
            reply = self._backend.reserve(ask, now)
        except BackendUnavailableError as exc:
            self._fail(exc, now)
            raise
        self._circuit.succeeded()
        return reply

    def peek(self, ask: Ask, now: float) -> Reply:
        """
        Answer as `reserve` would, and charge nothing.
        """
        self._enter(now)
        try:
            reply = self._backend.peek(ask, now)
        except BackendUnavailableError as exc:
            self._fail(exc, now)
            raise
        self._circuit.succeeded()
        return reply

    def settle(self, settlement: Settlement, now: float) -> bool:
        """
        Move every held window to its actual amount; False where that was done before.
        """
        self._enter(now)
        try:
            is_moved = self._backend.settle(settlement, now)
        except BackendUnavailableError as exc:
            self._fail(exc, now)
            raise
        self._circuit.succeeded()
        return is_moved

    def credit(self, ask: Ask, now: float) -> None:
        """
        Take each check's cost off its window, the newest charges first, at most all that counts.
        """
        self._backend.credit(ask, now)

    def renew(self, reservation: Reservation, lease: float, now: float) -> bool:
        """
        Let an open reservation end *lease* seconds from now, and not earlier; False where it is not open any more.
        """
        self._enter(now)
        try:
            is_open = self._backend.renew(reservation, lease, now)
        except BackendUnavailableError as exc:
            self._fail(exc, now)
            raise
        self._circuit.succeeded()
        return is_open

    def seed(self, tag: str, seeds: Sequence[Seed], now: float) -> None:
        """
        Start windows at what the books say; one that is known already stays as it is.
        """
        self._enter(now)
        try:
            self._backend.seed(tag, seeds, now)
        except BackendUnavailableError as exc:
            self._fail(exc, now)
            raise
        self._circuit.succeeded()

    def bar(self, tag: str, counter: str, status: str, seconds: float, now: float) -> None:
        """
        Refuse asks whose holder is *counter*, as *status*, for *seconds*; none where *status* is empty.
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

    def _enter(self, now: float) -> None:
        if self._circuit.is_open:
            self._ensure_prober(now)
            self._circuit.check()

    def _fail(self, error: BackendUnavailableError, now: float) -> None:
        self._circuit.failed(error)
        if self._circuit.is_open:
            self._ensure_prober(now)

    def _ensure_prober(self, now: float) -> None:
        # Not alive: never started, or left behind by a fork.
        with self._start:
            if self._prober is None or not self._prober.is_alive():
                self._closed.clear()  # used again after it was closed: a test client's next lifespan
                self._prober = threading.Thread(target=self._probe, args=(now,), name="tokenbudget-probe", daemon=True)
                self._prober.start()

    def _probe(self, now: float) -> None:
        while self._circuit.is_open and not self._closed.wait(self._probe_every):
            ask = probe()
            try:
                reply = self._backend.reserve(ask, now)
                self._backend.settle(probe_settlement(ask, reply), now)
            except BackendUnavailableError:
                continue
            self._circuit.close()


class AsyncGuarded:
    """
    An `AsyncBackend` behind a `Circuit`. Arguments as of `Guarded`.
    """

    def __init__(self, backend: AsyncBackend, circuit: Circuit, *, probe_every: float = 0.1) -> None:
        self._backend = backend
        self._circuit = circuit
        self._probe_every = probe_every
        self._prober: asyncio.Task[None] | None = None

    async def reserve(self, ask: Ask, now: float) -> Reply:
        """
        Take all costs of *ask*, or none.
        """
        self._enter(now)
        try:
            reply = await self._backend.reserve(ask, now)
        except BackendUnavailableError as exc:
            self._fail(exc, now)
            raise
        self._circuit.succeeded()
        return reply

    async def peek(self, ask: Ask, now: float) -> Reply:
        """
        Answer as `reserve` would, and charge nothing.
        """
        self._enter(now)
        try:
            reply = await self._backend.peek(ask, now)
        except BackendUnavailableError as exc:
            self._fail(exc, now)
            raise
        self._circuit.succeeded()
        return reply

    async def settle(self, settlement: Settlement, now: float) -> bool:
        """
        Move every held window to its actual amount; False where that was done before.
        """
        self._enter(now)
        try:
            is_moved = await self._backend.settle(settlement, now)
        except BackendUnavailableError as exc:
            self._fail(exc, now)
            raise
        self._circuit.succeeded()
        return is_moved

    async def credit(self, ask: Ask, now: float) -> None:
        """
        Take each check's cost off its window, the newest charges first, at most all that counts.
        """
        await self._backend.credit(ask, now)

    async def renew(self, reservation: Reservation, lease: float, now: float) -> bool:
        """
        Let an open reservation end *lease* seconds from now, and not earlier; False where it is not open any more.
        """
        self._enter(now)
        try:
            is_open = await self._backend.renew(reservation, lease, now)
        except BackendUnavailableError as exc:
            self._fail(exc, now)
            raise
        self._circuit.succeeded()
        return is_open

    async def seed(self, tag: str, seeds: Sequence[Seed], now: float) -> None:
        """
        Start windows at what the books say; one that is known already stays as it is.
        """
        self._enter(now)
        try:
            await self._backend.seed(tag, seeds, now)
        except BackendUnavailableError as exc:
            self._fail(exc, now)
            raise
        self._circuit.succeeded()

    async def bar(self, tag: str, counter: str, status: str, seconds: float, now: float) -> None:
        """
        Refuse asks whose holder is *counter*, as *status*, for *seconds*; none where *status* is empty.
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

    def _enter(self, now: float) -> None:
        if self._circuit.is_open:
            self._ensure_prober(now)
            self._circuit.check()

    def _fail(self, error: BackendUnavailableError, now: float) -> None:
        self._circuit.failed(error)
        if self._circuit.is_open:
            self._ensure_prober(now)

    def _ensure_prober(self, now: float) -> None:
        # A task dies with its loop; the next loop starts its own.
        loop = asyncio.get_running_loop()
        if self._prober is None or self._prober.done() or self._prober.get_loop().is_closed():
            self._prober = loop.create_task(self._probe(now))

    async def _probe(self, now: float) -> None:
        while self._circuit.is_open:
            await asyncio.sleep(self._probe_every)
            ask = probe()
            try:
                reply = await self._backend.reserve(ask, now)
                await self._backend.settle(probe_settlement(ask, reply), now)
            except BackendUnavailableError:
                continue
            self._circuit.close()


_PROBE = Check("probe", "requests:1", "strict_log", (1_000_000, 1), 0, 0)


def probe() -> Ask:
    """
    Ask for nothing, but in a way that writes: a backend that can only be read is not back.
    """
    return Ask(uuid.uuid4().hex, "probe", (_PROBE,), lease=1.0)


def probe_settlement(ask: Ask, reply: Reply) -> Settlement:
    """
    Settle what `probe` reserved.
    """
    holds = (Hold(_PROBE, reply.states[0].slot),)
    return Settlement(Reservation(ask.id, ask.tag, holds, ("requests",), Cost(), 0.0), (0,))
