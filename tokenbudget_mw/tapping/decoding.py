"""
Content encodings, undone piecewise and in bounded steps.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, Protocol

from tokenbudget_mw.tapping.base import Tap
from tokenbudget_mw.values import Usage

__all__ = ["MAX_DECODED", "Decoder", "DecodingTap", "open_decoder"]

STEP = 1 << 16
"""Most bytes that one step of decoding yields."""

MOST_FRAMES = STEP // 32
"""Most frames of one step: to open one takes longer than to read a short one, and one without content says nothing."""

MAX_DECODED = 1 << 26
"""Most bytes that are decoded of one response. A longer one is a bomb, or nothing a model has written."""


class Decoder(Protocol):
    """
    Undoes one content encoding. Raises what its library raises on bytes that are not of that encoding.
    """

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        """
        Yield the content of *chunk*, at most about `STEP` bytes at a time.
        """
        ...


class _Zlib:
    """
    gzip (several members too) and deflate (with and without zlib's header: servers send both).
    """

    def __init__(self, coding: str) -> None:
        self._wbits = 31 if coding == "gzip" else zlib.MAX_WBITS
        self._object = zlib.decompressobj(self._wbits)
        self._untried = coding == "deflate"

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        if self._untried and chunk:
            self._untried = False
            if chunk[0] & 0x0F != zlib.DEFLATED:  # RFC 1950: the method stands in the low bits of the first byte
                self._object = zlib.decompressobj(-zlib.MAX_WBITS)
        while chunk:
            yield self._object.decompress(chunk, STEP)
            chunk = self._object.unconsumed_tail
            if self._object.eof and self._wbits == 31:
                chunk = self._object.unused_data
                self._object = zlib.decompressobj(self._wbits)


class _Brotli:
    def __init__(self, module: Any) -> None:
        self._object = module.Decompressor()

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        piece = self._object.process(chunk, output_buffer_limit=STEP)
        while piece or not self._object.can_accept_more_data():  # it can while content waits that did not fit the step
            yield piece
            piece = self._object.process(b"", output_buffer_limit=STEP)


class _Zstandard:
    """
    Frames, one behind the other (RFC 8878, section 3): some servers end one behind each event.
    """

    def __init__(self, module: Any) -> None:
        self._open = module.ZstdDecompressor
        self._object = self._open()

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        frames = 0
        while True:
            yield self._object.decompress(chunk, STEP)
            chunk = b""
            if self._object.eof:
                frames += 1
                if frames > MOST_FRAMES:
                    raise ValueError(f"more than {MOST_FRAMES} frames at once")
                chunk = self._object.unused_data
                self._object = self._open()
            if not chunk and self._object.needs_input:
                return


def open_decoder(coding: str) -> Decoder | None:
    """
    Return a decoder of *coding* (one name of ``Content-Encoding``, lower case), or None where nothing here can undo it.

    Brotli needs the package ``brotli`` (1.2 or newer: older ones cannot bound their output), zstd Python 3.14 or
    ``backports.zstd``.
    """
    if coding in {"gzip", "x-gzip"}:
        return _Zlib("gzip")
    if coding == "deflate":
        return _Zlib("deflate")
    if coding == "br":
        return _optional(_Brotli, "brotli", "Decompressor.can_accept_more_data")
    if coding == "zstd":
        return _optional(_Zstandard, "compression.zstd", "ZstdDecompressor") or _optional(
            _Zstandard, "backports.zstd", "ZstdDecompressor"
        )
    return None


def _optional(make: Callable[[Any], Decoder], name: str, needed: str) -> Decoder | None:
    """
    Open *make* on the module *name* if it is installed and has the attribute path *needed*.
    """
    try:
        module = found = importlib.import_module(name)
    except ImportError:
        return None
    for part in needed.split("."):
        found = getattr(found, part, None)  # type: ignore[assignment]
    return None if found is None else make(module)


class DecodingTap:
    """
    A tap of an encoded response: decodes it for another tap.

    It stops reading, without a word to the response, at bytes that cannot be decoded and after `MAX_DECODED` bytes. Of one
    none of which could be decoded, nothing is known.
    """

    __slots__ = ("_decoder", "_has_read", "_left", "_tap")

    def __init__(self, decoder: Decoder, tap: Tap, *, max_decoded: int = MAX_DECODED) -> None:
        self._decoder: Decoder | None = decoder
        self._tap = tap
        self._has_read = False
        self._left = max_decoded

    def feed(self, chunk: bytes) -> None:
        """
        Decode *chunk* into the inner tap.
        """
        if self._decoder is None:
            return
        # in steps, because what stands behind the end of a frame is copied: there may be thousands
        steps = (chunk[at : at + STEP] for at in range(0, len(chunk), STEP))
        try:
            for piece in chain.from_iterable(map(self._decoder.decode, steps)):
                self._tap.feed(piece)
                self._has_read = self._has_read or bool(piece)
                self._left -= len(piece)
                if self._left < 0:
                    self._decoder = None
                    return
        except Exception:  # noqa: BLE001 - each library has its own error for foreign bytes, and a tap never raises
            self._decoder = None

    def usage(self) -> Usage:
        """
        Return what the inner tap has read.
        """
        is_unread = self._decoder is None and not self._has_read
        return Usage(source="none") if is_unread else self._tap.usage()
