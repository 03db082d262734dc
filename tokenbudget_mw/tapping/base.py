"""
What a tap is: a reader of a response that passes, which holds none of it back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tokenbudget_mw.values import Usage

__all__ = ["CountText", "Family", "Stream", "Tap"]

CountText = Callable[[str], int]
"""Tokens of a text, for responses that carry no usage: model already bound, bounded time, never raises."""


class Tap(Protocol):
    """
    Reads one response while it passes, in constant memory. Never raises on any bytes.
    """

    def feed(self, chunk: bytes) -> None:
        """
        Take the next piece of the body, as it goes over the wire: a tap knows the content encoding it was opened with.
        """
        ...

    def usage(self) -> Usage:
        """
        Return what is known by now. Called once, when the response has ended in whatever way.

        ``complete`` is True only where the format's own end was seen (``[DONE]``, ``message_stop``, a whole JSON body).
        Without the provider's figures, ``output_tokens`` is counted from the text that passed and ``source`` is
        ``"counted"``; ``input_tokens`` is then 0, unless the stream gave it before it broke off (Anthropic does).
        """
        ...


class Stream(Protocol):
    """
    What a provider family makes of the events of one stream. Never raises on any event.

    Attributes:
        settled: Whether the final figures were seen, so that the text need not be counted.
    """

    settled: bool

    def note(self, event: bytes) -> None:
        """
        Take figures, model, end and failure from *event*, the data of one event; of two figures, the later one holds.

        Not called for every event, and for some twice.
        """
        ...

    def text(self, event: bytes) -> str:
        """
        Return the output text in *event*.
        """
        ...

    def usage(self, counted: int) -> Usage:
        """
        Return the usage; *counted* is the tokens of the text that passed, 0 where `settled`.
        """
        ...


@dataclass(frozen=True, slots=True)
class Family:
    """
    One wire format: how its usage, its streams and its bodies read.

    Attributes:
        provider: Name of the family, for records.

        shape: Reads the ``usage`` object; None where its figures are no figures.

        stream: Opens a reader of event streams.

        body_text: Output text of a JSON body, whole or broken.
    """

    provider: str
    shape: Callable[[Mapping[str, object]], Usage | None]
    stream: Callable[[], Stream]
    body_text: Callable[[bytes], str]
