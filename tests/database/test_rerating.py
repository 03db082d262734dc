"""
Rows that had no price, or a wrong one, are priced again: what changes is posted, once, and the books close as before.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import delete, select, text
from sqlalchemy.exc import OperationalError

from tokenbudget_mw.database import books, ledger, rerating, tables
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.rerating import Selection, rerate
from tokenbudget_mw.database.retention import purge
from tokenbudget_mw.database.writer import DatabaseSink
from tokenbudget_mw.rules.tariffs import Tariffs
from tokenbudget_mw.values import Price

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from tokenbudget_mw.values import UsageRecord

    MakeRecord = Callable[..., UsageRecord]

DAY_US = 86_400_000_000
START_US = 1_760_000_000_123_457
START = datetime(2025, 10, 9, tzinfo=UTC)
ALL = Selection(START, START + timedelta(days=9))
ACME, NINE = "tenant:acme", "key:k9"


def tariffs(*prices: Price) -> Tariffs:
    return Tariffs(prices, lambda _: (), "ceiling", Price("ceiling", "*", 10**6, 10**6), str)


PLAIN = tariffs(Price("p1", "m", 10, 100))


@pytest.fixture
def kept(engine: Engine, record: MakeRecord) -> Engine:
    """
    Rows of 10 + 5 tokens: two of acme's at the ceiling and at a wrong price, one of k9's for nothing, one of nobody's.
    """
    ledger.topup(engine, ACME, 10**9, key="a")
    sink = DatabaseSink(engine)
    sink.write(
        [
            record(1, cost_pico=15 * 10**6, price_kind="ceiling", request_model="m", route="/a", key_id="k1"),
            record(2, cost_pico=601, price_id="p0", response_model="m", request_model="alias"),
        ]
    )
    sink.write(
        [
            record(
                3, cost_pico=0, price_kind="unpriced", request_model="m", account=NINE, created_at_us=START_US + DAY_US
            ),
            record(4, cost_pico=1, request_model="m", account=None),
            record(5, cost_pico=600, price_id="p1", request_model="m"),
            record(6, cost_pico=7, price_kind="ceiling", request_model="unknown"),
            record(7, cost_pico=0, input_tokens=0, output_tokens=0, decision="refused", request_model="m"),
        ]
    )
    return engine


def entries(engine: Engine) -> list[tuple[object, ...]]:
    found = tables.ledger.c
    wanted = select(found.account, found.amount_pico, found.entries, found.note).where(found.kind == "rerate")
    with engine.connect() as connection:
        return sorted(tuple(row) for row in connection.execute(wanted))


def test_without_apply_it_only_tells(kept: Engine) -> None:
    """The report says what would change, for whom, and what still has no price; nothing is written."""
    report = rerate(kept, PLAIN, ALL)

    assert (report.rows, report.changed, report.unpriced) == (6, 4, 1)
    assert report.accounts == {ACME: (600 - 15 * 10**6) + (600 - 601), NINE: 600, "": 599}
    assert entries(kept) == []


def test_changes_are_posted(kept: Engine) -> None:
    """Rows stay as they were; corrections, ledger, balances and rollups take the change, and the books agree."""
    report = rerate(kept, PLAIN, ALL, apply=True, note="list of May")

    after = books.verify(kept)
    acme = (10 * 10 + 5 * 100 - 15 * 10**6) + (600 - 601)
    assert (report.changed, report.unpriced) == (4, 1)
    assert report.accounts == {ACME: acme, NINE: 600, "": 599}
    assert after.differences == ()
    assert after.corrected_pico == report.change_pico == acme + 600 + 599
    assert entries(kept) == [(NINE, 600, 1, "list of May"), (ACME, acme, 2, "list of May")]
    assert ledger.balance(kept, ACME) == 10**9 - (600 + 600 + 600 + 7)
    assert ledger.balance(kept, NINE) == -600
    assert (after.usage_pico, after.unowned_pico) == (15 * 10**6 + 601 + 600 + 7, 1)
    assert after.rollup_pico == 5 * 600 + 7


def test_again_changes_nothing(kept: Engine) -> None:
    """The second run finds every row at its price."""
    rerate(kept, PLAIN, ALL, apply=True)
    posted = entries(kept)

    report = rerate(kept, PLAIN, ALL, apply=True)

    assert (report.rows, report.changed, report.change_pico) == (6, 0, 0)
    assert entries(kept) == posted


def test_a_price_that_was_wrong_again(kept: Engine) -> None:
    """A third price corrects what is left to it; all corrections of a row add up to the last price."""
    rerate(kept, PLAIN, ALL, apply=True)
    rerate(kept, tariffs(Price("p2", "m", 0, 1)), ALL, apply=True)

    corrections = tables.corrections.c
    wanted = select(corrections.number, corrections.change_pico, corrections.cost_pico, corrections.price_id)
    with kept.connect() as connection:
        found = connection.execute(wanted.where(corrections.usage_id == "r2").order_by(corrections.number)).all()
    assert [tuple(row) for row in found] == [(1, -1, 600, "p1"), (2, -595, 5, "p2")]
    assert books.verify(kept).verified
    assert ledger.balance(kept, ACME) == 10**9 - 15 - 7


@pytest.mark.parametrize(
    ("selection", "changed"),
    [
        (Selection(START, START + timedelta(days=9), unpriced=True), {ACME, NINE}),
        (Selection(START, START + timedelta(days=9), account=NINE), {NINE}),
        (Selection(START + timedelta(days=1), START + timedelta(days=9)), {NINE}),
        (Selection(START, START + timedelta(days=9), model="alias"), set()),
        (Selection(START - timedelta(days=9), START), set()),
    ],
)
def test_only_what_is_selected(kept: Engine, selection: Selection, changed: set[str]) -> None:
    """Time, account, model and "had no price" narrow the rows down."""
    assert set(rerate(kept, PLAIN, selection, apply=True).accounts) == changed
    assert books.verify(kept).verified


def test_the_price_is_that_of_its_time_and_purpose(engine: Engine, record: MakeRecord) -> None:
    """A batch key's row gets the price that held when its batch was made; the others that of their own moment."""
    batch = {"purpose": "batch", "completion_window": "24h", "batch_created_at_us": START_US - DAY_US}
    DatabaseSink(engine).write(
        [
            record(1, request_model="m", cost_pico=0, **batch),
            record(2, request_model="m", cost_pico=0, **batch | {"purpose": "realtime"}),
            record(3, request_model="m", cost_pico=0, service_tier="flex"),
            record(4, request_model="m", cost_pico=0, input_tokens=101, audio_input_tokens=100, audio_output_tokens=3),
        ]
    )
    new = START_US / 10**6 - 1
    prices = tariffs(
        Price("old", "m", 1, 0, purpose="batch", valid_until=new),
        Price("batch", "m", 2, 0, purpose="batch", valid_from=new),
        Price("plain", "m", 3, 0),
        Price("flex", "m", 4, 0, service_tier="flex"),
        Price("long", "m", 5, 0, above_input=100, audio_input=7, audio_output=9),
    )

    rerate(engine, prices, ALL, apply=True)

    corrections = tables.corrections.c
    with engine.connect() as connection:
        wanted = select(corrections.price_id, corrections.change_pico).order_by(corrections.usage_id)
        found = [tuple(row) for row in connection.execute(wanted)]
    assert found == [("old", 10), ("plain", 30), ("flex", 40), ("long", 1 * 5 + 100 * 7 + 3 * 9)]


def test_a_model_that_is_free(engine: Engine, record: MakeRecord) -> None:
    """A row that was charged nothing for want of a price, and costs nothing, has a price from then on."""
    DatabaseSink(engine).write([record(1, request_model="m", cost_pico=0, price_kind="unpriced")])
    free = tariffs(Price("free", "m", 0, 0))

    reports = [rerate(engine, free, ALL, apply=True) for _ in range(2)]

    assert [(report.changed, report.change_pico) for report in reports] == [(1, 0), (0, 0)]
    assert entries(engine) == [(ACME, 0, 1, None)]
    assert books.verify(engine).verified


def test_more_rows_than_a_batch(engine: Engine, record: MakeRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are gone through in batches, each row once, also where many share a moment."""
    monkeypatch.setattr(rerating, "BATCH", 4)
    DatabaseSink(engine).write([record(n, request_model="m", cost_pico=n) for n in range(1, 12)])

    report = rerate(engine, PLAIN, ALL, apply=True)

    assert (report.rows, report.changed) == (11, 11)
    assert ledger.balance(engine, ACME) == -11 * 600
    assert books.verify(engine).verified


def test_purged_rows_keep_their_corrections(kept: Engine) -> None:
    """Retention deletes rows, not what was charged for them later: the books still close."""
    rerate(kept, PLAIN, ALL, apply=True)
    purge(kept, before=START + timedelta(days=1))

    report = books.verify(kept)

    assert report.differences == ()
    assert report.purged == 6
    assert rerate(kept, PLAIN, ALL, apply=True).rows == 1


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE tokenbudget_corrections SET change_pico = change_pico + 1 WHERE usage_id = 'r3'", {"entry", "rollup"}),
        ("DELETE FROM tokenbudget_ledger WHERE kind = 'rerate' AND account = 'key:k9'", {"entry", "balance"}),
    ],
)
def test_whatever_is_changed_is_found(kept: Engine, statement: str, found: set[str]) -> None:
    """A correction that was changed, or whose entry is gone, is listed."""
    rerate(kept, PLAIN, ALL, apply=True)
    with kept.begin() as connection:
        assert connection.execute(text(statement)).rowcount == 1

    assert {difference.kind for difference in books.verify(kept).differences} == found


def test_t15_two_at_once_are_as_good_as_one(database_url: str, record: MakeRecord) -> None:
    """Threads that price the same rows again, while new rows are written, correct each row once."""
    engine = open_engine(database_url)
    tables.metadata.create_all(engine)
    sink = DatabaseSink(engine)
    sink.write([record(n, request_model="m", cost_pico=1, account=f"key:{n % 3}") for n in range(60)])
    failures: list[Exception] = []

    def work(number: int) -> None:
        try:
            rerate(engine, PLAIN, ALL, apply=True)
            sink.write([record(100 + number, request_model="m", cost_pico=1)])
        except Exception as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rerate(engine, PLAIN, ALL, apply=True)

    report = books.verify(engine)
    engine.dispose()
    assert failures == []
    assert report.differences == ()
    assert report.rollup_pico == 63 * 600


def test_a_fault_leaves_nothing_half_done(kept: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the last step of a batch fails nothing of it is there."""
    monkeypatch.setattr(rerating, "add_to", lambda *_: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        rerate(kept, PLAIN, ALL, apply=True)

    assert (entries(kept), books.verify(kept).differences) == ([], ())


def test_a_batch_that_a_deadlock_ends_is_begun_anew(kept: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the database has taken back is posted, and told, once."""
    told = rerate(kept, PLAIN, ALL)
    add_to, ended = rerating.add_to, [OperationalError("", None, Exception(1213, "Deadlock found"))]

    def end_once(*arguments: Any) -> None:
        add_to(*arguments)
        if ended:
            raise ended.pop()

    monkeypatch.setattr(rerating, "add_to", end_once)

    assert rerate(kept, PLAIN, ALL, apply=True) == told
    assert (ended, books.verify(kept).differences) == ([], ())
    assert rerate(kept, PLAIN, ALL).changed == 0


def test_rollups_that_are_gone_are_told(kept: Engine) -> None:
    """The comparison with rows and corrections itself sees a rollup that is not there."""
    rerate(kept, PLAIN, ALL, apply=True)
    with kept.begin() as connection:
        connection.execute(delete(tables.rollup_subjects))

    expected = [d.expected_pico for d in books.verify(kept).differences if d.figure == "cost_pico" and NINE in d.place]
    assert expected == [600]
