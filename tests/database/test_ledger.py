"""
Top-ups, refunds and adjustments: posted once by their key, and proved with everything else.
"""

from __future__ import annotations

import re
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import make_url, select

import tokenbudget_mw
from tokenbudget_mw.database import books, ledger, tables
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.ledger import Entry, EntryConflictError, NoEntryError
from tokenbudget_mw.database.writer import DatabaseSink

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from tokenbudget_mw.values import UsageRecord

    MakeRecord = Callable[..., UsageRecord]

ACME = "tenant:acme"


def test_money_goes_in_and_usage_takes_it(engine: Engine, record: MakeRecord, clock: Callable[[], float]) -> None:
    """
    Top-up, usage, refund and adjustment meet in one balance, and the books agree.
    """
    entry = ledger.topup(engine, ACME, 100, key="pay_1", note="invoice 7", clock=clock)
    DatabaseSink(engine).write([record(1, cost_pico=30)])
    ledger.refund(engine, ACME, 5, key="ticket 9")
    ledger.adjust(engine, ACME, -2, key="2025-10")

    assert entry == Entry(entry.id, ACME, 100, "topup", datetime(2025, 10, 9, 8, 53, 20, tzinfo=UTC), is_new=True)
    assert ledger.balance(engine, ACME) == 100 - 30 + 5 - 2
    assert ledger.balance(engine, "tenant:other") == 0
    assert books.verify(engine).verified


def test_an_entry_names_both_sides(engine: Engine) -> None:
    """
    The ledger shows where money came from and went to; a credit is negative.
    """
    ledger.topup(engine, ACME, 3, key="a", note="n\x00")
    ledger.refund(engine, ACME, 4, key="a")
    ledger.adjust(engine, ACME, -5, key="a")

    found = tables.ledger.c
    with engine.connect() as connection:
        rows = connection.execute(
            select(found.kind, found.contra, found.amount_pico, found.source_id, found.note).order_by(found.kind)
        ).all()
    assert [tuple(row) for row in rows] == [
        ("adjust", "adjustment", 5, "adjust:a", None),
        ("refund", "revenue", -4, "refund:a", None),
        ("topup", "funding", -3, "topup:a", "n\ufffd"),
    ]


def test_t11_the_same_key_posts_once(engine: Engine) -> None:
    """
    A payment that is told twice is put in once, and the second call gets the first one's entry.
    """
    first = ledger.topup(engine, ACME, 100, key="pay_1")
    second = ledger.topup(engine, ACME, 100, key="pay_1", note="again")

    assert (first.is_new, second.is_new) == (True, False)
    assert (second.id, second.created_at, second.change_pico) == (first.id, first.created_at, 100)
    assert ledger.balance(engine, ACME) == 100


@pytest.mark.parametrize(("account", "amount"), [(ACME, 101), ("tenant:other", 100)])
def test_a_key_is_not_used_for_something_else(engine: Engine, account: str, amount: int) -> None:
    """
    The same key with another account or amount is an error that says what it was used for, and posts nothing.
    """
    ledger.topup(engine, ACME, 100, key="pay_1")

    with pytest.raises(EntryConflictError, match=r"used for tenant:acme and \$0.0000000001, not for"):
        ledger.topup(engine, account, amount, key="pay_1")

    assert books.totals(engine)["balance_pico"] == 100


@pytest.mark.parametrize("kind", ["topup", "refund", "adjust"])
def test_what_was_posted_wrongly_is_reversed_once(engine: Engine, kind: str) -> None:
    """
    The opposite of the same two sides is added, once however often it is asked for; the wrong entry stays.
    """
    wrong = getattr(ledger, kind)(engine, ACME, 100, key="pay_1")
    first = ledger.reverse(engine, kind, key="pay_1", note="typed twice")
    second = ledger.reverse(engine, kind, key="pay_1")

    found = tables.ledger.c
    wanted = select(found.id, found.kind, found.contra, found.amount_pico, found.source_id).order_by(found.amount_pico)
    with engine.connect() as connection:
        rows = [tuple(row) for row in connection.execute(wanted)]
    assert (first.is_new, second.is_new, second.id) == (True, False, first.id)
    assert (first.account, first.change_pico, first.kind) == (ACME, -100, "reverse")
    assert rows == [
        (wrong.id, kind, rows[0][2], -100, f"{kind}:pay_1"),
        (first.id, "reverse", rows[0][2], 100, f"reverse:{kind}:pay_1"),
    ]
    assert ledger.balance(engine, ACME) == 0
    assert books.verify(engine).verified


def test_only_what_was_posted_by_hand_is_reversed(sqlite_engine: Engine, record: MakeRecord) -> None:
    """
    Usage, a grant, a reversal and what was never posted cannot be taken back, and nothing is posted.
    """
    DatabaseSink(sqlite_engine).write([record(1, cost_pico=30)])
    ledger.adjust(sqlite_engine, ACME, 5, key="k")
    ledger.reverse(sqlite_engine, "adjust", key="k")

    for kind in ("usage", "grant", "expire", "reverse"):
        with pytest.raises(ValueError, match="can be taken back: topup, refund, adjust"):
            ledger.reverse(sqlite_engine, kind, key="k")
    with pytest.raises(NoEntryError, match="No topup was posted by this key"):
        ledger.reverse(sqlite_engine, "topup", key="k")
    with pytest.raises(ValueError, match="idempotency key"):
        ledger.reverse(sqlite_engine, "topup", key=" ")
    assert ledger.balance(sqlite_engine, ACME) == -30


def test_nothing_changes_or_deletes_an_entry() -> None:
    """
    The ledger is only ever added to: no statement of the package updates it, deletes from it or empties it.
    """
    package = Path(tokenbudget_mw.__file__).parent
    sources = {path: path.read_text(encoding="utf-8") for path in package.rglob("*") if path.suffix in {".py", ".sql"}}
    changing = re.compile(
        r"(update|delete)\((tables\.)?ledger\)|(UPDATE|DELETE FROM|TRUNCATE)\s+tokenbudget_ledger", re.IGNORECASE
    )

    assert any("insert(tables.ledger)" in source for source in sources.values())
    assert [path.name for path, source in sources.items() if changing.search(source)] == []


@pytest.mark.parametrize("amount", [0, -1, 1.5, True])
def test_amounts_are_whole_and_above_zero(sqlite_engine: Engine, amount: int) -> None:
    """
    Neither nothing nor less than nothing nor a float is an amount.
    """
    for post in (ledger.topup, ledger.refund):
        with pytest.raises(ValueError, match="above 0"):
            post(sqlite_engine, ACME, amount, key="k")
    with pytest.raises(ValueError, match="other than 0"):
        ledger.adjust(sqlite_engine, ACME, 0, key="k")


def test_a_sum_that_the_database_cannot_hold_is_refused(engine: Engine) -> None:
    """
    A balance that would pass what its column holds stays as it is, and nothing is posted.
    """
    most = 2**63 - 1 if engine.dialect.name == "sqlite" else 10**38 - 1
    ledger.topup(engine, ACME, most, key="pay_1")

    for amount in (1, most + 1):
        with pytest.raises(ValueError, match="more than the database can hold"):
            ledger.topup(engine, ACME, amount, key="pay_2")

    assert ledger.balance(engine, ACME) == most
    assert books.verify(engine).verified


@pytest.mark.parametrize("key", ["", "  ", "k" * 256, "a\x00", "\ud800"])
def test_a_key_is_required(sqlite_engine: Engine, key: str) -> None:
    """
    An entry without a usable key could be posted twice, so it is refused.
    """
    with pytest.raises(ValueError, match="idempotency key"):
        ledger.topup(sqlite_engine, ACME, 1, key=key)


def test_an_account_is_the_one_that_usage_charges(engine: Engine, record: MakeRecord) -> None:
    """
    Names that have to be mended are mended the same way on both sides.
    """
    odd = "tenant:" + "x" * 300
    ledger.topup(engine, odd, 10, key="k")
    DatabaseSink(engine).write([record(1, account=odd, cost_pico=4)])

    assert ledger.balance(engine, odd) == 6


def test_t15_many_at_once_post_each_key_once(database_url: str) -> None:
    """
    Four threads that post the same four keys to a new account end with four entries.
    """
    engine = open_engine(database_url)
    tables.metadata.create_all(engine)
    posted: list[Entry] = []
    failures: list[Exception] = []

    def post() -> None:
        for number in range(4):
            try:
                posted.append(ledger.topup(engine, ACME, 10**number, key=f"k{number}"))
            except Exception as exc:
                failures.append(exc)

    threads = [threading.Thread(target=post) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    held, verified = ledger.balance(engine, ACME), books.verify(engine).verified
    engine.dispose()
    assert failures == []
    assert (held, verified, sum(entry.is_new for entry in posted)) == (1111, True, 4)


def test_depletion_is_told_with_the_commit(postgres_database: str, record: MakeRecord) -> None:
    """
    PostgreSQL tells listeners once when usage takes a balance to zero or below, and never of a write that is rolled back.
    """
    engine = open_engine(postgres_database)
    tables.metadata.create_all(engine)
    sink = DatabaseSink(engine)
    ledger.topup(engine, ACME, 100, key="a")
    ledger.topup(engine, "key:rich", 10**9, key="b")
    url = make_url(postgres_database).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as listener:
        listener.autocommit = True
        listener.execute("LISTEN tokenbudget_depleted")

        def heard() -> list[str]:
            return [notice.payload for notice in listener.notifies(timeout=0.5, stop_after=1)]

        sink.write([record(1, cost_pico=99), record(2, account="key:rich", cost_pico=5)])
        above = heard()
        with engine.connect() as connection:
            sink._prepare(_write(record(9, cost_pico=50)))(connection)
            connection.rollback()
        rolled_back = heard()
        sink.write([record(3, cost_pico=1), record(4, account="key:postpaid", cost_pico=5)])
        at_zero = heard()
        sink.write([record(5, cost_pico=1)])
        below = heard()

    engine.dispose()
    assert (above, rolled_back, at_zero, below) == ([], [], [ACME], [])


def _write(record: UsageRecord) -> object:
    from tokenbudget_mw.database.writers import Write

    return Write("w", datetime(2025, 1, 1, tzinfo=UTC), [record])
