"""
The usage table in partitions, on PostgreSQL: every event still counts once, and the books are closed at every step.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from partition_rig import NOW, START, at, count, day, names
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from tokenbudget_mw.database import books, tables
from tokenbudget_mw.database.partitions import conversion
from tokenbudget_mw.database.partitions.catalog import BEFORE, EVENTS, REST
from tokenbudget_mw.database.partitions.conversion import convert
from tokenbudget_mw.database.partitions.schema import metadata_of
from tokenbudget_mw.database.partitions.spans import span_named, spans_from
from tokenbudget_mw.database.writer import DatabaseSink
from tokenbudget_mw.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from tokenbudget_mw.values import UsageRecord

    MakeRecord = Callable[..., UsageRecord]

# -- spans ------------------------------------------------------------------------------------------------------------


@given(
    moment=st.datetimes(timezones=st.just(UTC)).filter(lambda moment: 1969 < moment.year < 9999),
    every=st.sampled_from(["day", "month"]),
)
def test_spans_follow_one_another_without_a_gap(moment: datetime, every: Any) -> None:
    """
    Each moment is in the span that is made for it, the next one begins where it ends, and names tell spans.
    """
    first, second, third = spans_from(moment, every, 3)

    assert first.start <= moment < first.end == second.start < second.end == third.start
    assert [span_named(span.name) for span in (first, second, third)] == [first, second, third]


@pytest.mark.parametrize("name", ["tokenbudget_usage", BEFORE, REST, "tokenbudget_usage_p2025_13", "x; DROP TABLE y"])
def test_other_names_are_no_spans(name: str) -> None:
    """
    What is not called like a day or a month is none.
    """
    assert span_named(name) is None


# -- conversion -------------------------------------------------------------------------------------------------------


def test_a_conversion_keeps_every_row_where_it_is(whole: Engine, record: MakeRecord) -> None:
    """
    The old table is the first partition, days stand ready after it, and what is written goes to its day.
    """
    before = books.verify(whole)

    done = convert(whole, "day", now=NOW)
    DatabaseSink(whole).write([record(12, **at(12))])

    assert (done.rows, done.until) == (10, START + timedelta(days=11))
    assert names(whole)[0] == BEFORE
    assert names(whole)[1:] == [day(n) for n in range(11, 24)] + [REST]
    assert (count(whole, BEFORE), count(whole, day(12)), count(whole, EVENTS)) == (10, 1, 11)
    assert before.verified
    assert books.verify(whole).verified


def test_t11_events_count_once_across_partitions(parted: Engine, record: MakeRecord) -> None:
    """
    The same instance and sequence, or the same id, is the same event, also where its moment is another.
    """
    sink, before = DatabaseSink(parted), books.verify(parted)

    replayed = sink.write([record(n, cost_pico=n, **at(n)) for n in range(20)])
    moved = sink.write([record(3, **at(15)), record(14, **at(2)), record(15, **at(900))])
    renamed = sink.write([record(99, id=record(3).id, instance_id="other", **at(16))])
    twice = sink.write([record(50, cost_pico=7, **at(16)), record(50, cost_pico=7, **at(16)), record(50, **at(17))])

    after = books.verify(parted)
    assert (replayed, moved, renamed, twice) == (0, 0, 0, 1)
    assert after.verified
    assert after.balance_pico == before.balance_pico - 7
    assert count(parted, EVENTS) == count(parted) == 21


EVENT = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(0, 30))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(EVENT, max_size=5), max_size=4))
def test_t11_partitions_change_no_answer(parted: Engine, record: MakeRecord, batches: list[list[Any]]) -> None:
    """
    Any history of ids, sequences and moments adds as many rows as the plain table adds, and the books close.
    """
    with parted.begin() as connection:
        for table in [*tables.metadata.tables, EVENTS]:
            connection.execute(text(f"DELETE FROM {table}"))
    ids: set[str] = set()
    sequences: set[int] = set()

    for batch in batches:
        added = DatabaseSink(parted).write([record(s, id=f"e{i}", cost_pico=s, **at(d)) for i, s, d in batch])
        expected = 0
        for i, s, _ in sorted(batch, key=lambda event: event[1]):
            if f"e{i}" not in ids and s not in sequences:
                ids.add(f"e{i}")
                sequences.add(s)
                expected += 1
        assert added == expected

    assert books.verify(parted).verified
    assert count(parted, EVENTS) == count(parted)


def test_t11_two_writers_of_the_same_events_add_them_once(parted: Engine, record: MakeRecord) -> None:
    """
    A second writer of an event waits for the first one, and then lets go of it.
    """
    added: list[int] = []
    records = [record(n, instance_id="race", **at(n % 20)) for n in range(200)]

    def run() -> None:
        added.extend(DatabaseSink(parted).write(records[first : first + 20]) for first in range(0, 200, 20))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(added) == 200
    assert books.verify(parted).verified


def test_a_conversion_goes_on_under_writers(whole: Engine, record: MakeRecord) -> None:
    """
    Who writes all the while loses nothing, writes nothing twice and notices nothing.
    """
    stop, written = threading.Event(), []

    def run(instance: str) -> None:
        sink = DatabaseSink(whole)
        while not stop.is_set():
            n = len(written)
            written.append(sink.write([record(n, instance_id=instance, id=f"{instance}{n}", **at(9 + n % 9 / 10))]))
            sink.write([record(n, instance_id=instance, id=f"{instance}{n}", **at(9 + n % 9 / 10))])

    threads = [threading.Thread(target=run, args=(f"w{number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    done = convert(whole, "month", now=NOW)
    stop.set()
    for thread in threads:
        thread.join()

    assert done.swap_s < 5
    assert sum(written) > 0
    assert count(whole) == 10 + sum(written) == count(whole, EVENTS)
    assert books.verify(whole).verified


def test_a_conversion_that_was_broken_off_goes_on(whole: Engine, record: MakeRecord) -> None:
    """
    After a failure in the middle the table works as before, and the next run begins where this one has ended.
    """

    def fail(_rows: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(whole, "day", now=NOW, told=fail)
    meanwhile = DatabaseSink(whole).write([record(50, **at(9)), record(3, **at(3))])
    done = convert(whole, "day", now=NOW + timedelta(days=1))

    assert (meanwhile, done.until) == (1, START + timedelta(days=12))
    assert count(whole, EVENTS) == count(whole) == 11
    assert books.verify(whole).verified


@pytest.mark.parametrize("step", ["_copy", "_swap"])
def test_a_conversion_that_was_broken_off_for_long_refuses_no_row(
    whole: Engine, record: MakeRecord, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """
    Whatever the day on which it is begun again, what was written meanwhile is there, and no part of it a dead letter.
    """

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(conversion, step, fail)
        with pytest.raises(KeyboardInterrupt):
            convert(whole, "day", now=NOW)
    meanwhile = DatabaseSink(whole).write([record(50, **at(20))])
    done = convert(whole, "day", now=NOW + timedelta(days=11))

    assert (meanwhile, done.until) == (1, START + timedelta(days=22))
    assert count(whole, EVENTS) == count(whole) == 11
    assert books.verify(whole).verified


def test_a_row_that_a_dead_conversion_refuses_waits_for_the_next(
    whole: Engine, record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    One that was killed just before the swap leaves its bound: what lies beyond is tried again, and no dead letter.
    """

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(conversion, "_swap", fail)
        killed.setattr(conversion, "_unbound", lambda _: None)
        with pytest.raises(KeyboardInterrupt):
            convert(whole, "day", now=NOW)
    late, sink = record(50, **at(20)), DatabaseSink(whole)
    with pytest.raises(IntegrityError):
        sink.write([late])
    convert(whole, "day", now=NOW + timedelta(days=11))

    assert sink.write([late]) == 1
    assert books.verify(whole).verified


def test_what_refers_to_the_table_stops_a_conversion(whole: Engine) -> None:
    """
    A view of the host's would go on with the first partition alone, so it is named, and nothing is changed.
    """
    with whole.begin() as connection:
        connection.exec_driver_sql("CREATE VIEW host_costs AS SELECT SUM(cost_pico) FROM tokenbudget_usage")

    with pytest.raises(ConfigurationError, match="host_costs"):
        convert(whole, "month", now=NOW)
    with whole.begin() as connection:
        connection.exec_driver_sql("DROP VIEW host_costs")
    convert(whole, "month", now=NOW)

    with pytest.raises(ConfigurationError, match="partitions already"):
        convert(whole, "month", now=NOW)


def test_only_postgresql_has_partitions(sqlite_engine: Engine) -> None:
    """
    On another database the message says so.
    """
    with pytest.raises(ConfigurationError, match="for PostgreSQL; this database is sqlite"):
        convert(sqlite_engine, "month", now=NOW)


def test_whoever_may_write_may_write_afterwards(whole: Engine, record: MakeRecord) -> None:
    """
    A role that was granted the table, and does not own it, writes into partitions as it wrote before.
    """
    role = f"tokenbudget_app_{whole.url.database[-12:]}"
    with whole.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {role}")
        connection.exec_driver_sql(f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {role}")
    try:
        convert(whole, "day", now=NOW)
        with whole.begin() as connection:
            connection.exec_driver_sql(f"SET LOCAL ROLE {role}")
            sink = DatabaseSink(whole)
            from tokenbudget_mw.database.rows import moment
            from tokenbudget_mw.database.writers import Write

            added = sink._prepare(Write("w", moment(0), [record(1, **at(1)), record(70, **at(12))]))(connection)
    finally:
        with whole.begin() as connection:
            connection.exec_driver_sql(f"DROP OWNED BY {role}")
            connection.exec_driver_sql(f"DROP ROLE {role}")

    assert added == 1


# -- the schema -------------------------------------------------------------------------------------------------------


def test_the_schema_is_known_with_and_without_partitions(whole: Engine) -> None:
    """
    Alembic sees no difference before and after, and one to the plain tables, which therefore are not what it is held to.
    """

    def differences(metadata: Any = None) -> list[Any]:
        with whole.connect() as connection:
            wanted = metadata_of(connection) if metadata is None else metadata

            def is_ours(name: str | None, type_: str, _parents: Any) -> bool:
                return type_ != "table" or name in wanted.tables

            context = MigrationContext.configure(connection, opts={"compare_type": True, "include_name": is_ours})
            return list(compare_metadata(context, wanted))

    before = differences()
    convert(whole, "month", now=NOW)

    assert (before, differences()) == ([], [])
    assert [found[0] for found in differences(tables.metadata)] == ["add_constraint"]
