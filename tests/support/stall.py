"""
How long the machine itself stood still: what a busy machine adds to a duration is nobody's fault.
"""

from __future__ import annotations

import threading
import time
from typing import Self

__all__ = ["Stall"]

TICK = 0.001
LATE, GRACE = 0.01, 0.02  # a loop that was late by the one is given the other to catch up


class Stall:
    """
    Measures, while it is entered, by how much a thread that wants to wake every millisecond was kept from it.

    Attributes:
        seconds: The sum of its delays that were longer than two ticks.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def excuse(self) -> float:
        """
        What may be taken off a duration measured meanwhile, in seconds: two threads take turns in a request, and each may
        be kept from its turn; a loop is given time to catch up.
        """
        return 2 * self.seconds + GRACE if self.seconds > LATE else 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        last = time.monotonic()
        while not self._over.wait(TICK):
            now = time.monotonic()
            late = now - last - TICK
            if late > 2 * TICK:
                self.seconds += late
            last = now
