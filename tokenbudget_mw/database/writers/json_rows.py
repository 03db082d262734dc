r"""
A batch as one JSON array of objects, for databases that read rows out of a parameter.

Records whose text needs no mending go from struct to JSON in C, checked on the way; only the others take the way through
`rows`. Moments stay whole microseconds, and what a record does not have is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta
from sqlalchemy import BigInteger, Boolean, Integer

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.rows import EPOCH, encode_tags, new_rows
from tokenbudget_mw.database.turns import in_turns
from tokenbudget_mw.database.types import MAX_BIGINT, Moment
from tokenbudget_mw.values import UsageRecord

if TYPE_CHECKING:
    from sqlalchemy import Column

__all__ = ["STORED", "encode_rows", "field_of"]

_MAX_INT = 2**31 - 1
_MAX_MOMENT = 253_402_300_799_999_999
"""The last microsecond of the year 9999."""

STORED = tuple(column for column in tables.usage.columns if column.name != "write_id")
"""Columns of which the JSON objects tell."""


def field_of(column: Column[Any]) -> str:
    """
    Return the name that *column* has in the JSON objects.
    """
    return f"{column.name}_us" if isinstance(column.type, Moment) else str(column.name)


def _type(column: Column[Any]) -> Any:
    if column.name == "tags":
        return dict[str, str]
    if isinstance(column.type, Moment):
        found: Any = Annotated[int, Meta(ge=0, le=_MAX_MOMENT)]
    elif isinstance(column.type, Boolean):
        found = bool
    elif isinstance(column.type, Integer):
        most = MAX_BIGINT if isinstance(column.type, BigInteger) else _MAX_INT
        found = Annotated[int, Meta(ge=0, le=most)]
    else:
        found = Annotated[str, Meta(max_length=column.type.length)]  # type: ignore[attr-defined]
    return found | None if column.nullable else found


_Row: Any = msgspec.defstruct(
    "_Row", [(field_of(column), _type(column), None) for column in STORED], omit_defaults=True, gc=False
)
_encode = msgspec.json.Encoder().encode


def encode_rows(records: Sequence[UsageRecord]) -> str:
    """
    Return *records* as a JSON array, every value fit for its column.

    Raises:
        PermanentSinkError: A value does not fit its column.
    """
    parts = [_part(some)[1:-1] for some in in_turns(records)]
    return f"[{b','.join(parts).decode()}]"


def _part(records: Sequence[UsageRecord]) -> bytes:
    try:
        return _clean(msgspec.convert(records, list[_Row], from_attributes=True))
    except (msgspec.ValidationError, UnicodeError):
        return _encode([_row(record) for record in records])


def _clean(rows: list[Any]) -> bytes:
    """
    Encode *rows*, or raise a `UnicodeError` where a text has a NUL, a lone surrogate or a space at its end.
    """
    for row in rows:
        if row.tags:
            row.tags = encode_tags(row.tags)
    encoded = _encode(rows)
    if b"\\u0000" in encoded or b' "' in encoded:
        raise UnicodeError("text to mend")
    return encoded


def _row(record: UsageRecord) -> Any:
    try:
        row = msgspec.convert(record, _Row, from_attributes=True)
        _clean([row])
    except (msgspec.ValidationError, UnicodeError):
        row = _mended(record)
    return row


def _mended(record: UsageRecord) -> Any:
    ((*values, _write_id),) = new_rows([record], "")
    return _Row(*map(_plain, values))


def _plain(value: Any) -> Any:
    return (value - EPOCH) // timedelta(microseconds=1) if isinstance(value, datetime) else value
