"""
How long requests took: counted by every writer alike, and read off as percentiles.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, text

from tokenbudget_mw.database import analytics, tables
from tokenbudget_mw.database.backfill import fill_latencies
from tokenbudget_mw.database.latencies import BOUNDS, bound_of, percentile
from tokenbudget_mw.database.writer import DatabaseSink

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from tokenbudget_mw.values import UsageRecord

    MakeRecord = Callable[..., UsageRecord]

START = datetime(2025, 10, 1, tzinfo=UTC)
START_US = int(START.timestamp()) * 10**6
HOUR_US = 3_600_000_000
DURATIONS = [0, 1, 999, 1000, 1001, 1189, 1190, 54_321, BOUNDS[-1] - 1, BOUNDS[-1], BOUNDS[-1] + 1, 10**15]


@given(duration=st.integers(0, 2 * BOUNDS[-1]))
def test_a_duration_is_under_its_bound_and_above_the_one_before(duration: int) -> None:
    """
    The bound is the least that is not below it, or the last.
    """
    bound = bound_of(duration)

    assert bound in BOUNDS
    assert duration <= bound or bound == BOUNDS[-1]
    assert bound == BOUNDS[0] or duration > BOUNDS[BOUNDS.index(bound) - 1]


@given(
    durations=st.lists(st.integers(1001, BOUNDS[-1]), min_size=1, max_size=60),
    share=st.sampled_from([0.01, 0.5, 0.95, 0.99, 1.0]),
)
def test_a_percentile_is_off_by_less_than_a_fifth(durations: list[int], share: float) -> None:
    """
    What is read off the counts lies between the bounds around the true value.
    """
    rank = max(1, -(-round(share * 1000) * len(durations) // 1000))
    true = sorted(durations)[rank - 1]

    found = percentile(Counter(map(bound_of, durations)), share)

    assert found is not None
    assert true / 1.2 <= found <= true * 1.2


def counts(engine: Engine) -> dict[str, list[tuple[object, ...]]]:
    with engine.connect() as connection:
        return {
            table.name: sorted(tuple(row[1:]) for row in connection.execute(select(table)))
            for table in (tables.latency_hours, tables.latency_days)
        }


@pytest.fixture
def timed(engine: Engine, record: MakeRecord) -> Engine:
    """
    Requests of every duration in each of thirty hours, on two routes, written in two batches.
    """
    records = [
        record(
            hour * 100 + at,
            duration_us=duration,
            route=["/chat", None][at % 2],
            created_at_us=START_US + hour * HOUR_US,
        )
        for hour in range(30)
        for at, duration in enumerate(DURATIONS)
    ]
    sink = DatabaseSink(engine)
    assert sink.write(records[:200]) + sink.write(records) == len(records)
    return engine


def test_every_writer_counts_alike(timed: Engine) -> None:
    """
    On each database the counts are those of `bound_of`, by hour and by day, each request once.
    """
    hours: Counter[tuple[object, ...]] = Counter()
    for hour in range(30):
        for at, duration in enumerate(DURATIONS):
            hours[START + timedelta(hours=hour), ["/chat", ""][at % 2], bound_of(duration)] += 1
    days: Counter[tuple[object, ...]] = Counter()
    for (hour, *rest), requests in hours.items():
        days[hour.replace(hour=0), *rest] += requests  # type: ignore[attr-defined]

    assert counts(timed) == {
        "tokenbudget_latency_hours": sorted((*key, n) for key, n in hours.items()),
        "tokenbudget_latency_days": sorted((*key, n) for key, n in days.items()),
    }


def test_older_rows_are_counted_by_the_migration_as_by_the_writer(timed: Engine) -> None:
    """
    Filled from the rows, the tables hold what the writer has put there.
    """
    written = counts(timed)
    with timed.begin() as connection:
        for table in written:
            connection.execute(text(f"DELETE FROM {table}"))
        for statement in fill_latencies(timed.dialect.name):
            connection.execute(text(statement))

    assert counts(timed) == written


def test_endpoints_tell_percentiles(engine: Engine, record: MakeRecord) -> None:
    """
    The median, the 95th and the 99th of a route, over whole days and the hours at their ends; a quiet route has none.
    """
    durations = [10_000] * 90 + [1_000_000] * 8 + [20_000_000] * 2
    DatabaseSink(engine).write(
        [
            record(at, route="/chat", duration_us=duration, created_at_us=START_US + at * HOUR_US)
            for at, duration in enumerate(durations)
        ]
    )
    with engine.begin() as connection:
        connection.execute(
            tables.rollup_days.insert(),
            {"day": START, "model": "m", "route": "/old"} | dict.fromkeys(tables.FIGURES, 1),
        )

    lines = analytics.endpoints(engine, since=START, until=START + timedelta(hours=100))

    (chat, old) = sorted(lines, key=lambda line: line.group)
    assert chat.figures.requests == 100
    assert (chat.p50_us, chat.p95_us, chat.p99_us) == (
        pytest.approx(10_000, rel=0.1),
        pytest.approx(1_000_000, rel=0.1),
        pytest.approx(20_000_000, rel=0.1),
    )
    assert (old.group, old.p50_us, old.p99_us) == (("/old",), None, None)
