"""
What a tap is: a reader of a response that passes, which holds none of it back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tokenbudget_mw.values import Usage

__all__ = ["CountText", "Tap"]

CountText = Callable[[str], int]
"""Tokens of a text, for responses that carry no usage: model already bound, bounded time, never raises."""


class Tap(Protocol):
    """
    Reads one response while it passes, in constant memory. Never raises on any bytes.
    """

    def feed(self, chunk: bytes) -> None:
        """
        Take the next piece of the body, content encoding already undone.
        """
        ...

    def usage(self) -> Usage:
        """
        Return what is known by now. Called once, when the response has ended in whatever way.

        ``complete`` is True only where the format's own end was seen (``[DONE]``, ``message_stop``, a whole JSON body).
        Without the provider's figures, ``output_tokens`` is counted from the text that passed, ``input_tokens`` is 0 and
        ``source`` is ``"counted"``.
        """
        ...
