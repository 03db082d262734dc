"""
Rows: foreign text is made harmless, foreign numbers are checked.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenbudget_mw.database.fitting import new_rows
from tokenbudget_mw.database.rows import COLUMNS, MAX_TAGS_BYTES, clean_id, clean_text, encode_tags, moment
from tokenbudget_mw.errors import PermanentSinkError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenbudget_mw.values import UsageRecord

ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=[]), max_size=60)


def is_storable(text: str, length: int) -> bool:
    text.encode()
    return len(text) <= length and "\x00" not in text


@given(text=ANY_TEXT, length=st.integers(2, 40))
def test_t14_any_text_becomes_storable(text: str, length: int) -> None:
    """
    Text of any content fits its column afterwards, and text that fitted is unchanged.
    """
    clean = clean_text(text, length)

    assert is_storable(clean, length)
    assert clean == text or len(text) > length or not text.isascii() or "\x00" in text


@given(left=ANY_TEXT, right=ANY_TEXT, length=st.integers(16, 40))
def test_two_ids_never_become_one(left: str, right: str, length: int) -> None:
    """
    Ids that must be changed to fit stay different from one another, also where spaces at the end do not count.
    """
    clean_left, clean_right = clean_id(left, length), clean_id(right, length)

    assert is_storable(clean_left, length)
    assert (clean_left.rstrip(" ") == clean_right.rstrip(" ")) == (left == right)


@given(tags=st.dictionaries(ANY_TEXT, ANY_TEXT, max_size=8))
def test_t14_tags_are_json_of_bounded_size(tags: dict[str, str]) -> None:
    """
    Tags of any content become a JSON object of text within the bound.
    """
    encoded = encode_tags(tags)

    assert is_storable(encoded, MAX_TAGS_BYTES)
    assert all(isinstance(value, str) for value in msgspec.json.decode(encoded).values())


def test_t14_huge_tags_are_cut_and_say_so() -> None:
    """
    A megabyte in one tag, or in ten thousand, keeps the row small.
    """
    one = msgspec.json.decode(encode_tags({"note": "x" * 1_000_000, "team": "red"}))
    many = encode_tags({f"tag{number}": "y" * 100 for number in range(10_000)})

    assert len(one["note"]) == 512
    assert one["team"] == "red"
    assert len(many) <= MAX_TAGS_BYTES
    assert msgspec.json.decode(many)["truncated"] == "true"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cost_pico", 2**63),
        ("cost_pico", -1),
        ("cost_pico", float("nan")),
        ("cost_pico", True),
        ("input_tokens", -5),
        ("status", 2**31),
        ("created_at_us", 2**62),
        ("created_at_us", "today"),
        ("batch_created_at_us", 10**30),
        ("tags", 5),
        ("provider", ["openai"]),
    ],
)
def test_t14_a_value_that_fits_no_column_is_refused_for_good(
    record: Callable[..., UsageRecord], field: str, value: object
) -> None:
    """
    Numbers out of range and of wrong types are named, not stored as something else.
    """
    with pytest.raises(PermanentSinkError):
        new_rows([record(1, **{field: value})], "w")


def test_the_largest_cost_is_kept(record: Callable[..., UsageRecord]) -> None:
    """
    The last number that fits is not refused.
    """
    (row,) = new_rows([record(1, cost_pico=2**63 - 1)], "w")

    assert row[COLUMNS.index("cost_pico")] == 2**63 - 1


def test_moments_are_exact_to_the_microsecond() -> None:
    """
    No float stands between a record's microseconds and its moment.
    """
    assert moment(253_402_300_799_999_999) == datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC)
    assert moment(1_760_000_000_123_457).microsecond == 123_457


def test_rows_come_in_the_order_of_events(record: Callable[..., UsageRecord]) -> None:
    """
    Concurrent writers insert in one order, whatever order records came in.
    """
    rows = new_rows([record(2, instance_id="b"), record(3, instance_id="a"), record(1, instance_id="a")], "w")

    assert [row[1:3] for row in rows] == [("a", 1), ("a", 3), ("b", 2)]
