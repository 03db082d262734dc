"""
The head of a request's body, read before the view, which gets it all the same; and what the view reads behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from django.conf import settings as django_settings

from tokenbudget_mw.calls.bodies import length_of
from tokenbudget_mw.web.rejoined import Broken, Rejoined, watch_rest

if TYPE_CHECKING:
    from django.http import HttpRequest

__all__ = ["read_head", "watch"]


def read_head(request: HttpRequest, most: int) -> tuple[bytes, bool]:
    """
    Read *request*'s body, or of one that Django holds to be long the first *most* bytes.

    Returns:
        The head, and whether it is all of the body. One that breaks off is none: the view that reads it gets the error.
    """
    accepted: int | None = django_settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    length = length_of(request.META.get("CONTENT_LENGTH"))
    raw: Any = request
    stream = raw._stream  # noqa: SLF001 - there is no other way to the body that leaves it to the view
    is_short = length is not None and length <= (most if accepted is None else accepted)
    if is_short or hasattr(raw, "_body") or (length is None and not stream.seekable()):
        body: bytes = request.body
        return body, len(body) <= most
    # above Django's own bound `body` raises, though a view may read such a request piece by piece
    if raw._read_started:  # noqa: SLF001
        return b"", False
    wanted = most + 1 if length is None else min(length, most)
    if stream.seekable():  # under ASGI, where Django has it in a file
        place = stream.tell()
        head: bytes = stream.read(wanted)
        stream.seek(place)
    else:
        try:
            head = stream.read(wanted)
        except OSError as error:
            raw._stream = Broken(error)  # noqa: SLF001
            return b"", False
        raw._stream = Rejoined(head, stream)  # noqa: SLF001
    return head, (len(head) if length is None else length) <= most


def watch(request: HttpRequest, head: int, seen: Callable[[bytes], object]) -> None:
    """
    Have *seen* called with each piece that the view reads of *request*'s body, behind the *head* bytes that were read ahead.
    """
    raw: Any = request
    stream = raw._stream  # noqa: SLF001
    if isinstance(stream, Rejoined):
        watch_rest(stream, seen)
    elif not hasattr(raw, "_body"):
        raw._stream = _WatchedFile(stream, head, seen)  # noqa: SLF001


class _WatchedFile:
    """
    A file of which another gets all that is read behind a place, each byte once.
    """

    def __init__(self, file: Any, place: int, seen: Callable[[bytes], object]) -> None:
        self._file = file
        self._place = place
        self._seen = seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, *size: int | None) -> bytes:
        at = self._file.tell()
        return self._read(at, self._file.read(*size))

    def readline(self, *size: int | None) -> bytes:
        at = self._file.tell()
        return self._read(at, self._file.readline(*size))

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")

    def _read(self, at: int, piece: bytes) -> bytes:
        until = at + len(piece)
        if at <= self._place < until:
            self._seen(piece[self._place - at :])
            self._place = until
        return piece
