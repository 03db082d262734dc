"""
A call on its way from an event loop to Redis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from tokenbudget_mw.backends.redis.script import Call

__all__ = ["Errand"]


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
