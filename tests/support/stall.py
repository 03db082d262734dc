"""
How long the machine itself stood still: what a busy machine adds to a duration is nobody's fault.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

__all__ = ["Stall"]

TICK = 0.001
LATE, GRACE = 0.01, 0.02  # a loop that was late by the one is given the other to catch up
THREADS = Path("/proc/self/task")


class Stall:
    """
    Measures, while it is entered, what kept this process's threads from running.

    Attributes:
        seconds: How late a thread was, all in all, that wanted to wake every millisecond.

        queued: How long all threads were ready to run and did not, where the system tells (Linux).
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.queued = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def excuse(self) -> float:
        """
        What may be taken off a duration measured meanwhile, in seconds: two threads take turns in a request, and each may
        be kept from its turn; a loop is given time to catch up.
        """
        stood = max(2 * self.seconds, self.queued)
        return stood + GRACE if stood > LATE else 0.0

    def __enter__(self) -> Self:
        self.queued = -_queued()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.queued += _queued()

    def _run(self) -> None:
        last = time.monotonic()
        while not self._over.wait(TICK):
            now = time.monotonic()
            late = now - last - TICK
            if late > 2 * TICK:
                self.seconds += late
            last = now


def _queued() -> float:
    # proc(5): time on the processor, time on the run queue, both in nanoseconds; slices
    total = 0
    for thread in THREADS.glob("*"):
        with suppress(OSError):  # it has just ended
            total += int((thread / "schedstat").read_text().split()[1])
    return total / 1e9
