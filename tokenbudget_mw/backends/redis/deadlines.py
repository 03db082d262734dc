"""
When the waits of an event loop's calls end: one timer for all of them, because each takes as long as the others.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

__all__ = ["GRACE", "LATE", "Deadlines"]

LATE = 0.01
"""A timer of the loop that rings later than this, in seconds, tells of a busy loop."""

GRACE = 0.02
"""How long a busy loop may then take to read what has arrived, in seconds."""


class Waiting(Protocol):
    """
    Something that is waited for.
    """

    @property
    def answer(self) -> asyncio.Future[Any]:
        """
        Done when the wait is over.
        """
        ...


W = TypeVar("W", bound=Waiting)


class Deadlines(Generic[W]):
    """
    Rings for whatever is waited for too long. Does not blame others for a loop that stood still: when the timer rings late,
    it waits a little once more.

    Args:
        loop: The event loop.

        seconds: How long each wait may take.

        ring: Called with what is late.
    """

    __slots__ = ("_handle", "_loop", "_ring", "_seconds", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, ring: Callable[[W], None]) -> None:
        self._loop = loop
        self._seconds = seconds
        self._ring = ring
        self._waiting: deque[tuple[float, W]] = deque()
        self._handle: asyncio.TimerHandle | None = None

    def add(self, waiting: W) -> None:
        """
        Begin to wait.
        """
        self._waiting.append((self._loop.time() + self._seconds, waiting))
        if self._handle is None:
            self._arm()

    def cancel(self) -> None:
        """
        Ring for none.
        """
        self._waiting.clear()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self) -> None:
        waiting = self._waiting
        while waiting and waiting[0][1].answer.done():
            waiting.popleft()
        self._handle = self._loop.call_at(waiting[0][0], self._check) if waiting else None

    def _check(self) -> None:
        now = self._loop.time()
        late = now - self._waiting[0][0]
        self._handle = self._loop.call_later(GRACE if late > LATE else 0.0, self._end, now)

    def _end(self, until: float) -> None:
        waiting = self._waiting
        while waiting and waiting[0][0] <= until:
            _, late = waiting.popleft()
            if not late.answer.done():
                self._ring(late)
        self._arm()
