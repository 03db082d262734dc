"""
A usage record as bytes for the spool, whatever is in it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tokenbudget_mw.accounting.segments import checksum
from tokenbudget_mw.values import UsageRecord

__all__ = ["LONGEST_BODY", "bounded", "encode", "encode_mended"]

LONGEST_BODY = 32 * 1024
"""Most bytes of an encoded record. A longer one has its texts cut, as the database would cut them."""

_CUTS = (2048, 256, 64)
_MOST_TAGS = 32
_MAX_INT = 2**64 - 1  # no column takes it, so it still ends as a dead letter

encode = msgspec.msgpack.Encoder(enc_hook=str).encode
"""Return a record as msgpack. May raise anything: then `encode_mended` is asked."""


def encode_mended(record: UsageRecord) -> bytes:
    """
    Return *record* as msgpack of at most `LONGEST_BODY` bytes, whatever is in it.

    Lone surrogates, numbers beyond 64 bits and texts without end come back as what is nearest to them: a record that
    cannot be stored as it is must not be lost, nor stand in the way of others.
    """
    body = b""
    for longest in _CUTS:
        body = encode(UsageRecord(**{name: _mend(getattr(record, name), longest) for name in _FIELDS}))
        if len(body) <= LONGEST_BODY:
            break
    return body


def bounded(record: UsageRecord, body: bytes) -> tuple[bytes, int]:
    """
    Return *body*, *record* as msgpack, or one of at most `LONGEST_BODY` bytes in its place, and its checksum.
    """
    if len(body) > LONGEST_BODY:
        body = encode_mended(record)
    return body, checksum(body)


def _mend(value: Any, longest: int) -> Any:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return min(max(value, -(2**63)), _MAX_INT)
    if isinstance(value, dict):
        kept = list(value.items())[:_MOST_TAGS]
        return {_mend_text(name, 64): _mend_text(text, min(longest, 512)) for name, text in kept}
    return _mend_text(value, longest)


def _mend_text(value: Any, longest: int) -> str:
    try:
        text = str(value)
    except Exception:  # noqa: BLE001 - not even its name is safe
        text = "?"
    return text[:longest].encode("utf-8", "replace").decode("utf-8")


_FIELDS = UsageRecord.__struct_fields__
