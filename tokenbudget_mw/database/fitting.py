r"""
Records as rows that every database takes, on the fast way: checked in C, where no text needs mending.

A record of which a text has a NUL, a lone surrogate or a space at its end, or is longer than its column, takes the careful way
through `rows`, alone; so does one that is refused there with an error that says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta
from msgspec.structs import astuple
from sqlalchemy import BigInteger, Boolean, Integer

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.rows import COLUMNS, EPOCH, encode_tags, mended_row
from tokenbudget_mw.database.turns import in_turns
from tokenbudget_mw.database.types import MAX_BIGINT, Moment
from tokenbudget_mw.values import UsageRecord

if TYPE_CHECKING:
    from sqlalchemy import Column

    from tokenbudget_mw.database.rows import Row

__all__ = ["STORED", "field_of", "fit", "new_rows"]

_MAX_INT = 2**31 - 1
_MAX_MOMENT = 253_402_300_799_999_999
"""The last microsecond of the year 9999."""

STORED = tuple(column for column in tables.usage.columns if column.name != "write_id")
"""Columns that a record fills, in order."""

_INSTANCE, _SEQUENCE = COLUMNS.index("instance_id"), COLUMNS.index("sequence")
_MOMENTS = tuple(at for at, column in enumerate(STORED) if isinstance(column.type, Moment))
_MICROSECOND = timedelta(microseconds=1)


def field_of(column: Column[Any]) -> str:
    """
    Return the name that *column* has in a record.
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


_Fitted: Any = msgspec.defstruct(
    "_Fitted", [(field_of(column), _type(column), None) for column in STORED], omit_defaults=True, gc=False
)
_encode = msgspec.json.Encoder().encode


def new_rows(records: Iterable[UsageRecord], write_id: str) -> list[Row]:
    """
    Return *records* as rows in the order of `COLUMNS`, sorted by instance and sequence.

    Raises:
        PermanentSinkError: A value does not fit its column.
    """
    rows = [_row(fitted, write_id) for some in in_turns(records) for fitted in fit(some)[0]]
    return sorted(rows, key=itemgetter(_INSTANCE, _SEQUENCE))


def _row(fitted: Any, write_id: str) -> Row:
    values = [*astuple(fitted), write_id]
    for at in _MOMENTS:
        if values[at] is not None:
            values[at] = EPOCH + timedelta(microseconds=values[at])
    return tuple(values)


def fit(records: Sequence[UsageRecord]) -> tuple[list[Any], bytes]:
    """
    Return *records* as structs whose values fit their columns, moments as whole microseconds, and the same as a JSON array of
    objects, which leave out what is None.

    Raises:
        PermanentSinkError: A value does not fit its column.
    """
    try:
        return _checked(records)
    except (msgspec.ValidationError, UnicodeError):
        rows = [_fit_one(record) for record in records]
        return rows, _encode(rows)


def _checked(records: Sequence[UsageRecord]) -> tuple[list[Any], bytes]:
    """
    Convert *records*, or raise a `UnicodeError` where a text has a NUL, a lone surrogate or a space at its end.
    """
    rows = msgspec.convert(records, list[_Fitted], from_attributes=True)
    for row in rows:
        row.tags = encode_tags(row.tags)
    encoded = _encode(rows)
    if _holds(encoded, b"\\", b"\\u0000") or _holds(encoded, b" ", b' "'):
        raise UnicodeError("text to mend")
    return rows, encoded


def _holds(encoded: bytes, rare: bytes, sought: bytes) -> bool:
    """
    Return whether *sought* is in *encoded*, of which most have no *rare*, the first byte of it: one byte is found ten times
    as fast as several are, and several twice as fast from the end.
    """
    return rare in encoded and encoded.rfind(sought) >= 0


def _fit_one(record: UsageRecord) -> Any:
    try:
        ((row,), _) = _checked([record])
    except (msgspec.ValidationError, UnicodeError):
        *values, _write_id = mended_row(record, "")
        for at in _MOMENTS:
            if values[at] is not None:
                values[at] = (values[at] - EPOCH) // _MICROSECOND
        row = _Fitted(*values)
    return row
