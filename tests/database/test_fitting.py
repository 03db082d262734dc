"""
The fast way from records to rows and to JSON gives what the careful way gives.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from tokenbudget_mw.database import fitting, tables
from tokenbudget_mw.database.fitting import field_of, new_rows
from tokenbudget_mw.database.rows import COLUMNS, EPOCH, mended_row
from tokenbudget_mw.database.writer import DatabaseSink
from tokenbudget_mw.database.writers.json_rows import encode_rows
from tokenbudget_mw.errors import PermanentSinkError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from tokenbudget_mw.values import UsageRecord

    MakeRecord = Callable[..., UsageRecord]

TEXT = st.none() | st.text(alphabet=st.characters(exclude_categories=[]), max_size=300) | st.sampled_from(["a ", " a"])
FIELDS = {
    "account": TEXT,
    "route": TEXT,
    "request_model": TEXT,
    "trace_id": TEXT,
    "path": st.text(max_size=600),
    "created_at_us": st.integers(-(10**15), 253_402_300_799_999_999),
    "batch_created_at_us": st.none() | st.integers(0, 10**17),
    "status": st.none() | st.integers(0, 2**31 - 1),
    "input_tokens": st.integers(0, 2**63 - 1),
    "is_stream": st.booleans(),
    "tags": st.dictionaries(st.text(max_size=80), st.text(max_size=600), max_size=3),
}


def careful(record: UsageRecord) -> dict[str, Any]:
    """
    Return what a record's JSON object must say, by way of `mended_row`.
    """
    row = mended_row(record, "w")
    values = dict(zip(COLUMNS, row, strict=True))
    return {
        field_of(column): round((value - EPOCH).total_seconds() * 10**6) if isinstance(value, datetime) else value
        for column in fitting.STORED
        if (value := values[column.name]) is not None
    }


def written(records: list[UsageRecord]) -> list[dict[str, Any]]:
    """
    Return the objects as a database reads them.
    """
    return msgspec.json.decode(encode_rows(records))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(several=st.lists(st.fixed_dictionaries({}, optional=FIELDS), min_size=1, max_size=3))
def test_t14_both_ways_write_the_same(record: MakeRecord, several: list[dict[str, Any]]) -> None:
    """
    Whatever a record holds and whatever else is in its batch, its JSON says what its row would.
    """
    for fields in several:
        for name in ("created_at_us", "batch_created_at_us"):
            if fields.get(name) is not None:  # what a float of seconds can tell exactly
                fields[name] -= fields[name] % 10**6
    records = [record(at, **fields) for at, fields in enumerate(several)]

    assert written(records) == [careful(one) for one in records]
    assert new_rows(records, "w") == [mended_row(one, "w") for one in records]


def test_clean_records_need_no_mending(record: MakeRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    An ordinary batch, tags and non-ASCII text included, never takes the slow way.
    """
    monkeypatch.setattr(fitting, "mended_row", None)

    (first, second) = written([record(1, tags={"b": "ß", "a": "1"}, route="/größe"), record(2, account=None)])

    assert first["tags"] == '{"a":"1","b":"ß"}'
    assert first["route"] == "/größe"
    assert "account" not in second


@pytest.mark.parametrize("fields", [{"path": "/" * 600}, {"path": "\x00"}, {"path": "\ud800"}, {"account": "a "}])
def test_one_record_to_mend_costs_the_others_nothing(
    record: MakeRecord, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    """
    Of a batch only the record that needs it is mended.
    """
    mended: list[UsageRecord] = []

    def watch(record: UsageRecord, write_id: str) -> Any:
        mended.append(record)
        return mended_row(record, write_id)

    monkeypatch.setattr(fitting, "mended_row", watch)
    odd = record(2, **fields)

    encode_rows([record(1), odd, record(3)])

    assert mended == [odd]


@pytest.mark.parametrize("fields", [{"input_tokens": -1}, {"status": True}, {"cost_pico": 2**63}, {"tags": 5}])
def test_t14_what_fits_no_column_is_refused_for_good(record: MakeRecord, fields: dict[str, Any]) -> None:
    """
    Numbers out of range and values of a wrong type are refused, not encoded as something else.
    """
    with pytest.raises(PermanentSinkError):
        encode_rows([record(1), record(2, **fields)])


@pytest.mark.parametrize("microseconds", [-1, 0, 1, 2**53 + 1, 253_402_300_799_999_999])
def test_moments_arrive_to_the_microsecond(engine: Engine, record: MakeRecord, microseconds: int) -> None:
    """
    On every database a moment comes back as it went, also where a double has no room for it.
    """
    DatabaseSink(engine).write([record(1, created_at_us=microseconds)])

    with engine.connect() as connection:
        moment = connection.scalar(select(tables.usage.c.created_at))
    assert (moment - EPOCH).days * 86_400_000_000 + (moment - EPOCH).seconds * 10**6 + (
        moment - EPOCH
    ).microseconds == microseconds
