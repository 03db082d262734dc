"""
Compressed streams that end early: what passes stays as it came, what is put behind it is a further block of the same stream.

gzip and deflate can be gone on with wherever their writer has flushed, which it does behind each event that a client is to see
at once: deflate has no end of its own but a last block (RFC 1951, section 3.2.3), and a trailer that only sums up what was said.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from tokenbudget_mw.tapping.decoding import MAX_DECODED, STEP

if TYPE_CHECKING:
    from tokenbudget_mw.tapping.ending import Bounded

__all__ = ["CODINGS", "CodedStream"]

CODINGS = frozenset({"gzip", "x-gzip", "deflate"})
"""Codings that can be gone on with. Brotli and zstd have no writer here that could go on with another's stream."""

_FLUSHED = b"\x00\x00\xff\xff"
"""What a flush ends with: an empty stored block, at a whole byte."""

_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
_HEADER, _PLAIN = 10, b"\x1f\x8b\x08\x00"
"""Length of gzip's header without optional fields, and what it begins with (RFC 1952, section 2.3)."""

_MASK = 0xFFFF_FFFF


class CodedStream:
    """
    A stream in gzip or deflate, around the stream that it codes.

    A chunk passes as it came, or is cut: then what of it may pass is coded anew. Where the writer has not flushed before it,
    nothing can be put, so it passes, and the next one is looked at.

    Args:
        stream: What is coded.

        coding: The response's ``Content-Encoding``.
    """

    def __init__(self, stream: Bounded, coding: str) -> None:
        self._stream = stream
        self._wbits = _ZLIB if coding == "deflate" else _GZIP
        self._decoder = zlib.decompressobj(self._wbits)
        self._is_lost = False
        self._sum = 1 if self._wbits == _ZLIB else 0  # what adler32 and crc32 begin with
        self._decoded = self._passed = 0
        self._head = self._tail = b""
        self._kept: tuple[bytes, bytes, bytes] | None = None
        self._coder: zlib._Compress | None = None

    def allow(self, tokens: int) -> None:
        """
        Let *tokens* more pass.
        """
        self._stream.allow(tokens)

    def split(self, chunk: bytes) -> tuple[bytes, bytes]:
        """
        Return what of *chunk* may pass, and the rest: all or nothing, for `flush` gives a part of it.
        """
        if self._is_lost or not chunk:
            return chunk, b""
        if self._kept is None:
            text = self._decode(chunk)
            if text is None:
                return chunk, b""
            self._kept = (text, b"", text)
        text, passing, rest = self._kept
        more, rest = self._stream.split(rest)
        passing += more
        if rest and not self._can_go_on():
            self._stream.pass_over(rest)
            rest = b""
        if rest:
            self._kept = (text, passing, rest)
            return b"", chunk
        self._pass(chunk, text)
        return chunk, b""

    def flush(self) -> bytes:
        """
        Return what of the chunk that was cut may pass, coded.
        """
        passing = self._kept[1] if self._kept is not None else b""
        self._coder = zlib.compressobj(wbits=_RAW if self._passed else self._wbits)
        self._add(passing)
        return self._coder.compress(passing) + self._coder.flush(zlib.Z_SYNC_FLUSH)

    def finish(self) -> bytes:
        """
        Return the regular end, coded.
        """
        return self._close(self._stream.finish())

    def fail(self, message: str) -> bytes:
        """
        Return the end by an error, coded.
        """
        return self._close(self._stream.fail(message))

    def _close(self, words: bytes) -> bytes:
        coder = self._coder or zlib.compressobj(wbits=self._wbits)
        self._add(words)
        end = coder.compress(words) + coder.flush(zlib.Z_FINISH)
        return end + self._trailer() if self._passed else end

    def _trailer(self) -> bytes:
        if self._wbits == _GZIP:
            return self._sum.to_bytes(4, "little") + (self._decoded & _MASK).to_bytes(4, "little")
        return self._sum.to_bytes(4, "big") if self._wbits == _ZLIB else b""

    def _decode(self, chunk: bytes) -> bytes | None:
        """
        Return the content of *chunk*; None where it cannot be read, from here on.
        """
        if self._wbits == _ZLIB and not self._passed and chunk[0] & 0x0F != zlib.DEFLATED:
            self._wbits = _RAW  # without zlib's header, as some servers send it
            self._decoder = zlib.decompressobj(_RAW)
        text, data = bytearray(), chunk
        try:
            while data and not self._decoder.eof and self._decoded + len(text) <= MAX_DECODED:
                text += self._decoder.decompress(data, STEP)
                data = self._decoder.unconsumed_tail
        except zlib.error:
            data = chunk
        if data or self._decoder.unused_data:
            # no such coding, a bomb, or something behind the end, such as a further member
            self._is_lost = True
            return None
        return bytes(text)

    def _can_go_on(self) -> bool:
        is_header = self._passed == _HEADER and self._head == _PLAIN and self._wbits == _GZIP
        return is_header or not self._passed or self._tail == _FLUSHED

    def _pass(self, chunk: bytes, text: bytes) -> None:
        self._kept = None
        self._head = (self._head + chunk)[: len(_PLAIN)]
        self._tail = (self._tail + chunk)[-len(_FLUSHED) :]
        self._passed += len(chunk)
        self._is_lost = self._decoder.eof  # behind an end nothing can be put
        self._add(text)

    def _add(self, text: bytes) -> None:
        self._decoded += len(text)
        self._sum = (zlib.adler32 if self._wbits == _ZLIB else zlib.crc32)(text, self._sum)
