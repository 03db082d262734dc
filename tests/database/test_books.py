"""
The books prove themselves: whoever changes a number is found.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import event, text

from tokenbudget_mw.database import books, grants
from tokenbudget_mw.database.writer import DatabaseSink

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from tokenbudget_mw.values import UsageRecord

    MakeRecord = Callable[..., UsageRecord]


@pytest.fixture
def kept(engine: Engine, record: MakeRecord) -> Engine:
    """
    Books of two writes: 30 + 12 pico-dollars of acme's, 5 of k9's, 9 of nobody's.
    """
    sink = DatabaseSink(engine)
    sink.write([record(1, cost_pico=10), record(2, cost_pico=20), record(3, account="key:k9", cost_pico=5)])
    sink.write([record(4, cost_pico=12, reasoning_tokens=2), record(5, account=None, cost_pico=9)])
    return engine


def tamper(engine: Engine, statement: str) -> None:
    with engine.begin() as connection:
        assert connection.execute(text(statement)).rowcount == 1


def test_honest_books_are_verified(kept: Engine) -> None:
    """
    Rows, tokens and money are totalled, and nothing differs.
    """
    report = books.verify(kept)

    assert report.verified
    assert dataclasses.asdict(report) == {
        "rows": 5,
        "tokens": {
            "input_tokens": 50,
            "output_tokens": 25,
            "cache_read_tokens": 0,
            "cache_write_tokens": 0,
            "cache_write_1h_tokens": 0,
            "reasoning_tokens": 2,
        },
        "usage_pico": 47,
        "unowned_pico": 9,
        "corrected_pico": 0,
        "ledger_usage_pico": 47,
        "ledger_pico": 47,
        "balance_pico": -47,
        "rollup_pico": 56,
        "purged": 0,
        "purged_pico": 0,
        "differences": (),
        "truncated": False,
    }


def test_totals_name_every_sum(kept: Engine) -> None:
    """
    The totals of the report come as one dict of integers, too.
    """
    totals = books.totals(kept)

    assert totals["rows"] == 5
    assert totals["cost_pico"] == 56
    assert totals["input_tokens"] == 50
    assert totals["balance_pico"] == -totals["ledger_pico"] == -47
    assert all(type(value) is int for value in totals.values())


def test_empty_books_are_verified(engine: Engine) -> None:
    """
    Nothing is in order.
    """
    report = books.verify(engine)

    assert (report.rows, report.balance_pico, report.verified) == (0, 0, True)


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        (
            "UPDATE tokenbudget_usage SET cost_pico = cost_pico + 1 WHERE sequence = 2",
            {("entry", "tenant:acme", 31, 30)},
        ),
        ("DELETE FROM tokenbudget_usage WHERE sequence = 1", {("entry", "tenant:acme", 20, 30)}),
        (
            "UPDATE tokenbudget_usage SET account = 'key:k9' WHERE sequence = 4",
            {("entry", "tenant:acme", 0, 12), ("entry", "key:k9", 12, None)},
        ),
        (
            "DELETE FROM tokenbudget_ledger WHERE amount_pico = 12",
            {("entry", "tenant:acme", 12, None), ("balance", "tenant:acme", -30, -42)},
        ),
        (
            "UPDATE tokenbudget_ledger SET amount_pico = 6 WHERE amount_pico = 5",
            {("entry", "key:k9", 5, 6), ("balance", "key:k9", -6, -5)},
        ),
        (
            "UPDATE tokenbudget_balances SET balance_pico = balance_pico + 1 WHERE account = 'tenant:acme'",
            {("balance", "tenant:acme", -42, -41)},
        ),
        ("DELETE FROM tokenbudget_balances WHERE account = 'key:k9'", {("balance", "key:k9", -5, None)}),
        ("UPDATE tokenbudget_ledger SET entries = 3 WHERE entries = 2", {("entry", "tenant:acme", 30, 30)}),
    ],
)
def test_whatever_is_changed_is_found(kept: Engine, statement: str, found: set[tuple[object, ...]]) -> None:
    """
    A tampered row, a missing or changed entry, a wrong or missing balance are listed with both figures.
    """
    tamper(kept, statement)

    report = books.verify(kept)

    assert not report.verified
    money = [difference for difference in report.differences if difference.kind != "rollup"]
    assert {(d.kind, d.account, d.expected_pico, d.found_pico) for d in money} == found
    assert (len(money) < len(report.differences)) == ("tokenbudget_usage" in statement)


def test_two_errors_that_cancel_out_are_found(kept: Engine) -> None:
    """
    Moving cost from one write to another leaves every sum as it was, and is found all the same.
    """
    tamper(kept, "UPDATE tokenbudget_usage SET cost_pico = 11 WHERE sequence = 1")
    tamper(kept, "UPDATE tokenbudget_usage SET cost_pico = 11 WHERE sequence = 4")

    report = books.verify(kept)

    assert report.usage_pico == report.ledger_usage_pico == -report.balance_pico
    assert [difference.kind for difference in report.differences] == ["entry", "entry"]


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        (
            "UPDATE tokenbudget_usage SET input_tokens = 11 WHERE sequence = 2",
            ["rollup_subjects of 2025-10-09, tenant:acme, none, none: expected input_tokens 31, found 30"],
        ),
        (
            "DELETE FROM tokenbudget_rollup_subjects WHERE account = 'key:k9'",
            [
                "rollup_subjects of 2025-10-09, key:k9, none, none: expected requests 1, found 0",
                "rollup_subjects of 2025-10-09, key:k9, none, none: expected input_tokens 10, found 0",
                "rollup_subjects of 2025-10-09, key:k9, none, none: expected output_tokens 5, found 0",
                "rollup_subjects of 2025-10-09, key:k9, none, none: expected cost_pico 5, found 0",
                "rollup_hours of 2025-10-09, none: expected requests 4, found 5",
                "rollup_hours of 2025-10-09, none: expected input_tokens 40, found 50",
                "rollup_hours of 2025-10-09, none: expected output_tokens 20, found 25",
                "rollup_hours of 2025-10-09, none: expected cost_pico 51, found 56",
            ],
        ),
        (
            "UPDATE tokenbudget_rollup_hours SET cost_pico = cost_pico - 1",
            [
                "rollup_hours of 2025-10-09, none: expected cost_pico 56, found 55",
                "rollup_days of 2025-10-09, none, none: expected cost_pico 55, found 56",
            ],
        ),
        (
            "UPDATE tokenbudget_usage SET decision = 'refused', status = 502 WHERE sequence = 2",
            [
                "rollup_subjects of 2025-10-09, tenant:acme, none, none: expected refused 1, found 0",
                "rollup_subjects of 2025-10-09, tenant:acme, none, none: expected errors 1, found 0",
            ],
        ),
        (
            "UPDATE tokenbudget_rollup_days SET duration_us = duration_us + 7",
            ["rollup_days of 2025-10-09, none, none: expected duration_us 0, found 7"],
        ),
        (
            "UPDATE tokenbudget_rollup_days SET requests = 6",
            ["rollup_days of 2025-10-09, none, none: expected requests 5, found 6"],
        ),
    ],
)
def test_a_changed_rollup_is_found(kept: Engine, statement: str, found: list[str]) -> None:
    """
    A row or a rollup that was changed is listed with the day, where in it, and both figures.
    """
    tamper(kept, statement)

    assert [str(difference) for difference in books.verify(kept).differences] == found


def test_usage_of_another_key_is_found(kept: Engine) -> None:
    """
    A rollup that gives one key's usage to another is found, although the sums of its account are right.
    """
    tamper(kept, "UPDATE tokenbudget_rollup_subjects SET key_id = 'k2' WHERE account = 'key:k9'")

    found = [str(difference) for difference in books.verify(kept).differences if difference.figure == "cost_pico"]

    assert sorted(found) == [
        "rollup_subjects of 2025-10-09, key:k9, k2, none: expected cost_pico 0, found 5",
        "rollup_subjects of 2025-10-09, key:k9, none, none: expected cost_pico 5, found 0",
    ]


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("DELETE FROM tokenbudget_grants", "given): expected 7 pico-dollars, found missing"),
        ("UPDATE tokenbudget_grants SET amount_pico = 8", "given): expected 7 pico-dollars, found 8"),
        ("UPDATE tokenbudget_grants SET unused_pico = 6", "taken back): expected 7 pico-dollars, found 6"),
        ("DELETE FROM tokenbudget_ledger WHERE kind = 'expire'", "taken back): expected 0 pico-dollars, found 7"),
    ],
)
def test_a_grant_that_is_not_its_entries_is_found(kept: Engine, statement: str, what: str) -> None:
    """
    A grant that was changed, lost, or taken back otherwise than it says is listed, whose it is and what differs.
    """
    grants.grant(kept, "tenant:rich", 7, key="g", expires_at=2e9, clock=lambda: 1e9)
    grants.expire(kept, clock=lambda: 2e9)
    assert books.verify(kept).verified
    tamper(kept, statement)

    found, *_ = [found for found in books.verify(kept).differences if found.kind == "grant"]

    assert str(found).startswith("grant of tenant:rich (")
    assert str(found).endswith(what)


def test_a_difference_reads_as_a_sentence(kept: Engine) -> None:
    """
    A difference says what, whose, how much should be there and what is.
    """
    tamper(kept, "DELETE FROM tokenbudget_balances WHERE account = 'key:k9'")

    (difference,) = books.verify(kept).differences

    assert str(difference) == "balance of key:k9: expected -5 pico-dollars, found missing"


def test_sums_beyond_64_bits_are_exact(engine: Engine, record: MakeRecord) -> None:
    """
    Totals pass 2^63 without a float and without an overflow, on SQLite too.
    """
    sink = DatabaseSink(engine)
    most = 2**63 - 1
    day = 86_400_000_000
    sink.write(
        [record(n, account=f"tenant:{n}", cost_pico=most, input_tokens=most, created_at_us=n * day) for n in range(5)]
    )

    report = books.verify(engine)

    assert report.verified
    assert report.usage_pico == -report.balance_pico == 5 * most
    assert report.tokens["input_tokens"] == 5 * most


def test_all_figures_are_of_one_moment(kept: Engine, record: MakeRecord) -> None:
    """
    A write that commits while the books are read is not half seen.
    """
    writer = DatabaseSink(kept)
    pending = [record(100, cost_pico=77)]

    def write_once(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if pending and "tokenbudget_ledger" in statement and statement.lstrip().upper().startswith("SELECT"):
            writer.write([pending.pop()])

    event.listen(kept, "before_cursor_execute", write_once)

    report = books.verify(kept)

    assert pending == []
    assert (report.rows, report.verified, report.usage_pico) == (5, True, 47)


def test_the_list_of_differences_ends(kept: Engine, record: MakeRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Books in ruins give a bounded list that says it is one.
    """
    monkeypatch.setattr(books, "MOST_DIFFERENCES", 3)
    DatabaseSink(kept).write([record(n, account=f"tenant:{n}") for n in range(10, 20)])
    with kept.begin() as connection:
        connection.execute(text("DELETE FROM tokenbudget_balances"))

    report = books.verify(kept)

    assert (len(report.differences), report.truncated) == (3, True)
