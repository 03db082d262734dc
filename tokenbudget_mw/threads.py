"""
Threads of the package's own: daemons, which keep no process from its end.
"""

from __future__ import annotations

import queue
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Bell", "start"]


def start(work: Callable[..., object], *arguments: object, name: str) -> threading.Thread | None:
    """
    Do *work* in a thread called *name*; return None where none can start: the system has no thread left (a container may
    have few), or the interpreter ends. No request fails for that, and whoever needs the thread next tries again.
    """
    thread = threading.Thread(target=work, args=arguments, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return None
    return thread


class Bell:
    """
    Wakes one thread that waits. Unlike an `Event` it may be rung in the midst of itself, and of its own wait: the garbage collector
    closes streams, which ring, in whatever step a thread is.
    """

    __slots__ = ("_rings",)

    def __init__(self) -> None:
        self._rings: queue.SimpleQueue[None] = queue.SimpleQueue()  # not by name: gevent may take its place later

    def ring(self) -> None:
        """
        Wake whoever waits, or comes to wait.
        """
        if self._rings.empty():  # one is enough, should nobody wait for long
            self._rings.put(None)

    def wait(self, timeout: float | None) -> None:
        """
        Wait until it rings, for at most *timeout* seconds, and forget how often it did.
        """
        with suppress(queue.Empty):
            self._rings.get(timeout=timeout)
            while True:
                self._rings.get_nowait()
