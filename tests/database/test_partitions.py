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
from sqlalchemy import func, select, text

from tokenbudget_mw.database import analytics, books, tables
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.partitions.catalog import BEFORE, EVENTS, REST, partitions
from tokenbudget_mw.database.partitions.conversion import convert
from tokenbudget_mw.database.partitions.making import make_ahead
from tokenbudget_mw.database.partitions.patience import BusyTableError, patiently
from tokenbudget_mw.database.partitions.retiring import attach, detach, drop
from tokenbudget_mw.database.partitions.schema import metadata_of
from tokenbudget_mw.database.partitions.spans import span_named, span_of, spans_from
from tokenbudget_mw.database.retention import purge
from tokenbudget_mw.database.writer import DatabaseSink
from tokenbudget_mw.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection, Engine

    from tokenbudget_mw.values import UsageRecord

    MakeRecord = Callable[..., UsageRecord]

START = datetime(2025, 1, 1, tzinfo=UTC)
NOW = START + timedelta(days=9, hours=12)


def at(day: float) -> dict[str, int]:
    return {"created_at_us": int((START + timedelta(days=day)).timestamp() * 10**6)}


@pytest.fixture
def engine(postgres_database: str) -> Iterator[Engine]:
    """
    Our tables on PostgreSQL.
    """
    engine = open_engine(postgres_database)
    tables.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def whole(engine: Engine, record: MakeRecord) -> Engine:
    """
    Ten days of a row each, in the table as it is at first.
    """
    DatabaseSink(engine).write([record(n, cost_pico=n, **at(n)) for n in range(10)])
    return engine


@pytest.fixture
def parted(whole: Engine, record: MakeRecord) -> Engine:
    """
    The same converted to days, and a row of each of the days 10 to 19 after.
    """
    convert(whole, "day", now=NOW)
    DatabaseSink(whole).write([record(n, cost_pico=n, **at(n)) for n in range(10, 20)])
    return whole


def names(engine: Engine, *, attached: bool = True) -> list[str]:
    with engine.connect() as connection:
        return [part.name for part in partitions(connection) if part.is_attached == attached]


def count(engine: Engine, table: str = "tokenbudget_usage") -> int:
    with engine.connect() as connection:
        return int(connection.execute(text(f"SELECT COUNT(*) FROM {table}")).scalar_one())


def day(number: int) -> str:
    return span_of(START + timedelta(days=number), "day").name


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

    assert (meanwhile, done.until) == (1, START + timedelta(days=11))
    assert count(whole, EVENTS) == count(whole) == 11
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

            added = sink._write_rows(connection, Write("w", moment(0), [record(1, **at(1)), record(70, **at(12))]))
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


# -- making -----------------------------------------------------------------------------------------------------------


def test_partitions_are_made_ahead(parted: Engine) -> None:
    """
    Those that are missing are made, as long as the others are; a second run makes none.
    """
    made = make_ahead(parted, None, now=START + timedelta(days=20))

    assert made == [day(n) for n in range(24, 35)]
    assert make_ahead(parted, None, now=START + timedelta(days=20)) == []
    assert make_ahead(parted, "day", now=START + timedelta(days=30), count=5) == [day(35)]


def test_rows_that_found_no_partition_are_moved_to_theirs(parted: Engine, record: MakeRecord) -> None:
    """
    A row of a day that nobody has prepared is kept in the rest, and goes to its day when that is made, as the event it is.
    """
    sink = DatabaseSink(parted)
    sink.write([record(n, **at(n)) for n in (40, 41, 900)])
    in_rest = count(parted, REST)

    make_ahead(parted, "day", now=START + timedelta(days=40), count=3)

    assert (in_rest, count(parted, REST), count(parted, day(40))) == (3, 1, 1)
    assert sink.write([record(n, **at(n)) for n in (40, 41, 900)]) == 0
    assert count(parted, EVENTS) == count(parted)
    assert books.verify(parted).verified


def test_a_plain_table_has_no_partitions_to_make(whole: Engine) -> None:
    """
    Whoever has not opted in is told how.
    """
    with pytest.raises(ConfigurationError, match="partitions on"):
        make_ahead(whole, "day", now=NOW)


# -- retention --------------------------------------------------------------------------------------------------------


def test_a_purge_drops_whole_partitions(parted: Engine, record: MakeRecord) -> None:
    """
    Days that have passed go as tables, what was there before them row by row; the books stay closed, and nothing comes back.
    """
    before = books.verify(parted)

    report = purge(parted, before=START + timedelta(days=15, hours=6))

    after = books.verify(parted)
    replayed = DatabaseSink(parted).write([record(n, cost_pico=n, **at(n)) for n in range(20)])
    assert (report.rows, report.partitions) == (15, 5)  # the table of before, which is old as a whole, and four days
    assert names(parted) == [day(n) for n in range(15, 24)] + [REST]
    assert names(parted, attached=False) == []
    assert (after.rows, after.purged, replayed) == (5, 15, 0)
    assert after.verified
    assert (after.balance_pico, after.rollup_pico) == (before.balance_pico, before.rollup_pico)
    assert count(parted, EVENTS) == 5


def test_a_purge_leaves_a_partition_that_is_old_in_part(parted: Engine) -> None:
    """
    Rows go out of the table of before and out of the rest, out of a day only if they are asked to.
    """
    until = START + timedelta(days=8)
    of_before = purge(parted, before=until)
    half_a_day = START + timedelta(days=11, hours=6)

    with_partitions = purge(parted, before=half_a_day)
    by_rows = purge(parted, before=half_a_day, by_rows=True)

    assert (of_before.rows, of_before.partitions) == (8, 0)
    assert (with_partitions.rows, with_partitions.partitions, by_rows.rows) == (3, 1, 1)
    assert count(parted, EVENTS) == count(parted) == 8
    assert books.verify(parted).verified


def test_a_drop_that_was_broken_off_is_finished(parted: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Killed between the sums and the end, the books are closed already, and the next run drops what is left.
    """
    from tokenbudget_mw.database.partitions import retiring

    with monkeypatch.context() as patched:
        patched.setattr(retiring, "_forget_events", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            drop(parted, day(12))
    broken = books.verify(parted)
    purge(parted, before=START)

    assert broken.verified
    assert count(parted, EVENTS) == count(parted) == 19
    with parted.connect() as connection:
        left = connection.execute(text("SELECT COUNT(*) FROM pg_class WHERE relname LIKE 'tokenbudget_usage_gone%'"))
        assert left.scalar() == 0


def test_a_detached_partition_can_come_back(parted: Engine, record: MakeRecord) -> None:
    """
    Detached, its rows count as purged; attached again, as rows; each time the books are closed, and nothing is added twice.
    """
    before = books.verify(parted)

    rows = detach(parted, day(13))
    out = books.verify(parted)
    refused = DatabaseSink(parted).write([record(13, **at(13))])
    late = DatabaseSink(parted).write([record(77, cost_pico=5, **at(13))])
    with pytest.raises(Exception, match="default partition"):
        attach(parted, day(13))
    purge_rest(parted)
    back = attach(parted, day(13))

    after = books.verify(parted)
    assert (rows, out.rows, out.purged, out.verified) == (1, 19, 1, True)
    assert (refused, late, back) == (0, 1, 1)
    assert (after.rows, after.purged, after.verified) == (20, 1, True)
    assert after.balance_pico == before.balance_pico - 5
    assert DatabaseSink(parted).write([record(13, **at(13)), record(77, **at(13))]) == 0
    assert names(parted, attached=False) == []


def purge_rest(engine: Engine) -> None:
    from tokenbudget_mw.database.retention import PurgeReport, _purge_rows

    _purge_rows(engine, REST, START + timedelta(days=99), PurgeReport(0, 0, 0.0), clock=lambda: 0.0, told=None)


def test_a_table_that_was_changed_does_not_come_back(parted: Engine) -> None:
    """
    Rows of which no sums are kept are not attached, and nothing is changed.
    """
    detach(parted, day(13))
    with parted.begin() as connection:
        connection.execute(text(f"UPDATE {day(13)} SET cost_pico = cost_pico + 1"))

    with pytest.raises(ConfigurationError, match="cannot be attached"):
        attach(parted, day(13))

    assert books.verify(parted).verified
    assert names(parted, attached=False) == [day(13)]


def test_a_wrong_name_is_refused(parted: Engine) -> None:
    """
    What is no partition, or cannot be taken out or put in, is named, and what there is.
    """
    wrong: list[tuple[Callable[[Engine, str], int], str]] = [
        (drop, REST), (drop, day(99)), (detach, BEFORE), (attach, day(12)), (attach, "x"), (detach, "tokenbudget_keys"),
    ]  # fmt: skip

    for do, name in wrong:
        with pytest.raises(ConfigurationError, match=r"There is no|no day and no month"):
            do(parted, name)


def test_a_manual_delete_lets_go_of_its_events(parted: Engine) -> None:
    """
    A host that deletes rows by itself leaves no event behind.
    """
    with parted.begin() as connection:
        connection.execute(text("DELETE FROM tokenbudget_usage WHERE sequence IN (3, 12)"))

    assert count(parted, EVENTS) == count(parted) == 18


# -- patience ---------------------------------------------------------------------------------------------------------


def test_a_long_reader_is_waited_for_outside_the_queue(parted: Engine, record: MakeRecord) -> None:
    """
    While somebody reads, a drop steps back again and again, and writers pass; at last it gives up and says so.
    """
    paused: list[float] = []

    def pause(seconds: float) -> None:
        paused.append(DatabaseSink(parted).write([record(100 + len(paused), **at(16))]))
        assert seconds < 1

    def lock(connection: Connection) -> None:
        connection.exec_driver_sql("LOCK TABLE tokenbudget_usage IN ACCESS EXCLUSIVE MODE")

    times = iter([0.0, 1.0, 2.0, 61.0])
    with parted.connect() as reader:
        reader.execute(select(func.count()).select_from(tables.usage))
        with pytest.raises(BusyTableError, match="pg_stat_activity"):
            patiently(parted, lock, clock=lambda: next(times), pause=pause)

    assert paused == [1, 1]


def test_a_proof_sees_one_moment_while_partitions_are_dropped(parted: Engine) -> None:
    """
    A proof that has begun keeps the partitions until it has ended: it never misses rows whose sums it cannot see.
    """
    from tokenbudget_mw.database.engine import snapshot

    seen: list[int] = []
    with snapshot(parted) as connection:
        thread = threading.Thread(target=lambda: seen.append(drop(parted, day(12))))
        thread.start()
        thread.join(0.3)
        seen.append(connection.execute(select(func.count()).select_from(tables.usage)).scalar_one())
    thread.join()

    assert seen == [20, 1]


def test_questions_read_the_partitions_they_need(parted: Engine) -> None:
    """
    The dashboard's questions answer as before, and the last minute looks into one day.
    """
    now = START + timedelta(days=12, hours=1)
    figures = analytics.last_seconds(parted, now=now, seconds=7200)
    page = analytics.log_page(parted, limit=3)
    with parted.connect() as connection:
        created = tables.usage.c.created_at
        wanted = select(func.count()).where(created > now - timedelta(seconds=60), created <= now)
        sql = wanted.compile(connection, compile_kwargs={"literal_binds": True})
        plan = str(connection.exec_driver_sql(f"EXPLAIN {sql}").all())

    assert figures.requests == 1
    assert [row["sequence"] for row in page.rows] == [19, 18, 17]
    assert (day(12) in plan, day(13) in plan) == (True, False)
