"""
A dashboard's questions: answered rightly, from an index or a rollup.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from query_plans import is_scan, statements_of

from tokenbudget_mw.cli import doctor
from tokenbudget_mw.database import analytics, tables
from tokenbudget_mw.database.analytics import Cursor, Figures
from tokenbudget_mw.database.writer import DatabaseSink

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from tokenbudget_mw.values import UsageRecord

    MakeRecord = Callable[..., UsageRecord]

HOUR_US = 3_600_000_000
START = datetime(2025, 10, 1, tzinfo=UTC)
START_US = int(START.timestamp()) * 10**6
COUNT = 1200


@pytest.fixture
def full(engine: Engine, record: MakeRecord) -> Engine:
    """
    Fifty days of a request an hour, of seven keys of three accounts; statistics up to date.
    """
    DatabaseSink(engine).write(
        [
            record(
                at,
                key_id=f"k{at % 7}",
                account=f"tenant:{at % 7 % 3}",
                route=["/chat", "/embed"][at % 2],
                response_model=["gpt-4o", "claude", "mini"][at % 3],
                created_at_us=START_US + at * HOUR_US,
                cost_pico=at,
                duration_us=10,
                status=500 if at % 10 == 0 else 200,
                decision="refused" if at % 8 == 0 else "admitted",
            )
            for at in range(COUNT)
        ]
    )
    with engine.begin() as connection:
        if engine.dialect.name == "mysql":
            connection.exec_driver_sql(f"ANALYZE TABLE {', '.join(tables.metadata.tables)}").all()
        else:
            connection.exec_driver_sql("ANALYZE")
    return engine


def hours(since: int, until: int) -> dict[str, datetime]:
    return {"since": START + timedelta(hours=since), "until": START + timedelta(hours=until)}


@pytest.mark.parametrize("span", [(0, COUNT), (24, 48), (5, 9), (20, 30), (30, 24 * 9 + 3), (7, 7)])
def test_totals_are_those_of_the_hours_asked_for(full: Engine, span: tuple[int, int]) -> None:
    """
    Whole days and the hours at both ends are added up, once each.
    """
    inside = range(*span)

    found = analytics.totals(full, **hours(*span))

    assert found == Figures(
        requests=len(inside),
        refused=sum(at % 8 == 0 for at in inside),
        errors=sum(at % 10 == 0 for at in inside),
        input_tokens=10 * len(inside),
        output_tokens=5 * len(inside),
        duration_us=10 * len(inside),
        cost_pico=sum(inside),
    )
    assert all(type(getattr(found, name)) is int for name in tables.FIGURES)


def test_moments_within_an_hour_are_widened_to_it(full: Engine) -> None:
    """
    What a rollup cannot cut is given whole, in whatever zone it was asked for.
    """
    zone = datetime.now(UTC).astimezone().tzinfo
    since, until = START + timedelta(hours=5, minutes=20), START + timedelta(hours=6, microseconds=1)

    found = analytics.totals(full, since=since.astimezone(zone), until=until)

    assert found.cost_pico == 5 + 6


@pytest.mark.parametrize(
    ("groups", "group_of"),
    [
        (("model",), lambda at: (["gpt-4o", "claude", "mini"][at % 3],)),
        (("day", "model"), lambda at: (START + timedelta(days=at // 24), ["gpt-4o", "claude", "mini"][at % 3])),
        (("route",), lambda at: (["/chat", "/embed"][at % 2],)),
        (("day",), lambda at: (START + timedelta(days=at // 24),)),
    ],
)
def test_usage_is_grouped(full: Engine, groups: tuple[str, ...], group_of: Callable[[int], Any]) -> None:
    """
    Cost by model, day, route or several of them, the dearest first.
    """
    expected: Counter[Any] = Counter()
    for at in range(30, 100):
        expected[group_of(at)] += at

    lines = analytics.usage_by(full, *groups, **hours(30, 100))

    assert {line.group: line.figures.cost_pico for line in lines} == expected
    assert [line.figures.cost_pico for line in lines] == sorted(expected.values(), reverse=True)


def test_subjects_are_told_by_days(full: Engine) -> None:
    """
    An account's and a key's figures, by model and day, are those of whole days.
    """
    of_account = analytics.totals(full, account="tenant:1", **hours(25, 47))
    of_key = analytics.usage_by(full, "day", "model", key_id="k2", **hours(24, 72))

    assert of_account.cost_pico == sum(at for at in range(24, 48) if at % 7 % 3 == 1)
    assert sum(line.figures.cost_pico for line in of_key) == sum(at for at in range(24, 72) if at % 7 == 2)
    assert {line.group[0] for line in of_key} == {START + timedelta(days=1), START + timedelta(days=2)}


def test_top_keys_are_the_dearest(full: Engine, record: MakeRecord) -> None:
    """
    Keys by cost, of all or of an account; usage without a key is no key.
    """
    DatabaseSink(full).write([record(5000, key_id=None, cost_pico=10**12, created_at_us=START_US)])
    costs = Counter({f"k{key}": sum(range(key, 24, 7)) for key in range(7)})

    top = analytics.top_keys(full, limit=2, **hours(0, 24))
    of_account = analytics.top_keys(full, account="tenant:1", **hours(0, 24))

    assert [(line.group[0], line.figures.cost_pico) for line in top] == costs.most_common(2)
    assert {line.group[0] for line in of_account} == {"k1", "k4"}


def test_a_statement_is_kept_for_all_limits(full: Engine) -> None:
    """
    Whoever lets clients choose how many keys they see keeps no statement for each number.
    """
    analytics._dearest.cache_clear()

    found = [len(analytics.top_keys(full, limit=limit, **hours(0, 24))) for limit in (1, 3, 2)]

    assert (found, analytics._dearest.cache_info().currsize) == ([1, 3, 2], 1)


def test_endpoints_have_error_rates_and_durations(full: Engine) -> None:
    """
    A route's line tells its error rate, its mean duration and its tokens.
    """
    (chat, embed) = sorted(analytics.endpoints(full, **hours(0, 240)), key=lambda line: line.group)

    assert (chat.group, chat.figures.error_rate, chat.figures.mean_duration_us) == (("/chat",), 0.2, 10)
    assert (embed.figures.error_rate, embed.figures.tokens) == (0.0, 120 * 15)
    assert (Figures().error_rate, Figures().mean_duration_us) == (0.0, 0)


def test_no_rollup_knows_routes_of_subjects(engine: Engine) -> None:
    """
    A question that no rollup answers is refused, and so is a group that nobody knows.
    """
    with pytest.raises(ValueError, match="routes of an account or a key"):
        analytics.usage_by(engine, "route", key_id="k1", **hours(0, 1))
    with pytest.raises(ValueError, match=r"Unknown group 'tenant'\. Known: day, model"):
        analytics.usage_by(engine, "tenant", **hours(0, 1))


def test_a_naive_moment_is_refused(engine: Engine) -> None:
    """
    A moment without a zone would be one of whatever zone the machine is in, and so would the days.
    """
    naive = datetime(2025, 10, 9)  # noqa: DTZ001 - that is the point

    with pytest.raises(ValueError, match="needs a time zone"):
        analytics.totals(engine, since=naive, until=naive + timedelta(days=1))
    with pytest.raises(ValueError, match="needs a time zone"):
        analytics.month_to_date(engine, now=naive)


def test_the_last_minute_is_the_last_minute(engine: Engine, record: MakeRecord) -> None:
    """
    Requests and tokens of the last 60 seconds, of all, an account or a key; nothing older and nothing of the future.
    """
    ages = [0, 1, 59_999_999, 60_000_000, -1]
    DatabaseSink(engine).write(
        [
            record(at, created_at_us=START_US - age, key_id=f"k{at}", account=f"a{at % 2}", decision="refused")
            for at, age in enumerate(ages)
        ]
    )

    everything = analytics.last_seconds(engine, now=START)

    assert (everything.requests, everything.refused, everything.tokens) == (3, 3, 45)
    assert analytics.last_seconds(engine, now=START, account="a0").requests == 2
    assert analytics.last_seconds(engine, now=START, key_id="k1").requests == 1
    assert analytics.last_seconds(engine, now=START, key_id="k3") == Figures()
    assert analytics.last_seconds(engine, now=START, seconds=61).requests == 4


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moments=st.lists(st.integers(0, 3), max_size=12), limit=st.integers(1, 5))
def test_pages_show_every_row_once(sqlite_engine: Engine, record: MakeRecord, moments: list[int], limit: int) -> None:
    """
    Page after page the log is complete and in order, however many rows share a moment.
    """
    with sqlite_engine.begin() as connection:
        for table in tables.metadata.sorted_tables:
            connection.execute(table.delete())
    DatabaseSink(sqlite_engine).write([record(at, created_at_us=moment) for at, moment in enumerate(moments)])

    seen, after = [], None
    while True:
        page = analytics.log_page(sqlite_engine, account="tenant:acme", after=after, limit=limit)
        seen += [(row["created_at"], row["id"]) for row in page.rows]
        after = page.next
        if after is None:
            break

    assert seen == sorted(seen, reverse=True)
    assert len(set(seen)) == len(seen) == len(moments)


def test_a_page_is_of_whom_it_was_asked(full: Engine) -> None:
    """
    A key's page holds this key's newest rows, all columns of them, and leads to the next.
    """
    page = analytics.log_page(full, key_id="k3", limit=3)
    second = analytics.log_page(full, key_id="k3", limit=3, after=page.next)

    assert [row["sequence"] for row in page.rows] == [1193, 1186, 1179]
    assert [row["sequence"] for row in second.rows] == [1172, 1165, 1158]
    assert page.next == Cursor(page.rows[-1]["created_at"], page.rows[-1]["id"])
    assert set(page.rows[0]) == {column.name for column in tables.usage.columns}


def test_a_month_is_forecast_from_its_pace(full: Engine) -> None:
    """
    After ten of 31 days the month costs 3.1 times what it did; December is followed by January.
    """
    now = START + timedelta(days=10)
    spent = sum(at for at in range(240) if at % 7 % 3 == 2)

    month = analytics.month_to_date(full, now=now, account="tenant:2")
    december = analytics.month_to_date(full, now=datetime(2025, 12, 31, 23, tzinfo=UTC))

    assert (month.since, month.until) == (START, datetime(2025, 11, 1, tzinfo=UTC))
    assert (month.figures.cost_pico, month.forecast_pico) == (spent, spent * 31 // 10)
    assert december.until == datetime(2026, 1, 1, tzinfo=UTC)
    assert analytics.month_to_date(full, now=datetime(2027, 1, 1, tzinfo=UTC)).forecast_pico == 0


QUESTIONS: dict[str, Callable[[Engine], object]] = {
    "totals": lambda engine: analytics.totals(engine, **hours(30, 80)),
    "model by day": lambda engine: analytics.usage_by(engine, "day", "model", **hours(0, 72)),
    "account by model": lambda engine: analytics.usage_by(engine, "model", account="tenant:1", **hours(0, 72)),
    "key by day": lambda engine: analytics.usage_by(engine, "day", key_id="k1", **hours(0, 72)),
    "top keys": lambda engine: analytics.top_keys(engine, **hours(0, 24)),
    "top keys of an account": lambda engine: analytics.top_keys(engine, account="tenant:1", **hours(0, 72)),
    "endpoints": lambda engine: analytics.endpoints(engine, **hours(3, 72)),
    "last minute": lambda engine: analytics.last_seconds(engine, now=START),
    "last minute of a key": lambda engine: analytics.last_seconds(engine, now=START, key_id="k1"),
    "log": lambda engine: analytics.log_page(engine, limit=5),
    "log of an account": lambda engine: analytics.log_page(engine, account="tenant:1", limit=5),
    "deep in the log of a key": lambda engine: analytics.log_page(
        engine, key_id="k1", after=Cursor(START + timedelta(days=1), "r20"), limit=5
    ),
    "deep in the log": lambda engine: analytics.log_page(
        engine, after=Cursor(START + timedelta(days=1), "r20"), limit=5
    ),
    "rows without a price": lambda engine: list(doctor._unpriced(engine)),
    "month": lambda engine: analytics.month_to_date(engine, now=START + timedelta(days=2), account="tenant:1"),
}


def test_t15_no_question_reads_a_whole_table(full: Engine) -> None:
    """
    Every statement behind every question of the dashboard is explained with an index.
    """
    asked: dict[str, list[tuple[str, Any]]] = {}

    for name, ask in QUESTIONS.items():
        asked[name] = statements_of(full, ask)

    assert all(asked.values())
    assert [(name, sql) for name, found in asked.items() for sql, values in found if is_scan(full, sql, values)] == []
