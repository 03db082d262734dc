"""
Four writers that charge the same accounts, each in an order of its own: ours never deadlock, the usual way does.

A thousand transactions each under ``tox -e chaos``, some dozens elsewhere.
"""

from __future__ import annotations

import os
import random
import threading
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import insert, text
from sqlalchemy.exc import DBAPIError

from tokenbudget_mw.database import books, tables
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.rows import moment
from tokenbudget_mw.database.writer import DatabaseSink
from tokenbudget_mw.values import UsageRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

TRANSACTIONS = 1_000 if os.environ.get("TOKENBUDGET_TEST_CHAOS") else 25
WRITERS, ACCOUNTS = 4, [f"tenant:{number}" for number in range(30)]

pytestmark = pytest.mark.timeout(1_800)


@pytest.fixture(params=["postgresql", "mysql"])
def url(request: pytest.FixtureRequest) -> str:
    """
    URL of a database whose writers may meet in the middle; SQLite's never do.
    """
    name = {"postgresql": "postgres_database", "mysql": "mysql_database"}[request.param]
    found: str = request.getfixturevalue(name)
    return found


def compete(url: str, turn: Callable[[Engine, int, int, list[str]], None], *, until_first: bool) -> list[DBAPIError]:
    """
    Let every writer take its turns on a connection of its own; return what failed.
    """
    failures: list[DBAPIError] = []

    def run(writer: int) -> None:
        engine, chance = open_engine(url), random.Random(writer)
        for number in range(TRANSACTIONS):
            if failures and until_first:
                break
            try:
                turn(engine, writer, number, chance.sample(ACCOUNTS, len(ACCOUNTS)))
            except DBAPIError as exc:
                failures.append(exc)
        engine.dispose()

    threads = [threading.Thread(target=run, args=(writer,)) for writer in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def ours(engine: Engine, writer: int, number: int, accounts: list[str]) -> None:
    """
    Write a batch in the order in which it came.
    """
    first = number * len(accounts)
    DatabaseSink(engine).write(
        [
            UsageRecord(
                id=f"{writer}-{first + at}",
                instance_id=f"w{writer}",
                sequence=first + at,
                created_at_us=1_760_000_000_000_000 + at * 7_000_000_000,
                method="POST",
                path="/",
                account=account,
                route=f"/v1/{at % 5}",
                response_model=f"model-{at % 7}",
                cost_pico=1,
            )
            for at, account in enumerate(accounts)
        ]
    )


def unordered(engine: Engine, writer: int, number: int, accounts: list[str]) -> None:
    """
    Charge the accounts in the order in which they came, as is usual.
    """
    del writer, number
    with engine.begin() as connection:
        for account in accounts:
            sql = "UPDATE tokenbudget_balances SET balance_pico = balance_pico - 1 WHERE account = :account"
            connection.execute(text(sql), {"account": account})


def test_t15_ours_never_deadlock_where_the_usual_way_does(url: str) -> None:
    """
    All transactions of all writers get through and the books agree; unordered, somebody is the victim of a deadlock.
    """
    setup = open_engine(url)
    tables.metadata.create_all(setup)

    failures = compete(url, ours, until_first=False)
    report = books.verify(setup)
    with setup.begin() as connection:
        connection.execute(tables.balances.delete())
        new = [{"account": account, "balance_pico": 0, "updated_at": moment(0)} for account in ACCOUNTS]
        connection.execute(insert(tables.balances), new)
    of_the_usual_way = compete(url, unordered, until_first=True)

    setup.dispose()
    assert failures == []
    assert (report.rows, report.verified) == (WRITERS * TRANSACTIONS * len(ACCOUNTS), True)
    assert report.balance_pico == -report.rows
    assert "deadlock" in str(of_the_usual_way).lower()
