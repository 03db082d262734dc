"""
Keeps reservations alive whose calls run longer than their lease: a stream of an hour, a call that waits for a slow model.

A call that runs costs two changes of a dict. One thread a process looks through what is open four times a lease, and
renews what is older than a quarter of it; so a lease still ends with the process that held it.
"""

from __future__ import annotations

import logging
import threading
import weakref
from typing import TYPE_CHECKING

from tokenbudget_mw import threads
from tokenbudget_mw.errors import BackendUnavailableError
from tokenbudget_mw.processes import call_in_children

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenbudget_mw.backends.base import Backend
    from tokenbudget_mw.values import Reservation

__all__ = ["Heartbeat"]

log = logging.getLogger("tokenbudget_mw")

BEATS = 4
"""Beats a lease."""

LONGEST = 86_400.0
"""Seconds after its last regular end for which a reservation is renewed: a call that nobody ends must not count for ever."""


class Heartbeat:
    """
    The open reservations of a process, and the thread that renews them.

    Args:
        backend: Where they are, for threads; both colours' reservations are renewed by it.

        lease: As of `Ask`, in seconds.

        clock: Gives the moment, in epoch seconds.
    """

    def __init__(self, backend: Backend, lease: float, clock: Callable[[], float]) -> None:
        self._backend = backend
        self._lease = lease
        self._clock = clock
        self._open: dict[str, Reservation] = {}
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._stopped = threading.Event()
        call_in_children(self.forget)

    def __len__(self) -> int:
        """
        Number of reservations that are open.
        """
        return len(self._open)

    def hold(self, reservation: Reservation) -> None:
        """
        Keep *reservation* alive until it is dropped.
        """
        self._open[reservation.id] = reservation
        if self._thread is None:
            self._start()

    def drop(self, reservation: Reservation) -> None:
        """
        Let *reservation* end: it is settled, or about to be.
        """
        self._open.pop(reservation.id, None)

    def beat(self) -> int:
        """
        Renew what is due, and return how many that were. The thread does so four times a lease.
        """
        now = self._clock()
        renewed = 0
        for reservation in list(self._open.values()):  # the oldest first
            age = now - (reservation.expires_at - self._lease)
            if 0 <= age < self._lease / BEATS:
                break  # below 0 the clock was set back meanwhile: nobody knows how old it is
            if age > self._lease + LONGEST:
                self.drop(reservation)
                continue
            try:
                self._backend.renew(reservation, self._lease, now)
            except Exception as exc:  # noqa: BLE001 - whatever a backend raises, the thread must live for the next beat
                said = exc if isinstance(exc, BackendUnavailableError) else type(exc).__name__
                log.warning("Open reservations could not be renewed; the next beat tries again. %s", said)
                break
            renewed += 1
        return renewed

    def close(self) -> None:
        """
        End the thread. A later reservation starts it again.
        """
        self._stopped.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(1.0)

    def _start(self) -> None:
        with self._starting:
            if self._thread is not None:
                return
            self._stopped = threading.Event()
            arguments = (weakref.ref(self), self._stopped, self._lease / BEATS)
            self._thread = threads.start(_run, *arguments, name="tokenbudget-heartbeat")

    def forget(self) -> None:
        """
        Leave everything to the process from which this one was forked.
        """
        self._open = {}
        self._thread = None
        self._starting = threading.Lock()


def _run(reference: weakref.ref[Heartbeat], stopped: threading.Event, every: float) -> None:
    # holds no core alive that nobody uses any more
    while not stopped.wait(every):
        heartbeat = reference()
        if heartbeat is None:
            return
        heartbeat.beat()
        del heartbeat
