"""
The sink: every record once, every pico-dollar once, on every database.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, event, insert, select, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from tokenbudget_mw.accounting.flusher import Flusher
from tokenbudget_mw.accounting.spool import MemorySpool
from tokenbudget_mw.database import books, tables
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.rollups import ROLLUPS
from tokenbudget_mw.database.writer import DatabaseSink
from tokenbudget_mw.database.writers import find_writer
from tokenbudget_mw.errors import ConfigurationError, PermanentSinkError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from tokenbudget_mw.values import UsageRecord

    MakeRecord = Callable[..., UsageRecord]


def balances(engine: Engine) -> dict[str, int]:
    with engine.connect() as connection:
        found = connection.execute(select(tables.balances.c.account, tables.balances.c.balance_pico))
        return dict(found.all())


def entries(engine: Engine) -> list[tuple[str, int, int]]:
    ledger = tables.ledger.c
    with engine.connect() as connection:
        found = connection.execute(
            select(ledger.account, ledger.amount_pico, ledger.entries).order_by(ledger.source_id)
        )
        return [tuple(row) for row in found]


def count(engine: Engine) -> int:
    return books.totals(engine)["rows"]


def test_every_field_comes_back(engine: Engine, record: MakeRecord) -> None:
    """
    A row holds what the record held, moments as aware moments in UTC.
    """
    full = record(
        7,
        status=200,
        duration_us=12,
        first_byte_us=5,
        request_model="gpt-4o",
        is_stream=True,
        server_port=8000,
        key_id="k1",
        batch_created_at_us=1_700_000_000_000_001,
        tags={"größe": "ß", "a": "1"},
        trace_id="0af7651916cd43dd8448eb211c80319c",
    )

    DatabaseSink(engine).write([full])

    with engine.connect() as connection:
        row = connection.execute(select(tables.usage)).mappings().one()
    assert row["created_at"] == datetime(2025, 10, 9, 8, 53, 20, 123_457, UTC)
    assert row["batch_created_at"] == datetime(2023, 11, 14, 22, 13, 20, 1, UTC)
    assert row["tags"] == '{"a":"1","größe":"ß"}'
    same = set(full.__struct_fields__) - {"created_at_us", "batch_created_at_us", "tags"}
    assert {name: row[name] for name in same} == {name: getattr(full, name) for name in same}


def test_a_write_makes_one_entry_an_account_and_lowers_its_balance(engine: Engine, record: MakeRecord) -> None:
    """
    Rows of two accounts become two entries, and each balance goes down by its rows' cost.
    """
    sink = DatabaseSink(engine)

    added = sink.write(
        [record(1, cost_pico=3), record(2, cost_pico=4), record(3, account="key:k9", cost_pico=5)],
    )
    sink.write([record(4, cost_pico=10)])

    assert added == 3
    assert sorted(entries(engine)) == [("key:k9", 5, 1), ("tenant:acme", 7, 2), ("tenant:acme", 10, 1)]
    assert balances(engine) == {"tenant:acme": -17, "key:k9": -5}
    assert books.verify(engine).verified


def rollups(engine: Engine) -> dict[str, list[tuple[object, ...]]]:
    with engine.connect() as connection:
        return {
            rollup.table.name.removeprefix("tokenbudget_rollup_"): [
                tuple(row)
                for row in connection.execute(
                    select(*(rollup.table.c[name] for name in (*rollup.keys, *tables.FIGURES))).order_by(
                        *(rollup.table.c[name] for name in rollup.keys)
                    )
                )
            ]
            for rollup in ROLLUPS
        }


def test_a_write_adds_to_the_rollups(engine: Engine, record: MakeRecord) -> None:
    """
    Usage is added up by day, subject and model, by hour, model and route, and by day, model and route.
    """
    sink = DatabaseSink(engine)
    late = {"created_at_us": int(datetime(2025, 10, 9, 23, 59, 59, 999_999, UTC).timestamp()) * 10**6 + 999_999}
    gpt = {"request_model": "gpt", "response_model": "gpt-4o", "route": "/chat", "duration_us": 7}
    claude = {"request_model": "claude", "key_id": "k9", "account": None, "route": "/chat"}

    sink.write([record(1, cost_pico=3, status=200, **gpt), record(2, cost_pico=4, status=500, **gpt)])
    sink.write([record(2, cost_pico=4, status=500, **gpt), record(3, cost_pico=5, cache_read_tokens=2, **gpt, **late)])
    sink.write([record(4, cost_pico=0, decision="refused", status=429, input_tokens=0, output_tokens=0, **claude)])

    day, morning, night = (datetime(2025, 10, 9, hour, tzinfo=UTC) for hour in (0, 8, 23))
    refused = (1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    whole = (3, 0, 1, 30, 15, 2, 0, 0, 0, 21, 12)
    assert rollups(engine) == {
        "subjects": [("", day, "k9", "claude", *refused), ("tenant:acme", day, "", "gpt-4o", *whole)],
        "hours": [
            (morning, "claude", "/chat", *refused),
            (morning, "gpt-4o", "/chat", 2, 0, 1, 20, 10, 0, 0, 0, 0, 14, 7),
            (night, "gpt-4o", "/chat", 1, 0, 0, 10, 5, 2, 0, 0, 0, 7, 5),
        ],
        "days": [(day, "claude", "/chat", *refused), (day, "gpt-4o", "/chat", *whole)],
    }
    assert books.verify(engine).verified


def test_a_rollup_that_sqlite_cannot_hold_is_refused(sqlite_engine: Engine, record: MakeRecord) -> None:
    """
    Where numbers end at 2^63, a sum beyond it is an error and never a float.
    """
    sink = DatabaseSink(sqlite_engine)
    sink.write([record(1, input_tokens=2**63 - 1)])

    with pytest.raises(PermanentSinkError):
        sink.write([record(2, input_tokens=1)])
    sink.write([record(3, input_tokens=0)])

    assert rollups(sqlite_engine)["days"][0][3:7] == (2, 0, 0, 2**63 - 1)
    assert books.verify(sqlite_engine).verified


def test_an_entry_leads_to_its_rows(engine: Engine, record: MakeRecord) -> None:
    """
    The requests behind an entry are found by its instance, sequences, write and account.
    """
    sink = DatabaseSink(engine)
    sink.write([record(1), record(2, account="key:k9"), record(3)])

    usage, ledger = tables.usage.c, tables.ledger.c
    with engine.connect() as connection:
        entry = connection.execute(select(tables.ledger).where(ledger.account == "tenant:acme")).mappings().one()
        found = connection.scalars(
            select(usage.id).where(
                usage.instance_id == entry["instance_id"],
                usage.sequence.between(entry["first_sequence"], entry["last_sequence"]),
                usage.write_id == entry["write_id"],
                usage.account == entry["account"],
            )
        ).all()

    assert (entry["kind"], entry["contra"], entry["entries"]) == ("usage", "revenue", 2)
    assert sorted(found) == ["r1", "r3"]


def test_t04_a_price_of_zero_makes_a_row_and_no_entry(engine: Engine, record: MakeRecord) -> None:
    """
    What costs nothing, and what nobody owns, is kept as usage and touches no balance.
    """
    added = DatabaseSink(engine).write(
        [record(1, cost_pico=0), record(2, account=None), record(3, account=None, cost_pico=0)]
    )

    assert added == count(engine) == 3
    assert entries(engine) == []
    assert balances(engine) == {}
    assert books.verify(engine).verified


def test_t11_the_same_events_twice_count_once(engine: Engine, record: MakeRecord) -> None:
    """
    A batch written again, and batches with other borders, add only what is new.
    """
    sink = DatabaseSink(engine)
    records = [record(sequence, cost_pico=sequence) for sequence in range(1, 11)]

    added = [sink.write(records[:6]), sink.write(records[:6]), sink.write(records[3:8]), sink.write(records)]

    assert added == [6, 0, 2, 2]
    assert balances(engine) == {"tenant:acme": -55}
    assert [amount for _, amount, _ in entries(engine)] == [21, 15, 19]
    assert books.verify(engine).verified


def test_t11_the_same_event_twice_in_one_batch_counts_once(engine: Engine, record: MakeRecord) -> None:
    """
    A double within a batch is no error and no second charge; what came first holds.
    """
    doubles = [record(1, cost_pico=cost) for cost in (5, 5, 9, 3, 8)]
    added = DatabaseSink(engine).write([*doubles, record(2, cost_pico=1)])

    assert added == 2
    assert balances(engine) == {"tenant:acme": -6}


def test_t11_the_same_id_from_another_instance_counts_once(engine: Engine, record: MakeRecord) -> None:
    """
    An event that a client sends to two processes is one by its id.
    """
    sink = DatabaseSink(engine)
    sink.write([record(1, id="event", cost_pico=5)])

    added = sink.write(
        [record(1, id="event", instance_id="other", cost_pico=5), record(2, instance_id="other", cost_pico=1)]
    )

    assert added == 1
    assert balances(engine) == {"tenant:acme": -6}
    assert books.verify(engine).verified


def test_records_of_two_instances_share_a_batch(engine: Engine, record: MakeRecord) -> None:
    """
    A batch may hold records of several processes: each has its own entry, the account one balance.
    """
    DatabaseSink(engine).write([record(1, instance_id="a", cost_pico=1), record(1, instance_id="b", cost_pico=2)])

    assert entries(engine) == [("tenant:acme", 1, 1), ("tenant:acme", 2, 1)]
    assert balances(engine) == {"tenant:acme": -3}


def test_accounts_are_told_apart_byte_by_byte(engine: Engine, record: MakeRecord) -> None:
    """
    Case, accents and spaces at the end make another account, on MySQL too.
    """
    names = ["tenant:acme", "tenant:ACME", "tenant:ácme", "tenant:acme ", "tenant:" + "x" * 300, "tenant:" + "x" * 301]

    DatabaseSink(engine).write([record(n, account=name, cost_pico=1) for n, name in enumerate(names)])

    assert list(balances(engine).values()) == [-1] * len(names)
    assert books.verify(engine).verified


def test_a_batch_may_have_any_number_of_accounts(engine: Engine, record: MakeRecord) -> None:
    """
    Thousands of accounts in a batch meet no limit on parameters, and known balances among them are found.
    """
    sink = DatabaseSink(engine)
    records = [record(n, account=f"tenant:{n}", cost_pico=1) for n in range(1200)]
    sink.write(records[:700])

    sink.write([record(n + 5000, account=f"tenant:{n}", cost_pico=1) for n in range(1200)])

    assert Counter(balances(engine).values()) == {-2: 700, -1: 500}
    assert books.verify(engine).verified


def test_an_empty_batch_asks_nothing(engine: Engine) -> None:
    """
    Nothing to write is no transaction.
    """
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))

    assert DatabaseSink(engine).write([]) == 0
    assert statements == []


def test_postgresql_writes_a_batch_by_one_statement(postgres_database: str, record: MakeRecord) -> None:
    """
    Rows, entries and balances go in one round trip with one parameter for all rows.
    """
    engine = open_engine(postgres_database)
    tables.metadata.create_all(engine)
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))

    DatabaseSink(engine).write([record(sequence) for sequence in range(500)])

    engine.dispose()
    assert len(statements) == 1


def test_t14_a_poison_row_does_not_stay_in_the_way(engine: Engine, record: MakeRecord) -> None:
    """
    Text that databases refuse is mended; a number that fits nowhere refuses its batch for good, and goes to the dead
    letters alone; the others commit.
    """
    mended = [
        record(1, path="/a\x00b", request_model="\ud800", cost_pico=1),
        record(2, path="/" + "x" * 5000, tags={"big": "y" * 1_000_000, "\x00": "\udfff"}, cost_pico=1),
        record(3, user_id="u" * 1000, custom_id="\x00", cost_pico=1),
    ]
    poison = [record(4, cost_pico=2**63), record(5, cost_pico=float("nan")), record(6, input_tokens=10**30)]
    with pytest.raises(PermanentSinkError):
        DatabaseSink(engine).write([*mended, *poison])
    before = count(engine)
    spool = MemorySpool()
    flusher = Flusher(spool, DatabaseSink(engine), threads=False)
    for one in (poison[0], *mended, *poison[1:], record(7, cost_pico=1)):
        spool.put(one)
    assert flusher.flush()

    assert (before, count(engine)) == (0, 4)
    assert [letter.record.sequence for letter in flusher.dead_letters.letters()] == [4, 5, 6]
    assert balances(engine) == {"tenant:acme": -4}
    with engine.connect() as connection:
        assert connection.scalar(select(tables.usage.c.path).where(tables.usage.c.id == "r1")) == "/a\ufffdb"
    assert books.verify(engine).verified


def test_t14_what_the_database_itself_refuses_is_permanent(engine: Engine, record: MakeRecord) -> None:
    """
    A constraint violation inside the database refuses the batch for good, and leaves nothing of it behind.
    """
    sink = DatabaseSink(engine)
    sink.write([record(1)])
    with engine.begin() as connection:
        connection.execute(delete(tables.usage))  # as retention does; the entry's source id remains

    with pytest.raises(PermanentSinkError):
        sink.write([record(1)])

    assert count(engine) == 0
    assert len(entries(engine)) == 1


@pytest.mark.parametrize("field", ["method", "created_at_us", "input_tokens", "cost_pico", "tags"])
def test_t14_a_row_without_a_needed_value_is_permanent(engine: Engine, record: MakeRecord, field: str) -> None:
    """
    A record that lacks what the table needs is refused by the database, for good.
    """
    with pytest.raises(PermanentSinkError):
        DatabaseSink(engine).write([record(1, **{field: None})])


def test_balances_beyond_64_bits_stay_exact(engine: Engine, record: MakeRecord) -> None:
    """
    Where the database has wider numbers, sums pass 9.2 million dollars; on SQLite the write is refused, never rounded.
    """
    sink = DatabaseSink(engine)
    most = 2**63 - 1
    sink.write([record(1, cost_pico=most)])

    if engine.dialect.name == "sqlite":
        with pytest.raises(PermanentSinkError):
            sink.write([record(2, cost_pico=2)])
        assert balances(engine) == {"tenant:acme": -most}
    else:
        sink.write([record(2, cost_pico=most), record(3, cost_pico=most)])
        assert balances(engine) == {"tenant:acme": -3 * most}
    assert books.verify(engine).verified


def test_missing_tables_are_transient_and_told_once(
    database_url: str, record: MakeRecord, caplog: pytest.LogCaptureFixture
) -> None:
    """
    Without the tables records wait, one log line says what to run, and the write succeeds once they are there.
    """
    engine = open_engine(database_url)
    sink = DatabaseSink(engine)

    with caplog.at_level(logging.ERROR, "tokenbudget_mw"):
        for _ in range(3):
            with pytest.raises(SQLAlchemyError):
                sink.write([record(1)])
    tables.metadata.create_all(engine)
    added = sink.write([record(1)])

    engine.dispose()
    assert added == 1
    assert [line.getMessage().count("tokenbudget-mw migrate") for line in caplog.records] == [1]


def test_a_lock_is_transient(sqlite_engine: Engine, record: MakeRecord) -> None:
    """
    A busy SQLite is no reason to give a record up.
    """
    impatient = open_engine(sqlite_engine.url)
    event.listen(impatient, "connect", lambda connection, _: connection.execute("PRAGMA busy_timeout = 0"))
    sink = DatabaseSink(impatient)

    with sqlite_engine.begin() as holder:
        holder.execute(text("SELECT 1"))
        with pytest.raises(OperationalError, match="locked"):
            sink.write([record(1)])
    added = sink.write([record(1)])

    impatient.dispose()
    assert added == 1


def test_a_database_that_is_away_is_transient(record: MakeRecord) -> None:
    """
    No connection is an error that can be tried again.
    """
    engine = open_engine("postgresql+psycopg://nobody:s3cret@127.0.0.1:9/none")

    with pytest.raises(OperationalError) as caught:
        DatabaseSink(engine).write([record(1)])

    assert "s3cret" not in str(caught.value)


def test_an_unknown_dialect_is_a_configuration_error() -> None:
    """
    A dialect without a writer is named, with those that have one.
    """
    with pytest.raises(ConfigurationError, match=r"'oracle'\. Known: sqlite, postgresql"):
        find_writer("oracle")


def test_t15_four_writers_never_deadlock(database_url: str, record: MakeRecord) -> None:
    """
    Four writers that charge the same accounts, in orders of their own, all get through, and the books agree.
    """
    setup = open_engine(database_url)
    tables.metadata.create_all(setup)
    failures: list[Exception] = []
    accounts = [f"tenant:{number}" for number in range(12)]

    def run(writer: int) -> None:
        engine = open_engine(database_url)
        sink = DatabaseSink(engine)
        for batch in range(15):
            turn = accounts[(writer * 5 + batch) % 12 :] + accounts[: (writer * 5 + batch) % 12]
            records = [
                record(batch * 12 + at, instance_id=f"w{writer}", account=account, cost_pico=1 + at)
                for at, account in enumerate(turn[:: 1 if writer % 2 else -1])
            ]
            try:
                sink.write(records)
            except SQLAlchemyError as exc:
                failures.append(exc)
        engine.dispose()

    threads = [threading.Thread(target=run, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    report = books.verify(setup)
    setup.dispose()
    assert failures == []
    assert (report.rows, report.verified) == (4 * 15 * 12, True)
    assert report.balance_pico == -4 * 15 * sum(range(1, 13))


@pytest.mark.parametrize(
    ("table", "column"),
    [("balances", "account"), ("rollup_subjects", "account"), ("rollup_hours", "model"), ("rollup_days", "model")],
)
def test_t15_postgresql_locks_by_code_points_whatever_its_language(
    postgres_database: str, record: MakeRecord, table: str, column: str
) -> None:
    """
    A writer locks B before a, as a re-rating does, which Python sorts for; a database in English would sort a before B.
    """
    engine = open_engine(postgres_database)
    tables.metadata.create_all(engine)
    with engine.begin() as connection:
        if connection.execute(text("SELECT 1 FROM pg_collation WHERE collname = 'en-x-icu'")).first() is None:
            pytest.skip("this PostgreSQL was built without languages")
        for name, texts in {"usage": ("account", "response_model"), "ledger": ("account",)}.items():
            for each in texts:
                english = f'ALTER COLUMN {each} TYPE varchar(255) COLLATE "en-x-icu"'
                connection.execute(text(f"ALTER TABLE tokenbudget_{name} {english}"))

    def write(first: int) -> None:
        names = enumerate(("a", "B"), start=first)
        DatabaseSink(engine).write([record(at, account=name, response_model=name) for at, name in names])

    write(1)
    writing = threading.Thread(target=write, args=(3,))
    waits = "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = CURRENT_DATABASE()"
    lock = f"SELECT 1 FROM tokenbudget_{table} WHERE {column} = :name FOR UPDATE NOWAIT"
    with engine.begin() as holder, engine.connect() as other:
        holder.execute(text(lock), {"name": "B"})
        writing.start()
        while not other.scalar(text(waits)):
            other.rollback()
        assert other.execute(text(lock), {"name": "a"}).all()
    writing.join()
    engine.dispose()


EVENTS = st.tuples(
    st.sampled_from(["a", "b"]),
    st.integers(1, 6),
    st.sampled_from([None, "tenant:x", "tenant:y"]),
    st.sampled_from([0, 1, 7, 10**15]),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(EVENTS, max_size=6), max_size=5))
def test_t11_any_history_of_batches_is_booked_once(
    sqlite_engine: Engine, record: MakeRecord, batches: list[list[tuple[str, int, str | None, int]]]
) -> None:
    """
    Whatever batches come, in whatever order and how often, the first of each event counts, and no other.
    """
    with sqlite_engine.begin() as connection:
        for table in tables.metadata.sorted_tables:
            connection.execute(delete(table))
    sink = DatabaseSink(sqlite_engine)
    first: dict[tuple[str, int], tuple[str | None, int]] = {}

    for batch in batches:
        new = len(first)
        for instance, sequence, account, cost in batch:
            first.setdefault((instance, sequence), (account, cost))
        added = sink.write([record(n, instance_id=i, account=account, cost_pico=cost) for i, n, account, cost in batch])
        assert added == len(first) - new

    expected: Counter[str] = Counter()
    for account, cost in first.values():
        if account is not None and cost:
            expected[account] -= cost
    assert balances(sqlite_engine) == dict(expected)
    assert books.verify(sqlite_engine).verified


def test_topups_and_usage_share_a_balance(engine: Engine, record: MakeRecord) -> None:
    """
    Usage takes from what was put in, and an entry of any kind keeps the proof whole.
    """
    at = datetime(2025, 1, 1, tzinfo=UTC)
    topup = {"id": "t1", "account": "tenant:acme", "contra": "bank", "amount_pico": -100, "kind": "topup"}
    with engine.begin() as connection:
        connection.execute(
            insert(tables.ledger).values(topup | {"source_id": "topup:1", "entries": 1, "created_at": at})
        )
        connection.execute(insert(tables.balances).values(account="tenant:acme", balance_pico=100, updated_at=at))

    DatabaseSink(engine).write([record(1, cost_pico=30)])

    assert balances(engine) == {"tenant:acme": 70}
    assert books.verify(engine).verified
