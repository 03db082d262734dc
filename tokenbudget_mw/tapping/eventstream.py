"""
Amazon's binary event streams (``application/vnd.amazon.eventstream``), read piecewise.

A message is: its length and that of its headers (4 bytes each, big-endian), a CRC-32 of these 8 bytes, headers, payload,
a CRC-32 of all before. A header is: length of its name (1 byte), name, type (1 byte), value.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import ClassVar

import msgspec

from tokenbudget_mw.tapping.sse import MAX_EVENT

__all__ = ["FrameReader", "frame"]

_PRELUDE = struct.Struct(">III")
_LENGTH = struct.Struct(">H")
_CRC = 4
_LEAST = _PRELUDE.size + _CRC

_MOST = 1 << 24
"""Longest message of the protocol, in bytes: one that says it is longer is none."""

_FIXED = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Header type -> bytes of its value; the types 6 (bytes) and 7 (text) say their length in 2 bytes before it."""

_TEXT = 7
_SIZED = (6, _TEXT)


class _Chunk(msgspec.Struct, gc=False):
    event: bytes = msgspec.field(default=b"", name="bytes")


_chunk = msgspec.json.Decoder(_Chunk)


class FrameReader:
    """
    Cuts a stream into its messages. One that is too long is skipped; behind a broken one, nothing is read.
    """

    __slots__ = ("_broken", "_limit", "_rest", "_skip")
    boundary: ClassVar[bytes] = b""

    def __init__(self, *, max_event: int = MAX_EVENT) -> None:
        self._limit = max_event
        self._rest = b""
        self._skip = 0
        self._broken = False

    def feed(self, data: bytes) -> list[bytes]:
        """
        Return the messages that *data* completes.
        """
        skipped = min(self._skip, len(data))
        self._skip -= skipped
        buffer = self._rest + data[skipped:]
        found, at = [], 0
        while not self._broken and (length := self._length(buffer, at)) is not None:
            end = at + length
            if length > self._limit:
                self._skip = max(end - len(buffer), 0)
            elif end > len(buffer):
                break
            elif _is_sound(buffer[at:end]):
                found.append(buffer[at:end])
            else:
                self._broken = True
            at = min(end, len(buffer))
        self._rest = b"" if self._broken else buffer[at:]
        return found

    def close(self) -> list[bytes]:
        """
        Return nothing: of a message that was cut off, nothing is certain.
        """
        self._rest = b""
        return []

    def data(self, event: bytes) -> bytes:
        """
        Return the payload as the value of the message's type: ``{"metadata": {…}}``. An exception is an ``error``; a
        ``chunk`` has the model's own event in it (``invoke-with-response-stream``).
        """
        size = _PRELUDE.unpack_from(event)[1]
        headers = dict(_headers(event[_PRELUDE.size : _PRELUDE.size + size]))
        payload = event[_PRELUDE.size + size : -_CRC]
        if headers.get(b":message-type", b"event") != b"event":
            return b'{"error":' + (payload or b'""') + b"}"
        kind = headers.get(b":event-type", b"")
        return _inner(payload) if kind == b"chunk" else b'{"' + kind + b'":' + (payload or b"null") + b"}"

    def _length(self, buffer: bytes, at: int) -> int | None:
        """
        Return the length of the message that begins at *at*; None if too little of it is there.
        """
        if len(buffer) - at < _PRELUDE.size:
            return None
        length, headers, check = _PRELUDE.unpack_from(buffer, at)
        if zlib.crc32(buffer[at : at + 8]) != check or not headers + _LEAST <= length <= _MOST:
            self._broken = True
            return None
        return int(length)


def _inner(payload: bytes) -> bytes:
    try:
        return _chunk.decode(payload).event
    except ValueError:
        return b""


def _is_sound(message: bytes) -> bool:
    body, check = message[:-_CRC], message[-_CRC:]
    return zlib.crc32(body) == int.from_bytes(check, "big")


def _headers(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """
    Yield name and value of each header that is a text, as far as they make sense.
    """
    at = 0
    while at < len(data):
        name = data[at + 1 : at + 1 + data[at]]
        at += 1 + len(name)
        kind = data[at] if at < len(data) else -1
        at += 1
        size = _FIXED.get(kind)
        if kind in _SIZED and at + _LENGTH.size <= len(data):
            size = _LENGTH.unpack_from(data, at)[0]
            at += _LENGTH.size
        if size is None:
            return
        if kind == _TEXT:
            yield name, data[at : at + size]
        at += size


def frame(name: str, payload: bytes) -> bytes:
    """
    Return a message of the type *name*, an exception where its name says so, with JSON as its *payload*.
    """
    kind = "exception" if name.endswith("Exception") else "event"
    values = {f":{kind}-type": name, ":content-type": "application/json", ":message-type": kind}
    headers = b"".join(
        bytes([len(key)]) + key.encode() + bytes([_TEXT]) + _LENGTH.pack(len(value)) + value.encode()
        for key, value in values.items()
    )
    lengths = struct.pack(">II", _LEAST + len(headers) + len(payload), len(headers))
    message = lengths + struct.pack(">I", zlib.crc32(lengths)) + headers + payload
    return message + struct.pack(">I", zlib.crc32(message))
