"""
Whether a backend, or each of its servers, is trusted to answer.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

import msgspec

from tokenbudget_mw import threads
from tokenbudget_mw.backends.base import AsyncBackend, Backend
from tokenbudget_mw.errors import BackendUnavailableError
from tokenbudget_mw.transitions import Transitions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "AsyncExamined",
    "Breaker",
    "Circuit",
    "CircuitState",
    "Circuits",
    "Examined",
    "LeftAloneError",
    "MomentaryError",
]

log = logging.getLogger("tokenbudget_mw")

LONGEST_PAUSE = 0.5
"""Seconds between two probes of a backend that comes and goes: a storm of transitions ends here, and so does patience."""

SETTLED_AFTER = 10.0
"""A backend that has been back for so many seconds does not come and go."""


class MomentaryError(BackendUnavailableError):
    """
    The backend is well, and yet could not answer one call: no circuit counts it.
    """


class LeftAloneError(BackendUnavailableError):
    """
    The backend was not asked, because it is away.
    """


class CircuitState(msgspec.Struct, frozen=True, gc=False):
    """
    What is known of a backend, for operators.

    Attributes:
        name: What the log calls it.

        is_open: Whether it is left alone.

        since: Since when that is so, in epoch seconds; 0.0 where it was never otherwise.

        opened: How often it was given up so far.

        last_error: Class of the newest failure, with the server's code where it gave one; empty where there was none.
    """

    name: str
    is_open: bool
    since: float
    opened: int
    last_error: str


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

        tag: Hash tag under which its probe asks.
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
        self.tag = "probe"
        self._in_a_row = in_a_row
        self._ratio = ratio
        self._clock = clock
        self._outcomes: deque[bool] = deque(maxlen=window)
        self._failures = 0
        self._relapses = 0
        self._since = 0.0
        self._opened = 0
        self._last_error = ""
        self._transitions = Transitions()
        self._lock = threads.lock()

    @property
    def state(self) -> CircuitState:
        """
        What is known of the backend.
        """
        with self._lock:
            return CircuitState(self.name, self.is_open, self._since, self._opened, self._last_error)

    def of(self, tag: str) -> Circuit:  # noqa: ARG002 - as `Circuits.of`
        """
        Return this circuit, which is that of every tag.
        """
        return self

    def all(self) -> Sequence[Circuit]:
        """
        Return this circuit.
        """
        return (self,)

    def pause(self, usual: float) -> float:
        """
        Return how many seconds to wait before the next probe: longer than *usual* where the backend comes and goes.
        """
        return max(usual, min(usual * (1 << self._relapses), LONGEST_PAUSE))

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
        if isinstance(error, MomentaryError):
            return
        with self._lock:
            self._failures += 1
            self._outcomes.append(False)
            self._last_error = _name(error)
            is_full = len(self._outcomes) == self._outcomes.maxlen
            too_many = is_full and self._outcomes.count(False) >= self._ratio * len(self._outcomes)
            if self.is_open or not (too_many or self._failures >= self._in_a_row):
                return
            now = self._clock()
            is_relapse = self._opened and now - self._since < SETTLED_AFTER
            self._relapses = min(self._relapses + 1, 8) if is_relapse else 0
            self.is_open, self._since = True, now
            self._opened += 1
        self._tell_away(error)

    def close(self) -> None:
        """
        Trust the backend again.
        """
        with self._lock:
            if not self.is_open:
                return
            self.is_open, self._since = False, self._clock()
            self._failures = 0
            self._outcomes.clear()
            is_news = self._transitions.ends()
        if is_news:
            log.warning("Backend %s is back; limits are shared again.", self.name)

    def check(self) -> None:
        """
        Raise `LeftAloneError` while it is open.
        """
        if self.is_open:
            if not self._transitions.is_told:  # it came and went too often to be said at once, and now it may stay away
                self._tell_away(f"The newest error is {self._last_error}.")
            raise LeftAloneError(f"Backend {self.name} is away, and is not asked until it answers again.")

    def _tell_away(self, why: object) -> None:
        with self._lock:
            is_news = self.is_open and self._transitions.begins(self._clock())
        if is_news:
            log.error("Backend %s is away; limits follow their on_backend_error. %s", self.name, why)


class Circuits:
    """
    A circuit for each of a backend's servers.

    Args:
        name: What the log calls the backend.

        server_of: Gives the name of the server that has the counters under a tag.
    """

    def __init__(self, name: str, server_of: Callable[[str], str]) -> None:
        self._name = name
        self._server_of = server_of
        self._circuits: dict[str, Circuit] = {}

    def of(self, tag: str) -> Circuit:
        """
        Return the circuit of the server that has the counters under *tag*.
        """
        server = self._server_of(tag)
        found = self._circuits.get(server)
        if found is None:
            found = self._circuits.setdefault(server, Circuit(f"{self._name} {server}"))
        found.tag = tag  # so its probe asks this server, or whichever has taken its place
        return found

    def all(self) -> Sequence[Circuit]:
        """
        Return the circuits of all servers that were asked so far.
        """
        return tuple(self._circuits.values())


class Breaker(Protocol):
    """
    A `Circuit`, or `Circuits`.
    """

    def of(self, tag: str) -> Circuit:
        """
        Return the circuit of the counters under *tag*.
        """
        ...

    def all(self) -> Sequence[Circuit]:
        """
        Return all circuits.
        """
        ...


def _name(error: BackendUnavailableError) -> str:
    cause = error.__cause__
    return type(error if cause is None else cause.__cause__ or cause).__name__


class Examined(Backend, Protocol):
    """
    A backend whose health is known: one that is `Guarded`.
    """

    @property
    def health(self) -> tuple[CircuitState, ...]:
        """
        What is known of each of its servers.
        """
        ...


class AsyncExamined(AsyncBackend, Protocol):
    """
    The same, for event loops.
    """

    @property
    def health(self) -> tuple[CircuitState, ...]:
        """
        What is known of each of its servers.
        """
        ...
