"""
How long the machine itself stood still: what a busy machine adds to a duration is nobody's fault.
"""

from __future__ import annotations

import threading
import time
from typing import Self

__all__ = ["Stall"]

TICK = 0.001


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
