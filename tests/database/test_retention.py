"""
Old rows go; the books stay closed, and what went never comes back as a charge.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, event, select, text
from sqlalchemy.exc import OperationalError

from tokenbudget_mw.database import books, retention, tables
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.ranges import merge_ranges
from tokenbudget_mw.database.retention import purge
from tokenbudget_mw.database.writer import DatabaseSink

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from tokenbudget_mw.values import UsageRecord

    MakeRecord = Callable[..., UsageRecord]

START = datetime(2025, 1, 1, tzinfo=UTC)
HOUR_US = 3_600_000_000


def at(hour: int) -> dict[str, int]:
    return {"created_at_us": int(START.timestamp()) * 10**6 + hour * HOUR_US}


def sequences(engine: Engine) -> list[int]:
    with engine.connect() as connection:
        return list(connection.scalars(select(tables.usage.c.sequence).order_by(tables.usage.c.sequence)))


def ranges(engine: Engine) -> list[tuple[str, int, int]]:
    purged = tables.purged_ranges.c
    with engine.connect() as connection:
        found = connection.execute(select(purged.instance_id, purged.first_sequence, purged.last_sequence))
        return sorted(tuple(row) for row in found)


@pytest.fixture
def aged(engine: Engine, record: MakeRecord) -> tuple[Engine, list[UsageRecord]]:
    """
    A hundred hours of a request each, two accounts and nobody, in writes of seven.
    """
    owners = ["tenant:a", "tenant:b", None]
    records = [record(n, account=owners[n % 3], cost_pico=n, **at(n)) for n in range(1, 101)]
    sink = DatabaseSink(engine)
    for first in range(0, 100, 7):
        sink.write(records[first : first + 7])
    return engine, records


def test_old_rows_go_and_the_books_stay_closed(aged: tuple[Engine, list[UsageRecord]]) -> None:
    """
    Rows before the moment are deleted, no others; rollups, ledger and balances stay, and everything still adds up.
    """
    engine, _ = aged
    before = books.verify(engine)

    report = purge(engine, before=START + timedelta(hours=60))

    after = books.verify(engine)
    assert sequences(engine) == list(range(60, 101))
    assert (report.rows, after.rows, after.purged, after.purged_pico) == (59, 41, 59, sum(range(60)))
    assert after.verified
    for name in ("ledger_pico", "ledger_usage_pico", "balance_pico", "rollup_pico"):
        assert getattr(after, name) == getattr(before, name)
    assert after.usage_pico + after.unowned_pico + after.purged_pico == after.rollup_pico


def test_t11_purged_events_are_never_written_again(aged: tuple[Engine, list[UsageRecord]], record: MakeRecord) -> None:
    """
    A spool that turns up after the purge charges nobody twice, whatever its batches are; what was never written, is.
    """
    engine, records = aged
    late = record(101, cost_pico=7, **at(3))
    purge(engine, before=START + timedelta(hours=60))
    before = books.verify(engine)
    sink = DatabaseSink(engine)

    added = [sink.write(records), sink.write(records[10:13]), sink.write([records[5], late, records[80]])]

    after = books.verify(engine)
    assert added == [0, 0, 1]
    assert after.verified
    assert after.balance_pico == before.balance_pico - 7
    assert ranges(engine) == [(records[0].instance_id, 1, 59)]


def test_gaps_stay_open(engine: Engine, record: MakeRecord) -> None:
    """
    Sequences that were never written are in no range: they can still come, and once purged close it.
    """
    sink = DatabaseSink(engine)
    sink.write([record(n, **at(0)) for n in (1, 2, 5, 6)])
    purge(engine, before=START + timedelta(hours=1))
    open_gap = ranges(engine)

    added = sink.write([record(n, **at(0)) for n in range(1, 7)])
    purge(engine, before=START + timedelta(hours=1))

    name = record(1).instance_id
    assert open_gap == [(name, 1, 2), (name, 5, 6)]
    assert (added, ranges(engine)) == (2, [(name, 1, 6)])
    assert books.verify(engine).verified


def test_another_instance_s_numbers_are_its_own(aged: tuple[Engine, list[UsageRecord]], record: MakeRecord) -> None:
    """
    That a number was purged says nothing of the same number of another process.
    """
    engine, _ = aged
    purge(engine, before=START + timedelta(hours=60))

    assert DatabaseSink(engine).write([record(5, instance_id="other", **at(70))]) == 1


@pytest.mark.parametrize(
    ("statement", "kinds"),
    [
        ("UPDATE tokenbudget_purged_days SET cost_pico = cost_pico + 1 WHERE account = 'tenant:a'", {"rollup"}),
        ("DELETE FROM tokenbudget_purged_ranges", {"entry"}),
        ("UPDATE tokenbudget_usage SET cost_pico = cost_pico + 1 WHERE sequence = 90", {"entry", "rollup"}),
        ("DELETE FROM tokenbudget_usage WHERE sequence = 90", {"entry", "rollup"}),
        (
            "UPDATE tokenbudget_ledger SET amount_pico = amount_pico + 1 WHERE first_sequence = 1",
            {"ledger", "balance"},
        ),
        ("UPDATE tokenbudget_ledger SET amount_pico = 1 WHERE first_sequence = 9", {"ledger", "balance"}),
    ],
)
def test_after_a_purge_changes_are_still_found(
    aged: tuple[Engine, list[UsageRecord]], statement: str, kinds: set[str]
) -> None:
    """
    What remains is compared as before, what went by its sums.
    """
    engine, _ = aged
    purge(engine, before=START + timedelta(hours=60))
    with engine.begin() as connection:
        assert connection.execute(text(statement)).rowcount >= 1

    assert {difference.kind for difference in books.verify(engine).differences} == kinds


def test_a_batch_that_a_deadlock_ends_is_begun_anew(
    aged: tuple[Engine, list[UsageRecord]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Where the database lets a purge give way to others, its batch goes all the same, once.
    """
    engine, _ = aged
    keep_ranges, ended = retention.keep_ranges, [OperationalError("", None, Exception(1213, "Deadlock found"))]

    def end_once(*arguments: Any) -> None:
        keep_ranges(*arguments)
        if ended:
            raise ended.pop()

    monkeypatch.setattr(retention, "keep_ranges", end_once)

    assert purge(engine, before=START + timedelta(hours=60)).rows == 59
    assert ended == []
    assert books.verify(engine).verified


def test_it_may_be_stopped_at_any_moment(
    aged: tuple[Engine, list[UsageRecord]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Between two batches the books are closed, and the next run goes on.
    """
    engine, _ = aged
    monkeypatch.setattr(retention, "FEWEST", 7)
    monkeypatch.setattr(retention, "MOST", 7)
    monkeypatch.setattr(retention, "FIRST", 7)
    seen: list[int] = []

    def stop(rows: int) -> None:
        seen.append(rows)
        assert books.verify(engine).verified
        if rows > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        purge(engine, before=START + timedelta(hours=60), told=stop)
    rest = purge(engine, before=START + timedelta(hours=60))

    assert seen == [7, 14, 21]
    assert (rest.rows, rest.batches) == (38, 6)
    assert books.verify(engine).verified


@pytest.mark.parametrize(
    ("took", "size"), [(0.025, 500), (0.05, 250), (1.0, 125), (0.0125, 1000), (0.0001, 1000), (0.1, 125)]
)
def test_batches_fit_their_time(took: float, size: int) -> None:
    """
    A slow batch is followed by a smaller one, a fast one by a larger, within bounds.
    """
    assert retention._next_size(500, took) == size
    assert retention._next_size(retention.MOST, 0.0001) == retention.MOST
    assert retention._next_size(retention.FEWEST, 1.0) == retention.FEWEST


def test_nothing_to_do_is_no_work(engine: Engine) -> None:
    """
    An empty table takes no batch.
    """
    assert purge(engine, before=START) == retention.PurgeReport(0, 0, 0.0)


RANGE = st.tuples(st.integers(0, 60), st.integers(0, 5)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(found=st.lists(RANGE, max_size=12))
def test_merged_ranges_hold_the_same_numbers(found: list[tuple[int, int]]) -> None:
    """
    Merging changes no number's membership, and leaves no two ranges that touch.
    """
    merged = merge_ranges(found)

    def numbers(some: list[tuple[int, int]]) -> set[int]:
        return {number for first, last in some for number in range(first, last + 1)}

    assert numbers(merged) == numbers(found)
    assert all(left[1] + 1 < right[0] for left, right in pairwise(merged))


STEP = st.one_of(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(1, 9)), max_size=6), st.integers(0, 10))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEP, max_size=8))
def test_t11_any_history_of_writes_and_purges_is_booked_once(
    sqlite_engine: Engine, record: MakeRecord, steps: list[Any]
) -> None:
    """
    However writes, replays and purges follow one another, every event is charged once and the books close.
    """
    with sqlite_engine.begin() as connection:
        for table in tables.metadata.sorted_tables:
            connection.execute(delete(table))
    sink = DatabaseSink(sqlite_engine)
    known: set[tuple[str, int]] = set()

    for step in steps:
        if isinstance(step, int):
            purge(sqlite_engine, before=START + timedelta(hours=step))
        else:
            added = sink.write([record(n, instance_id=i, cost_pico=n, **at(n)) for i, n in step])
            assert added == len(set(step) - known)
            known |= set(step)
        assert books.verify(sqlite_engine).verified

    assert books.totals(sqlite_engine)["balance_pico"] == -sum(number for _, number in known)


def test_a_writer_waits_for_the_purge_that_is_under_way(postgres_database: str, record: MakeRecord) -> None:
    """
    On PostgreSQL a replay cannot slip in between a row's deletion and the word of it, and readers are not held up.
    """
    engine = open_engine(postgres_database)
    tables.metadata.create_all(engine)
    hasty = open_engine(postgres_database)
    event.listen(hasty, "connect", lambda connection, _: connection.execute("SET lock_timeout = '50ms'"))
    sink = DatabaseSink(hasty)
    sink.write([record(1, **at(0))])

    with engine.begin() as connection:
        assert retention._purge_some(connection, (retention._EVER, START + timedelta(hours=1)), 10, lambda: 0.0)[0] == 1
        with pytest.raises(OperationalError, match="lock timeout"):
            sink.write([record(1, **at(0))])
        rows_seen_meanwhile = books.verify(hasty).rows
    added = sink.write([record(1, **at(0))])

    engine.dispose()
    hasty.dispose()
    assert (rows_seen_meanwhile, added) == (1, 0)
