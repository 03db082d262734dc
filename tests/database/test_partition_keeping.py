"""
Partitions made, dropped, detached and attached: the books are closed at every step.
"""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from partition_rig import NOW, START, at, count, day, names
from sqlalchemy import func, select, text

from tokenbudget_mw.database import analytics, books, tables
from tokenbudget_mw.database.partitions.catalog import BEFORE, EVENTS, REST
from tokenbudget_mw.database.partitions.making import make_ahead
from tokenbudget_mw.database.partitions.patience import BusyTableError, patiently
from tokenbudget_mw.database.partitions.retiring import attach, detach, drop
from tokenbudget_mw.database.retention import purge
from tokenbudget_mw.database.writer import DatabaseSink
from tokenbudget_mw.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, Engine

    from tokenbudget_mw.values import UsageRecord

    MakeRecord = Callable[..., UsageRecord]

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
    What came for its time meanwhile went to the rest, and goes along.
    """
    before = books.verify(parted)

    rows = detach(parted, day(13))
    out = books.verify(parted)
    refused = DatabaseSink(parted).write([record(13, **at(13))])
    late = DatabaseSink(parted).write([record(77, cost_pico=5, **at(13))])
    back = attach(parted, day(13))

    after = books.verify(parted)
    assert (rows, out.rows, out.purged, out.verified) == (1, 19, 1, True)
    assert (refused, late, back) == (0, 1, 1)
    assert (after.rows, after.purged, after.verified) == (21, 0, True)
    assert (count(parted, day(13)), count(parted, REST)) == (2, 0)
    assert after.balance_pico == before.balance_pico - 5
    assert DatabaseSink(parted).write([record(13, **at(13)), record(77, **at(13))]) == 0
    assert names(parted, attached=False) == []


def test_a_partition_from_before_a_migration_can_come_back(parted: Engine) -> None:
    """
    It gets the columns and indexes that the usage table has got while it was away.
    """
    rows = detach(parted, day(13))
    with parted.begin() as connection:
        connection.execute(text("ALTER TABLE tokenbudget_usage ADD newer_tokens BIGINT, ADD newer_name VARCHAR(64)"))
        connection.execute(text("CREATE INDEX tokenbudget_usage_newer_ix ON tokenbudget_usage (newer_name)"))

    back = attach(parted, day(13))

    assert back == rows
    assert books.verify(parted).verified


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
