"""
A call on its way from an event loop to Redis, and the timer that ends the wait for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from tokenbudget_mw.backends.redis_script import Call

__all__ = ["Deadline", "Errand"]

LATE = 0.01
"""A timer of the loop that rings later than this, in seconds, tells of a busy loop."""

GRACE = 0.02
"""How long a busy loop may then take to read what has arrived, in seconds."""


class Errand:
    """
    A call under way.

    Attributes:
        call: What is asked.

        answer: Where the answer goes; done where nobody waits any more.

        undo: What to ask when Redis did it and nobody waits.

        is_owed: Whether it is sent although nobody waits: a settlement is.

        tries: How often it was sent.

        is_asking: Whether the server that is asked was named for this one time only.

        fault: What a server that is well gave as the reason why it has to wait.

        lane: Where it goes.
    """

    __slots__ = ("answer", "call", "fault", "is_asking", "is_owed", "lane", "tries", "undo")

    def __init__(
        self, call: Call, answer: asyncio.Future[Any], undo: Callable[[], Call] | None = None, is_owed: bool = False
    ) -> None:
        self.call = call
        self.answer = answer
        self.undo = undo
        self.is_owed = is_owed
        self.tries = 0
        self.is_asking = False
        self.fault: Exception | None = None
        self.lane: Any = None

    @property
    def is_wanted(self) -> bool:
        """
        Whether it is worth sending.
        """
        return self.is_owed or not self.answer.done()


class Deadline:
    """
    A timer that does not blame others for a loop that stood still: when it rings late, it waits a little once more.
    """

    __slots__ = ("_ends", "_handle", "_loop", "_ring")

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ends = loop.time() + seconds
        self._ring = ring
        self._handle = loop.call_at(self._ends, self._check)

    def cancel(self) -> None:
        """
        Ring no more.
        """
        self._handle.cancel()

    def _check(self) -> None:
        late = self._loop.time() - self._ends
        self._handle = self._loop.call_later(GRACE if late > LATE else 0.0, self._ring)
