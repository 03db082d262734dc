"""
What a tap is: a reader of a response that passes, which holds none of it back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import msgspec

if TYPE_CHECKING:
    from tokenbudget_mw.values import Usage

__all__ = ["Answer", "CountText", "Family", "Otherwise", "Reader", "Stream", "Tap"]

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
        ``"counted"`` (``"none"`` where what passed is no text, such as pictures); ``input_tokens`` is then 0, unless the stream gave it before it broke off (Anthropic does).
        """
        ...


class Reader(Protocol):
    """
    Cuts a stream into its events, however the stream itself was cut, in constant memory. Never raises on any bytes.

    Attributes:
        boundary: What ends an event wherever it stands, though others may, too; empty where nothing does.
    """

    boundary: ClassVar[bytes]

    def feed(self, data: bytes) -> list[bytes]:
        """
        Return the events that *data* completes.
        """
        ...

    def close(self) -> list[bytes]:
        """
        Return what is left at the end, if a `Stream` can make something of it: an event that was cut off.
        """
        ...

    def data(self, event: bytes) -> bytes:
        """
        Return the data of *event*, JSON as a rule; empty where it has none.
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


class Answer(msgspec.Struct, gc=False):
    """
    What a JSON body says beside its text. Families whose bodies say it elsewhere have one of their own.

    Attributes:
        model: Model that answered.

        usage: The object that the family's `shape` reads.

        service_tier: Tier that served it.

        error: What went wrong, in a body that is no answer.
    """

    model: Any = None
    usage: Any = None
    service_tier: Any = None
    error: Any = None

    @property
    def is_complete(self) -> bool:
        """
        Whether this is the whole answer.
        """
        return self.error is None

    @property
    def others(self) -> tuple[Usage, ...]:
        """
        What further models used, where it stands beside the usage.
        """
        return ()


_answer = msgspec.json.Decoder(Answer)


@dataclass(frozen=True, slots=True)
class Family:
    """
    One wire format: how its usage, its streams and its bodies read.

    Attributes:
        provider: Name of the family, for records.

        shape: Reads the ``usage`` object; None where its figures are no figures.

        stream: Opens a reader of event streams.

        body_text: Output text of a JSON body, whole or broken.

        answer: Reads the rest of a JSON body.

        mark: The key before the figures, quotes included: only what has it is searched for them.

        earlier: A key that stands before further figures and that one, where there are any.

        is_lines: Whether a JSON body may be one line of a stream.

        is_plain: Whether a body may be plain text, all of it output.

        has_text: Whether a body has text that can be counted; of one that has none and no figures, nothing is known.

        is_worded: Whether its answers are text, so that an answer that no family knows is taken for text, too.
    """

    provider: str
    shape: Callable[[Mapping[str, object]], Usage | None]
    stream: Callable[[], Stream]
    body_text: Callable[[bytes], str]
    answer: msgspec.json.Decoder[Any] = _answer
    mark: bytes = b'"usage"'
    earlier: bytes = b""
    is_lines: bool = False
    is_plain: bool = False
    has_text: bool = True
    is_worded: bool = True


Otherwise = Callable[[bytes], Family | None]
"""The family of a response that begins with these bytes; None where none speaks so."""
