"""
Streams of bytes that tell somebody else what passes. What passes is neither held back nor changed.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from functools import lru_cache
from typing import Any, Protocol

__all__ = ["Listener", "tee"]

LIBRARIES = frozenset({"httpx", "httpx2"})


class Listener(Protocol):
    """
    Somebody who is told. Raises nothing.
    """

    def feed(self, chunk: bytes) -> None:
        """
        Take a piece, as it came over the wire.
        """
        ...

    def end(self, *, was_left: bool) -> None:
        """
        Take the end: of the body, or of the reader's patience (*was_left*). Only the first call counts.
        """
        ...


def tee(response: Any, listener: Listener, *, is_async: bool) -> None:
    """
    Let *listener* hear the body of *response*, an ``httpx`` or ``httpx2`` response of a client; one that the client's transport
    has read already, for a log or out of a cache, here and now and decoded.
    """
    if response.is_stream_consumed:
        listener.feed(response.content)
        listener.end(was_left=False)
        return
    kind = _async_tee(_library_of(response)) if is_async else _sync_tee(_library_of(response))
    response.stream = kind(response.stream, listener)


def _library_of(response: object) -> str:
    roots = (base.__module__.partition(".")[0] for base in type(response).__mro__)
    return next(root for root in roots if root in LIBRARIES)


# both libraries ask whether a stream is an instance of their own base class; neither is ours to import


@lru_cache(maxsize=2)
def _sync_tee(library: str) -> Callable[[Any, Listener], Any]:
    return type("Tee", (_Tee, sys.modules[library].SyncByteStream), {})


@lru_cache(maxsize=2)
def _async_tee(library: str) -> Callable[[Any, Listener], Any]:
    return type("AsyncTee", (_AsyncTee, sys.modules[library].AsyncByteStream), {})


class _Heard:
    def __init__(self, stream: Any, listener: Listener) -> None:
        self._stream = stream
        self._listener = listener
        self._was_left = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)  # httpx2's responses ask their stream how long it took


class _Tee(_Heard):
    def __iter__(self) -> Iterator[bytes]:
        try:
            for chunk in self._stream:
                self._listener.feed(chunk)
                yield chunk
        except BaseException as exc:
            # older clients close nothing where the provider breaks off, or where their reader just stops reading
            self._listener.end(was_left=not isinstance(exc, Exception))
            raise
        self._was_left = False

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            self._listener.end(was_left=self._was_left)


class _AsyncTee(_Heard):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._stream:
                self._listener.feed(chunk)
                yield chunk
        except BaseException as exc:
            # older clients close nothing where the provider breaks off, or where their reader just stops reading
            self._listener.end(was_left=not isinstance(exc, Exception))
            raise
        self._was_left = False

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            self._listener.end(was_left=self._was_left)
