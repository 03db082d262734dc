"""
A usage record as a row that every database takes: text without NUL and lone surrogates, nothing longer than its column.

This is the one place where foreign text is made harmless and foreign numbers are checked.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from operator import attrgetter, itemgetter
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Boolean, Column, Integer

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.types import MAX_BIGINT, Moment
from tokenbudget_mw.errors import PermanentSinkError
from tokenbudget_mw.values import UsageRecord

__all__ = ["COLUMNS", "EPOCH", "MAX_TAGS_BYTES", "Row", "clean_id", "clean_text", "encode_tags", "mended_row", "moment"]

Row = tuple[Any, ...]

MAX_TAGS_BYTES = 8192
"""Most bytes of the tags of one row, as JSON; larger tags are cut, never the row."""

MAX_TAG_NAME = 64
MAX_TAG_VALUE = 512
"""Most characters of one tag's name and value."""

COLUMNS: tuple[str, ...] = tuple(column.name for column in tables.usage.columns)
"""Columns of a row, in order; the last one is ``write_id``."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_INT = 2**31 - 1
_BAD = re.compile("[\x00\ud800-\udfff]")
_IDENTITIES = frozenset(
    [
        "id",
        "instance_id",
        "key_id",
        "user_id",
        "team_id",
        "project_id",
        "tenant_id",
        "account",
        "correlation_id",
        "batch_id",
        "batch_request_id",
        "custom_id",
    ]
)
_UNIQUE = frozenset({"id", "path", "correlation_id", "trace_id", "batch_request_id", "custom_id"})
_encode = msgspec.json.Encoder(order="sorted").encode


def moment(microseconds: int) -> datetime:
    """
    Return the aware moment *microseconds* after the epoch, exactly.

    >>> moment(1_000_001)
    datetime.datetime(1970, 1, 1, 0, 0, 1, 1, tzinfo=datetime.timezone.utc)
    """
    return EPOCH + timedelta(microseconds=microseconds)


def clean_text(value: str, length: int) -> str:
    r"""
    Return *value* as text that every database keeps, of at most *length* characters.

    >>> clean_text("a\x00b", 10)
    'a\ufffdb'
    >>> clean_text("abcdef", 4)
    'abc…'
    """
    text = _BAD.sub("\ufffd", value) if not value.isascii() or "\x00" in value else value
    return text if len(text) <= length else text[: length - 1] + "…"


def clean_id(value: str, length: int) -> str:
    """
    Return *value* as an id: two different ids never become one, so an id that has to change carries its digest.

    MySQL takes ``"a"`` and ``"a "`` for equal, hence spaces at the end count as a change.
    """
    text = clean_text(value, length)
    if text == value and not text.endswith(" "):
        return text
    digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{text[: length - 13]}~{digest}"


def encode_tags(tags: dict[str, str]) -> str:
    """
    Return *tags* as a JSON object, at most `MAX_TAGS_BYTES` long; tags that do not fit are left out, and one says so.

    >>> encode_tags({"team": "red"})
    '{"team":"red"}'
    """
    if not tags:
        return "{}"
    kept: dict[str, str] = {}
    room = MAX_TAGS_BYTES - 64
    for name, value in tags.items():
        key, text = clean_text(str(name), MAX_TAG_NAME), clean_text(str(value), MAX_TAG_VALUE)
        room -= len(_encode(key)) + len(_encode(text)) + 2
        if room < 0:
            kept["truncated"] = "true"
            break
        kept[key] = text
    return _encode(kept).decode()


def _text(column: Column[Any]) -> Callable[[Any], Any]:
    length: int = column.type.length  # type: ignore[attr-defined]
    clean = clean_id if column.name in _IDENTITIES else clean_text

    def convert(value: Any) -> str:
        return clean(str(value), length)

    # models, routes, owners come again and again: then this costs no Python call
    return convert if column.name in _UNIQUE else lru_cache(maxsize=512, typed=True)(convert)


def _whole(column: Column[Any]) -> Callable[[Any], Any]:
    most = MAX_BIGINT if isinstance(column.type, BigInteger) else _MAX_INT

    def check(value: Any) -> Any:
        if type(value) is not int or not 0 <= value <= most:
            raise PermanentSinkError(f"`{column.name}` takes whole numbers from 0 to {most}, got {value!r:.40}.")
        return value

    return check


def _when(column: Column[Any]) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        try:
            return moment(value)
        except (OverflowError, TypeError) as exc:
            raise PermanentSinkError(f"`{column.name}` takes microseconds since the epoch, got {value!r:.40}.") from exc

    return convert


def _converter(column: Column[Any]) -> tuple[str, Callable[[Any], Any]]:
    if isinstance(column.type, Moment):
        return f"{column.name}_us", _when(column)
    if column.name == "tags":
        return column.name, encode_tags
    if isinstance(column.type, Boolean):
        return column.name, bool
    if isinstance(column.type, Integer):
        return column.name, _whole(column)
    return column.name, _text(column)


_FIELDS, _CONVERTERS = zip(
    *map(_converter, [column for column in tables.usage.columns if column.name != "write_id"]), strict=True
)
_values = attrgetter(*_FIELDS)
_needed = itemgetter(*(at for at, column in enumerate(tables.usage.columns) if not column.nullable))


def mended_row(record: UsageRecord, write_id: str) -> Row:
    """
    Return *record* as a row in the order of `COLUMNS`, its text made such as every database keeps.

    Raises:
        PermanentSinkError: A value does not fit its column.
    """
    try:
        values = zip(_CONVERTERS, _values(record), strict=True)
        row = *[None if value is None else convert(value) for convert, value in values], write_id
    except (AttributeError, TypeError, ValueError) as exc:
        raise PermanentSinkError(f"A usage record holds a value of a wrong type: {type(exc).__name__}.") from exc
    if None in _needed(row):
        missing = [
            column.name
            for column, value in zip(tables.usage.columns, row, strict=True)
            if value is None and not column.nullable
        ]
        raise PermanentSinkError(f"A usage record lacks what its row needs: {', '.join(missing)}.")
    return row
