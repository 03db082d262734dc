"""
What the books say was used: the sum of the rows that count, from whichever table knows it cheapest.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from query_plans import plan, scans

from tokenbudget_mw.database import spending, tables
from tokenbudget_mw.database.rows import moment
from tokenbudget_mw.database.writer import DatabaseSink
from tokenbudget_mw.rules.calendar_periods import period_at
from tokenbudget_mw.rules.seeding import Question, Span

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from tokenbudget_mw.values import UsageRecord

NOW_US = 1_760_000_000_123_457
HOUR_US = 3_600_000_000
ZURICH = ZoneInfo("Europe/Zurich")


def model_name(model: str) -> str:
    return model.partition("@")[0]


@pytest.fixture
def records(engine: Engine, record: Callable[..., UsageRecord]) -> list[UsageRecord]:
    """
    Three months of usage of some owners, on the books.
    """
    dice = random.Random(7)
    made = [
        record(
            number,
            key_id=(key := dice.choice(["k1", "k2", "k3"])),
            user_id=dice.choice(["u1", "u2"]),
            tenant_id="acme" if key != "k3" else None,
            account="tenant:acme" if key != "k3" else "key:k3",
            route=dice.choice(["/a", "/b"]),
            request_model="asked",
            response_model=dice.choice(["m1", "m1@2025", "m2", None]),
            created_at_us=NOW_US - dice.randrange(dice.choice([90 * 24, 2]) * HOUR_US),
            cost_pico=0 if (is_refused := dice.random() < 0.2) else dice.randrange(10**13),
            input_tokens=0 if is_refused else dice.randrange(10**6),
            output_tokens=0 if is_refused else dice.randrange(10**6),
            decision="refused" if is_refused else "admitted",
        )
        for number in range(1, 800)
    ]
    DatabaseSink(engine).write(made)
    return made


def expected(records: list[UsageRecord], question: Question) -> tuple[int, ...]:
    names = {"route": "route"} | {scope: f"{scope}_id" for scope in ("key", "user", "team", "project", "tenant")}

    def counts(row: UsageRecord, span: Span) -> bool:
        model = model_name(row.response_model or row.request_model or "")
        return (
            span.since_us <= row.created_at_us < span.until_us
            and row.decision != "refused"
            and question.model in (None, model)
            and all(getattr(row, names[scope]) == value for scope, value in question.scopes)
        )

    def amount(row: UsageRecord) -> int:
        amounts = {"requests": 1, "tokens": row.input_tokens + row.output_tokens, "money": row.cost_pico}
        return amounts.get(question.unit) or getattr(row, question.unit, 0)

    sums = [sum(amount(row) for row in records if counts(row, span)) for span in question.spans]
    return tuple(-(-total // 1000) if question.unit == "money" else total for total in sums)


def span(since_us: int, until_us: int) -> Span:
    return Span(since_us, since_us, until_us)


def month(zone: ZoneInfo = ZURICH) -> tuple[Span]:
    period = period_at("month", NOW_US / 1e6, zone)
    return (span(period.start_us, period.end_us),)


def question(*scopes: Any, account: str | None = "tenant:acme", model: str | None = None, **more: Any) -> Question:
    return Question(scopes, account, model, more.get("unit", "money"), more.get("spans") or month())


QUESTIONS = {
    "a key's month": question(("key", "k1")),
    "a key's month in UTC": question(("key", "k1"), spans=month(ZoneInfo("UTC"))),
    "a key's requests": question(("key", "k2"), unit="requests"),
    "a key's day": question(("key", "k1"), spans=(span(NOW_US - 30 * HOUR_US, NOW_US + HOUR_US),)),
    "a key's hour": question(("key", "k1"), spans=(span(NOW_US - HOUR_US, NOW_US + 1),)),
    "a key's tokens of a model": question(("key", "k1"), model="m1", unit="tokens"),
    "a key's slots": question(
        ("key", "k1"),
        spans=tuple(span(NOW_US - at * 10 * HOUR_US, NOW_US - (at - 1) * 10 * HOUR_US) for at in range(61, 0, -1)),
    ),
    "a key's slots of a model": question(
        ("key", "k1"), model="m1", spans=(span(NOW_US - 99 * HOUR_US, NOW_US - HOUR_US), span(NOW_US - HOUR_US, NOW_US))
    ),
    "a key without a tenant": question(("key", "k3"), account="key:k3", unit="input_tokens"),
    "a tenant's month": question(("tenant", "acme")),
    "a tenant's requests": question(("tenant", "acme"), unit="requests"),
    "a tenant's output of a model": question(("tenant", "acme"), model="asked", unit="output_tokens"),
    "a user of a tenant": question(("user", "u1"), ("tenant", "acme")),
    "a key on a route": question(("key", "k1"), ("route", "/a"), unit="requests"),
    "everybody": question(),
    "everybody on a route": question(("route", "/b"), unit="requests"),
    "everybody's use of a model": question(model="m2", unit="tokens"),
}


def test_the_books_answer_as_the_rows_add_up(engine: Engine, records: list[UsageRecord]) -> None:
    """
    For each kind of owner, unit and time the answer is the sum of what was not refused.
    """
    answers = dict(zip(QUESTIONS, spending.used(engine, list(QUESTIONS.values()), model_name), strict=True))

    assert answers == {name: expected(records, asked) for name, asked in QUESTIONS.items()}
    assert [name for name, answer in answers.items() if not sum(answer)] == []


def test_many_rows_of_many_slots_are_added_up_by_the_database(
    engine: Engine, records: list[UsageRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Where the rows of a window are more than a few, each slot is a sum; the answer is the same.
    """
    monkeypatch.setattr(spending, "FEW", 3)
    asked = [QUESTIONS["a key's slots"], QUESTIONS["a key's slots of a model"]]

    assert spending.used(engine, asked, model_name) == [expected(records, each) for each in asked]


def test_a_user_counts_within_its_account(engine: Engine, record: Callable[..., UsageRecord]) -> None:
    """
    Two tenants may have users of the same name, and an id that had to be changed for its column is found again.
    """
    long = "u" * 300
    rows = [
        record(1, user_id="u1", tenant_id="acme", account="tenant:acme", created_at_us=NOW_US, cost_pico=1000),
        record(2, user_id="u1", tenant_id="evil", account="tenant:evil", created_at_us=NOW_US, cost_pico=7000),
        record(3, user_id=long, tenant_id="acme", account="tenant:acme", created_at_us=NOW_US, cost_pico=5000),
    ]
    DatabaseSink(engine).write(rows)

    answers = spending.used(engine, [question(("user", "u1")), question(("user", long))], model_name)

    assert answers == [(1,), (5,)]


def test_who_cannot_be_found_by_an_index_is_not_looked_for(engine: Engine) -> None:
    """
    A project of nobody in particular is in no index, so its count starts at nothing.
    """
    asked = question(("project", "p1"), account=None)

    with engine.connect() as connection:
        assert list(spending.statements(connection, asked)) == []
    assert spending.used(engine, [asked], model_name) == [(0,)]


def test_t15_no_question_reads_a_whole_table(engine: Engine, records: list[UsageRecord]) -> None:
    """
    Each statement takes an index.
    """
    with engine.begin() as connection:
        if engine.dialect.name == "mysql":
            connection.exec_driver_sql(f"ANALYZE TABLE {', '.join(tables.metadata.tables)}").all()
        else:
            connection.exec_driver_sql("ANALYZE")
    with engine.connect() as connection:
        plans = {
            name: [plan(connection, statement) for statement in spending.statements(connection, asked)]
            for name, asked in QUESTIONS.items()
        }

    assert all(plans.values())
    assert {name: found for name, found in plans.items() if any(map(scans, found))} == {}


def test_a_month_in_utc_reads_no_usage_row(engine: Engine) -> None:
    """
    A period that begins with a day of UTC is in the rollup, to the present.
    """
    asked = question(("key", "k1"), spans=month(ZoneInfo("UTC")))

    with engine.connect() as connection:
        (statement,) = spending.statements(connection, asked)

    assert [source.name for source in statement.get_final_froms()] == ["tokenbudget_rollup_subjects"]


def test_purged_rows_still_count(engine: Engine, records: list[UsageRecord]) -> None:
    """
    Retention keeps the rollups, so a budget of the month outlives its rows.
    """
    from tokenbudget_mw.database.retention import purge

    asked = question(("key", "k1"), spans=month(ZoneInfo("UTC")))
    before = spending.used(engine, [asked], model_name)

    purge(engine, before=moment(NOW_US))

    assert spending.used(engine, [asked], model_name) == before == [expected(records, asked)]
