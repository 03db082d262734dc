"""
From a request with a real API key to the row, the ledger and the balance, on each database: what is charged, and to whom.

The cases are those of the reference batcher: purposes and completion windows, dates, no price, nobody who pays.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from asgi_rig import CHAT, chat, scope_of
from sqlalchemy import select

from tokenbudget_mw.asgi import ASGIMiddleware
from tokenbudget_mw.database import ledger, tables
from tokenbudget_mw.database.books import verify
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.tariffs import TariffStore
from tokenbudget_mw.testing.clock import FakeClock
from tokenbudget_mw.values import Price, Subject
from tokenbudget_mw.wiring import open_keys, wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Engine

NOW = 1_760_000_000.0
DAY = 86_400.0
MODEL = "house-model"
SETTINGS = {
    "identify": "api_key",
    "pepper": "pepper",
    "routes": [{"path": CHAT, "format": "openai.chat"}],
    "plans": {"one": ["1000 requests/minute"]},
    "default_plan": "one",
    "unknown_price": "flag",
    "spool": "memory",
}


async def provider(scope: Any, receive: Any, send: Any) -> None:
    """
    Answer each call with 1,000 input and 500 output tokens.
    """
    await receive()
    usage = {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500}
    body = {"object": "chat.completion", "model": MODEL, "choices": [], "usage": usage}
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


def dollars(input_usd: float, output_usd: float, **conditions: Any) -> Price:
    """
    A tariff in dollars a token.
    """
    begins = {"valid_from": NOW - 30 * DAY}
    return Price("", MODEL, round(input_usd * 10**12), round(output_usd * 10**12), **(begins | conditions))


@dataclass
class House:
    """
    An app with its own prices and keys; it stands still in time.
    """

    url: str
    engine: Engine

    def price(self, *tariffs: Price) -> list[str]:
        """
        Store *tariffs*, and return the ids that rows will carry.
        """
        store = TariffStore(self.engine, clock=lambda: NOW)
        return [store.add(tariff).id for tariff in tariffs]

    def serve(self, *calls: tuple[str, dict[str, str]], **settings: Any) -> None:
        """
        Serve each call (the purpose of its key, and its batch fields), and write what is recorded.
        """
        core = wire(SETTINGS | {"database": self.url} | settings, clock=FakeClock(NOW))
        core.tariffs.warm()
        core.tariffs.close()  # has read the prices, however slow the machine is
        keys = open_keys(core.settings, self.engine)
        middleware = ASGIMiddleware(provider, core)
        for purpose, batch in calls:
            key = keys.create(tenant=purpose, purpose=purpose).text
            asyncio.run(_send(middleware, key, batch))
        assert core.flush()
        core.close()

    def rows(self) -> list[Any]:
        """
        The rows, in order.
        """
        with self.engine.connect() as connection:
            return list(connection.execute(select(tables.usage).order_by(tables.usage.c.sequence)))

    def charged(self) -> dict[str, int]:
        """
        What the ledger took of each account, each of which lost just that.
        """
        with self.engine.connect() as connection:
            entries = connection.execute(select(tables.ledger)).all()
        taken = {entry.account: entry.amount_pico for entry in entries}
        assert {entry.contra for entry in entries} <= {tables.REVENUE}
        assert {account: -ledger.balance(self.engine, account) for account in taken} == taken
        assert verify(self.engine).verified
        return taken


async def _send(middleware: ASGIMiddleware, key: str, batch: dict[str, str]) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return chat(model=MODEL, metadata=batch)

    async def send(message: Any) -> None:
        sent.append(message)

    await middleware(scope_of(subject=None, headers={"x-api-key": key}), receive, send)
    assert sent[0]["status"] == 200, sent


@contextmanager
def built(url: str) -> Iterator[House]:
    engine = open_engine(url)
    tables.metadata.create_all(engine)
    yield House(url, engine)
    engine.dispose()


@pytest.fixture
def house(database_url: str) -> Iterator[House]:
    """
    The house, on each database in turn.
    """
    with built(database_url) as house:
        yield house


@pytest.fixture
def small_house(sqlite_database: str) -> Iterator[House]:
    """
    The same, on SQLite only.
    """
    with built(sqlite_database) as house:
        yield house


def test_t10_what_is_deducted(house: House) -> None:
    """
    1,000 + 500 tokens at 0.00001 and 0.00003 dollars take 0.025 from the account that had 1; the row names the price.
    """
    (price,) = house.price(dollars(0.00001, 0.00003))
    ledger.topup(house.engine, "tenant:realtime", 10**12, key="paid")

    house.serve(("realtime", {}))

    (row,) = house.rows()
    assert (row.cost_pico, row.price_id, row.price_kind) == (25 * 10**9, price, "known")
    assert (row.purpose, row.origin, row.access_source) == ("realtime", "api", "api_key")
    assert ledger.balance(house.engine, "tenant:realtime") == 975 * 10**9


def test_t10_each_purpose_and_window_at_its_price(house: House) -> None:
    """
    Side by side: realtime, playground at its fallback, batches of 24 hours, of one hour and of none.
    """
    realtime, batch, day = house.price(
        dollars(0.0001, 0.0002, purpose="realtime"),
        dollars(0.00005, 0.0001, purpose="batch"),
        dollars(0.00001, 0.00002, purpose="batch", completion_window="24h"),
    )

    house.serve(
        ("realtime", {}),
        ("playground", {}),
        ("batch", {"batch_id": "b1", "completion_window": "24h"}),
        ("batch", {"batch_id": "b2", "completion_window": "1h"}),
        ("batch", {}),
    )

    found = [(row.price_id, row.cost_pico, row.origin, row.completion_window) for row in house.rows()]
    assert found == [
        (realtime, 2 * 10**11, "api", None),
        (realtime, 2 * 10**11, "frontend", None),
        (day, 2 * 10**10, "batch", "24h"),
        (batch, 10**11, "batch", "1h"),
        (batch, 10**11, "batch", None),
    ]


def test_t10_batches_without_their_own_price(small_house: House) -> None:
    """
    A batch key pays the realtime price where there is no batch tariff, or one of the future only: 0.30.
    """
    realtime, _ = small_house.price(
        dollars(0.0002, 0.0002, purpose="realtime"),
        dollars(0.00001, 0.00001, purpose="batch", completion_window="24h", valid_from=NOW + 1),
    )

    small_house.serve(("batch", {"batch_id": "b1", "completion_window": "24h"}))

    assert [row.price_id for row in small_house.rows()] == [realtime]
    assert small_house.charged() == {"tenant:batch": 3 * 10**11}


def test_t10_the_price_of_the_moment_at_which_the_batch_was_made(small_house: House) -> None:
    """
    Of two dated tariffs the one counts that held when the batch was made; for a realtime key, the one that holds now.
    """
    old, new = small_house.price(
        dollars(0.0001, 0.0001, valid_until=NOW - DAY), dollars(0.0002, 0.0002, valid_from=NOW - DAY)
    )
    before = {"batch_id": "b1", "batch_created_at": str(NOW - 2 * DAY)}

    small_house.serve(("batch", before), ("realtime", before), ("batch", {"batch_id": "b2"}))

    assert [row.price_id for row in small_house.rows()] == [old, new, new]


def test_t10_without_a_price_there_is_no_entry(small_house: House) -> None:
    """
    The row is there, says that it was not priced, and nobody is charged.
    """
    small_house.price(dollars(0.1, 0.1, purpose="playground"))

    small_house.serve(("realtime", {}))

    assert [(row.price_kind, row.price_id, row.input_tokens) for row in small_house.rows()] == [
        ("unpriced", None, 1000)
    ]
    assert small_house.charged() == {}


@pytest.mark.parametrize(
    ("identify", "charged"),
    [
        (lambda _: Subject(source="unauthenticated"), {}),
        (lambda _: Subject(key="anybody", source="custom"), {"key:anybody": 25 * 10**9}),
    ],
    ids=["nobody", "somebody"],
)
def test_t10_nobody_pays_nothing(
    small_house: House, identify: Callable[[Any], Subject], charged: dict[str, int]
) -> None:
    """
    What a host lets pass without an owner is a row with its cost, and no entry.
    """
    small_house.price(dollars(0.00001, 0.00003))

    small_house.serve(("realtime", {}), identify=identify)

    (row,) = small_house.rows()
    assert (row.cost_pico, row.account) == (25 * 10**9, next(iter(charged), None))
    assert small_house.charged() == charged
