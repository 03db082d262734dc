"""
Accounts that must have money: the word that one has none reaches every process, and only when it is true.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asgi_rig import Rig, chat, status_of
from sqlalchemy import Engine

from tokenbudget_mw.database import ledger, tables
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.writer import DatabaseSink
from tokenbudget_mw.database.writers import Write, find_writer
from tokenbudget_mw.upkeep.prepaid import FORGOTTEN, Prepaid
from tokenbudget_mw.values import UsageRecord

HERE = Path(__file__).parent
ACCOUNT = "key:k1"


class Balances:
    """Balances as a test sets them."""

    def __init__(self, *funded: str) -> None:
        self.rich = set(funded)
        self.reads: list[tuple[str, ...]] = []
        self.fails = False

    def funded(self, accounts: Iterable[str]) -> set[str]:
        self.reads.append(tuple(sorted(accounts)))
        if self.fails:
            raise OSError
        return self.rich & set(accounts)

    def listen(self) -> None:
        return None


class Timer:
    """A timer that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def balances() -> Balances:
    return Balances("rich")


@pytest.fixture
def timer() -> Timer:
    return Timer()


@pytest.fixture
def prepaid(balances: Balances, timer: Timer) -> Iterator[Prepaid]:
    """Its thread has nothing to do for an hour: the test looks."""
    prepaid = Prepaid(lambda: balances, every=3600.0, timer=timer)
    yield prepaid
    prepaid.close()


def test_an_account_is_asked_about_once(prepaid: Prepaid, balances: Balances) -> None:
    """The first request of an account waits for its balance; further ones do not. Nobody is nobody's account."""
    prepaid.look()  # the thread's first look is over, or finds nobody
    assert [prepaid.has_money("rich"), prepaid.has_money("rich"), prepaid.has_money("poor")] == [True, True, False]
    assert prepaid.has_money(None)
    assert asyncio.run(prepaid.ahas_money("rich"))
    assert asyncio.run(prepaid.ahas_money("new")) is False
    assert [each for each in balances.reads if len(each) == 1] == [("rich",), ("poor",), ("new",)]


def test_a_look_reads_those_that_asked(prepaid: Prepaid, balances: Balances) -> None:
    """One read for all that have asked since the last look; what has changed holds from then on, both ways."""
    prepaid.has_money("rich"), prepaid.has_money("poor")
    balances.rich = {"poor"}
    balances.reads.clear()
    prepaid.look()
    prepaid.look()

    assert balances.reads == [("poor", "rich")]
    assert (prepaid.has_money("rich"), prepaid.has_money("poor")) == (False, True)


def test_who_is_heard_of_is_read_only_where_known(prepaid: Prepaid, balances: Balances) -> None:
    """A word about an account that this process does not serve costs it nothing."""
    prepaid.has_money("rich")
    prepaid.look()
    balances.reads.clear()
    prepaid.look(["rich", "stranger"])

    assert balances.reads == [("rich",)]


def test_an_account_that_was_silent_for_long_is_read_again(prepaid: Prepaid, balances: Balances, timer: Timer) -> None:
    """What is known of it is too old to let it pass."""
    prepaid.has_money("rich")
    balances.rich = set()
    timer.now += FORGOTTEN
    before = prepaid.has_money("rich")
    timer.now += 1.0

    assert (before, prepaid.has_money("rich")) == (True, False)


def test_while_the_database_is_away_what_is_known_stands(
    prepaid: Prepaid, balances: Balances, caplog: pytest.LogCaptureFixture
) -> None:
    """An account without money stays refused, a new one passes, and the log says it once."""
    prepaid.has_money("poor")
    balances.fails = True
    for _ in range(3):
        prepaid.look()
        prepaid.has_money("new")

    assert (prepaid.has_money("poor"), prepaid.has_money("new")) == (False, True)
    assert caplog.text.count("cannot be read (OSError)") == 1


# -- in the middleware ------------------------------------------------------------------------------------------------


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


@pytest.mark.parametrize(
    ("settings", "money", "status", "row"),
    [
        ({"prepaid": True}, 0, 402, ("refused", "balance")),
        ({"prepaid": True}, 10**12, 200, ("admitted", None)),
        ({"prepaid": True, "mode": "shadow"}, 0, 200, ("shadow_refused", "balance")),
        ({}, 0, 200, ("admitted", None)),
    ],
)
def test_an_account_without_money_is_refused(
    settings: Any, money: int, status: int, row: Any, sqlite_database: str
) -> None:
    """Refused with 402 and no reason to try again; in shadow mode its row says so; postpaid accounts know nothing of it."""
    engine = open_engine(sqlite_database)
    tables.metadata.create_all(engine)
    if money:
        ledger.topup(engine, ACCOUNT, money, key="a")
    rig = Rig(app, database=sqlite_database, **settings)

    sent = rig.run(chat())

    (record,) = rig.rows()
    assert status_of(sent) == status
    assert (record.decision, record.limit_name) == row
    if status == 402:
        assert (b"x-should-retry", b"false") in sent[0]["headers"]
        assert json.loads(sent[1]["body"])["error"]["code"] == "insufficient_quota"
    rig.core.close()
    engine.dispose()


# -- several processes ------------------------------------------------------------------------------------------------

GUARD = """
import sys
from tokenbudget_mw.rules.admission import Request
from tokenbudget_mw.values import ONE_REQUEST, Subject
from tokenbudget_mw.wiring import wire

given = {"prepaid": True, "spool": "memory", "identify": lambda _: None}
cores = [wire(given | {"database": url}) for url in sys.argv[1:]]
request = Request("0" * 32, Subject(key="k1"), None, None, ONE_REQUEST, ONE_REQUEST)
for _ in sys.stdin:
    print(*[core.guard.admit(request).status for core in cores], flush=True)
for core in cores:
    core.close()
"""
PASSED, REFUSED = 200, 402


class Guards:
    """Three processes, each with a guard for every database."""

    def __init__(self, *urls: str) -> None:
        command = [sys.executable, "-W", "ignore", "-c", GUARD, *urls]
        options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._processes = [subprocess.Popen(command, **options) for _ in range(3)]

    def ask(self) -> set[int]:
        """What they say to a request now."""
        for process in self._processes:
            process.stdin.write("ask\n")
            process.stdin.flush()
        return {int(word) for process in self._processes for word in process.stdout.readline().split()}

    def until(self, status: int, seconds: float = 20.0) -> bool:
        """Ask until all say *status*."""
        end = time.monotonic() + seconds
        while (said := self.ask()) != {status} and time.monotonic() < end:
            signal.sigtimedwait([], 0.02)
        return said == {status}

    def close(self) -> list[int]:
        for process in self._processes:
            process.communicate(timeout=20)
        return [process.returncode for process in self._processes]


def usage(sequence: int, cost: int) -> UsageRecord:
    return UsageRecord(
        id=f"{sequence:032x}",
        instance_id="1" * 32,
        sequence=sequence,
        created_at_us=1_760_000_000_000_000,
        method="POST",
        path="/",
        account=ACCOUNT,
        cost_pico=cost,
    )


def write(engine: Engine, record: UsageRecord, end: Callable[[Any], None]) -> None:
    from datetime import UTC, datetime

    with engine.connect() as connection:
        find_writer(engine.dialect.name)(Write("w", datetime(2025, 1, 1, tzinfo=UTC), [record]))(connection)
        end(connection)


def test_a_balance_that_is_used_up_reaches_every_process(
    sqlite_database: str, postgres_database: str, mysql_database: str
) -> None:
    """
    Three processes pass the account until the write that takes its balance to zero is committed, and none afterwards; a
    write that is rolled back reaches nobody; a top-up lets it pass again everywhere. On each database.
    """
    urls = (sqlite_database, postgres_database, mysql_database)
    engines = [open_engine(url) for url in urls]
    for engine in engines:
        tables.metadata.create_all(engine)
        ledger.topup(engine, ACCOUNT, 100, key="a")
    guards = Guards(*urls)
    try:
        said = [guards.ask()]
        for engine in engines:
            write(engine, usage(1, 500), lambda connection: connection.rollback())
        looked = time.monotonic() + 1.5  # longer than any of them waits before it looks
        while time.monotonic() < looked:
            said.append(guards.ask())
        for engine in engines:
            DatabaseSink(engine).write([usage(2, 100)])
        is_refused = guards.until(REFUSED), guards.ask()
        for engine in engines:
            ledger.topup(engine, ACCOUNT, 100, key="b")
        is_back = guards.until(PASSED)
    finally:
        codes = guards.close()
        for engine in engines:
            engine.dispose()

    assert set().union(*said) == {PASSED}
    assert is_refused == (True, {REFUSED})
    assert is_back
    assert codes == [0, 0, 0]


def test_an_account_of_an_odd_name_has_the_money_that_it_paid(database_url: str) -> None:
    """What the books keep under another name is found by its own, and hides no other account's balance."""
    from tokenbudget_mw.database.balances import BalanceReader

    odd = ["tenant:space ", "tenant:nul\x00", "tenant:\ud800", "tenant:" + "long" * 99]
    engine = open_engine(database_url)
    tables.metadata.create_all(engine)
    for account in (*odd, ACCOUNT):
        ledger.topup(engine, account, 100, key=f"k{len(account)}")

    found = BalanceReader(engine).funded([*odd, ACCOUNT, "tenant:poor\x00"])

    engine.dispose()
    assert found == {*odd, ACCOUNT}


def test_postgresql_tells_before_anybody_looks(postgres_database: str) -> None:
    """A process that would look in an hour refuses the account as soon as PostgreSQL has told it."""
    from tokenbudget_mw.database.balances import BalanceReader

    engine = open_engine(postgres_database)
    tables.metadata.create_all(engine)
    ledger.topup(engine, ACCOUNT, 100, key="a")
    reader = BalanceReader(engine)
    prepaid = Prepaid(lambda: reader, every=3600.0)
    assert prepaid.has_money(ACCOUNT)
    prepaid.look()
    listening = "SELECT COUNT(*) FROM pg_stat_activity WHERE query = 'LISTEN tokenbudget_depleted' AND datname = current_database()"
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while not connection.exec_driver_sql(listening).scalar_one():
            pass

    DatabaseSink(engine).write([usage(1, 100)])
    end = time.monotonic() + 20
    while prepaid.has_money(ACCOUNT) and time.monotonic() < end:
        pass

    assert prepaid.has_money(ACCOUNT) is False
    prepaid.close()
    engine.dispose()
