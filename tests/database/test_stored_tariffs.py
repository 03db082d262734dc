"""
Tariffs in the database: what is stored is what applies, from its first moment to just before its last.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tokenbudget_mw import Subject, Usage, prices
from tokenbudget_mw.database import live_tariffs
from tokenbudget_mw.database.live_tariffs import LiveTariffs
from tokenbudget_mw.database.tariffs import TariffError, TariffStore
from tokenbudget_mw.rules.pricing import Moment, estimate, moment_of, price_usage
from tokenbudget_mw.rules.tariffs import Tariffs
from tokenbudget_mw.testing.clock import FakeClock
from tokenbudget_mw.values import Price, Prompt, TokenCount

if TYPE_CHECKING:
    from sqlalchemy import Engine

NOW = 1_760_000_000.0
DAY = 86_400.0
CEILING = Price("ceiling", "*", 1, 1)
PLAIN = Price("", "m", 10, 30)


@pytest.fixture
def store(engine: Engine) -> TariffStore:
    """
    The table, on each database in turn.
    """
    return TariffStore(engine, clock=lambda: NOW)


def tariffs_of(store: TariffStore, *settings: Price) -> Tariffs:
    made = Tariffs(settings, lambda _: (), "flag", CEILING, str)
    made.take_stored(store.find())
    return made


def test_a_tariff_comes_back_as_it_went_in(store: TariffStore) -> None:
    """Every figure, condition and moment survives the database, to the microsecond; the id tells what it is for."""
    full = Price(
        "",
        "gpt-x",
        2**63 - 1,
        0,
        cache_read=1,
        cache_write=2,
        cache_write_1h=3,
        reasoning=4,
        audio_input=5,
        audio_output=6,
        valid_from=NOW + 0.000001,
        valid_until=NOW + DAY,
        purpose="batch",
        completion_window="24h",
        above_input=200_000,
        service_tier="flex",
    )

    added = store.add(full)

    assert added.id == "stored/gpt-x+batch+24h+flex+>200000@2025-10-09T08:53:20.000001"
    assert store.find() == [added] == [replace(full, id=added.id, source="database")]


def test_a_tariff_holds_from_now_on(store: TariffStore) -> None:
    """Without a beginning it begins when it is stored: it changes no price of the past."""
    added = store.add(PLAIN)

    assert added.valid_from == NOW
    assert store.find(at=NOW - 0.000001) == []
    assert store.find(at=NOW) == [added]


def test_a_tariff_begins_at_a_whole_microsecond(engine: Engine) -> None:
    """What is told of a tariff is what the database holds, however fine the clock is."""
    store = TariffStore(engine, clock=lambda: NOW + 0.0000009)

    added = store.add(PLAIN)

    assert added == store.get(added.id)


def test_a_tariff_ends_at_a_whole_microsecond(store: TariffStore) -> None:
    """A price with an end that no database keeps to the digit can be told twice as well."""
    price = replace(PLAIN, valid_from=NOW, valid_until=NOW + 0.1234567)

    assert store.add(price) == store.add(price) == store.get(store.add(price).id)


def test_an_ended_tariff_holds_until_its_end(store: TariffStore) -> None:
    """The end is a moment that may be moved, and it is not included."""
    added = store.add(PLAIN)
    store.end(added.id, NOW + DAY)
    ended = store.end(added.id, NOW + 2 * DAY)

    assert ended.valid_until == NOW + 2 * DAY
    assert store.find(model="m", at=NOW + 2 * DAY - 1) == [ended]
    assert store.find(model="m", at=NOW + 2 * DAY) == []
    assert store.find(model="other") == []


def test_the_same_again_changes_nothing(store: TariffStore) -> None:
    """A price that is told twice is there once; another one in its place is refused."""
    assert store.add(PLAIN) == store.add(PLAIN)
    with pytest.raises(TariffError, match=r"another tariff 'stored/m@2025-10-09T08:53:20' already"):
        store.add(replace(PLAIN, input=11))

    assert [price.input for price in store.find()] == [10]


@pytest.mark.parametrize(
    ("price", "message"),
    [
        (replace(PLAIN, valid_until=NOW), "ends after its beginning"),
        (replace(PLAIN, model="m" * 129), "`model` of a tariff takes up to 128"),
        (replace(PLAIN, purpose="a\x00"), "`purpose` of a tariff"),
    ],
)
def test_what_makes_no_sense_is_refused(store: TariffStore, price: Price, message: str) -> None:
    """Wrong dates and names that no database keeps are errors that say so, and store nothing."""
    with pytest.raises(TariffError, match=message):
        store.add(price)

    assert store.find() == []


def test_only_what_is_there_ends(store: TariffStore) -> None:
    """An unknown tariff, and an end before the beginning, are errors."""
    added = store.add(PLAIN)

    with pytest.raises(TariffError, match="no tariff 'nobody'"):
        store.end("nobody")
    with pytest.raises(TariffError, match="begins at"):
        store.end(added.id, NOW)
    assert store.get(added.id) == added


# -- R1: what applies to whom -----------------------------------------------------------------------------------------


def cost(store: TariffStore, purpose: str = "realtime", window: str | None = None, created: float | None = None) -> int:
    """
    Price 1,000 + 500 tokens of a key of *purpose*, in a batch with *window* that was made at *created*.
    """
    batch = {} if window is None else {"completion_window": window}
    if created is not None:
        batch["batch_created_at"] = str(created)
    prompt = Prompt("m", TokenCount(0, 0), batch=batch)
    moment = moment_of(Subject(key="k", purpose=purpose), prompt, NOW)
    return price_usage(tariffs_of(store), Usage(1000, 500, model="m"), moment, asked="m").cost_pico


def per_token(input_usd: float, output_usd: float, **more: object) -> Price:
    return Price("", "m", round(input_usd * 10**12), round(output_usd * 10**12), valid_from=NOW - 30 * DAY, **more)  # type: ignore[arg-type]


class TestWhatApplies:
    def test_exact_match(self, store: TariffStore) -> None:
        """1,000 + 500 tokens at 0.00001 and 0.00003 dollars cost 0.025, exactly."""
        store.add(per_token(0.00001, 0.00003))

        assert cost(store) == 25 * 10**9

    def test_batch_and_realtime_side_by_side(self, store: TariffStore) -> None:
        """Keys of each purpose pay their own price: 0.10 and 0.20."""
        store.add(per_token(0.00005, 0.0001, purpose="batch"))
        store.add(per_token(0.0001, 0.0002, purpose="realtime"))

        assert (cost(store, "batch"), cost(store)) == (10**11, 2 * 10**11)

    def test_fallback_to_realtime(self, store: TariffStore) -> None:
        """A batch key without a batch tariff pays the realtime price: 0.30."""
        store.add(per_token(0.0002, 0.0002, purpose="realtime"))

        assert cost(store, "batch", "24h") == 3 * 10**11

    @pytest.mark.parametrize(("window", "expected"), [("24h", 1), ("1h", 2), (None, 2)])
    def test_completion_window(self, store: TariffStore, window: str | None, expected: int) -> None:
        """A batch of 24 hours gets the 24-hour price; of one hour, or of none, the generic batch price."""
        store.add(per_token(0.0, 0.002, purpose="batch", completion_window="24h"))
        store.add(per_token(0.0, 0.004, purpose="batch"))
        store.add(per_token(0.0, 0.006, purpose="realtime"))

        assert cost(store, "batch", window) == expected * 10**12

    def test_a_future_tariff_is_unused(self, store: TariffStore) -> None:
        """A tariff that begins later never applies before, however well it fits."""
        store.add(replace(per_token(0.0, 0.002, purpose="batch", completion_window="24h"), valid_from=NOW + 1))
        store.add(per_token(0.0, 0.006, purpose="realtime"))

        assert cost(store, "batch", "24h") == 3 * 10**12

    def test_the_price_at_the_batchs_creation(self, store: TariffStore) -> None:
        """Of two dated tariffs the one valid when the batch was made applies, not the one valid when it runs."""
        old = store.add(per_token(0.0, 0.002))
        store.end(old.id, NOW - DAY)
        store.add(replace(per_token(0.0, 0.004), valid_from=NOW - DAY))

        assert cost(store, "batch", "24h", created=NOW - 2 * DAY) == 10**12
        assert cost(store, "batch", "24h", created=NOW - DAY) == 2 * 10**12
        assert cost(store, "realtime", None, created=NOW - 2 * DAY) == 2 * 10**12

    def test_none(self, store: TariffStore) -> None:
        """Without a tariff nothing is charged, and the row will say that it was not priced."""
        store.add(replace(PLAIN, model="other"))
        store.add(per_token(0.0, 0.002, purpose="playground"))

        priced = price_usage(tariffs_of(store), Usage(10, 5, model="m"), Moment(NOW), asked="m")

        assert (priced.cost_pico, priced.kind, priced.price_id) == (0, "unpriced", None)

    def test_beside_those_of_the_settings(self, store: TariffStore) -> None:
        """The most specific holds, wherever it stands; of two that are equal, the later one, else the database's."""
        store.add(replace(PLAIN, valid_from=NOW - DAY, purpose="batch"))
        store.add(replace(PLAIN, valid_from=NOW - DAY, input=11))
        settings = (
            Price("s-any", "m", 1, 1, valid_from=NOW - 2 * DAY),
            Price("s-batch", "m", 2, 2, purpose="batch", completion_window="24h"),
            Price("s-same", "m", 3, 3, valid_from=NOW - DAY),
        )
        tariffs = tariffs_of(store, *settings)

        def chosen(purpose: str, window: str | None = None) -> str:
            price = tariffs.quote("m", at=NOW, purpose=purpose, completion_window=window).price
            assert price is not None
            return price.id

        assert chosen("batch", "24h") == "s-batch"
        assert chosen("batch") == "stored/m+batch@2025-10-08T08:53:20"
        assert chosen("realtime") == "stored/m@2025-10-08T08:53:20"


# -- in the app that runs ---------------------------------------------------------------------------------------------


class Source:
    """
    Prices that are read as often as somebody asks, and that may be away.
    """

    def __init__(self, *prices: Price) -> None:
        self.prices = prices
        self.reads = 0
        self.fault: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self) -> tuple[Price, ...]:
        self.gate.wait(10)
        self.reads += 1
        if self.fault is not None:
            raise self.fault
        return self.prices


def live(source: Source, clock: FakeClock) -> LiveTariffs:
    return LiveTariffs((), prices.load().find, "flag", CEILING, str, load=source, ttl=30.0, timer=clock)


def quoted(tariffs: LiveTariffs) -> int | None:
    price = tariffs.quote("m", at=NOW).price
    tariffs.close()  # the reading that this quote began, if any, has ended
    return price and price.input


def test_the_first_quote_knows_the_database(caplog: pytest.LogCaptureFixture) -> None:
    """The prices are there for the very first call, and are read again only when they are old."""
    source, clock = Source(PLAIN), FakeClock(NOW)
    tariffs = live(source, clock)

    assert [quoted(tariffs) for _ in range(3)] == [10, 10, 10]
    assert source.reads == 1

    source.prices = (replace(PLAIN, input=12),)
    clock.advance(30)
    quoted(tariffs)
    assert quoted(tariffs) == 12
    assert source.reads == 2
    assert caplog.records == []


def test_the_first_reservation_knows_of_long_prompts() -> None:
    """What the very first call holds covers the price for a long prompt that only the database knows."""
    tariffs = live(Source(PLAIN, replace(PLAIN, input=50, above_input=100)), FakeClock(NOW))
    prompt = Prompt("m", TokenCount(101, 101), max_output=0)

    upper, _ = estimate(tariffs, prompt, Moment(NOW), output_reserve=0)

    assert upper.money_nano == 6  # 101 x 50 pico-dollars, rounded up


def test_a_database_that_is_away_keeps_the_prices(caplog: pytest.LogCaptureFixture) -> None:
    """What was known holds on, one line says so, and another that it is over."""
    source, clock = Source(PLAIN), FakeClock(NOW)
    tariffs = live(source, clock)
    quoted(tariffs)
    source.fault = OSError("postgresql://user:secret@host")
    for _ in range(3):
        clock.advance(30)
        assert quoted(tariffs) == 10
    source.fault = None
    clock.advance(30)
    quoted(tariffs)

    assert [record.getMessage()[:40] for record in caplog.records] == [
        "The tariffs in the database cannot be re",
        "The tariffs in the database can be read ",
    ]
    assert "secret" not in caplog.text


def test_a_process_that_is_warm_reads_once(caplog: pytest.LogCaptureFixture) -> None:
    """Prices that were read before the first quote are not read again for it, and it does not wait."""
    source, clock = Source(PLAIN), FakeClock(NOW)
    tariffs = live(source, clock)
    tariffs.warm()
    tariffs.warm()
    tariffs.close()

    assert tariffs.lengths("m", 100) == (0,)
    assert [quoted(tariffs) for _ in range(3)] == [10, 10, 10]
    assert source.reads == 1

    clock.advance(30)
    assert quoted(tariffs) == 10
    assert source.reads == 2
    assert caplog.records == []


def test_a_process_that_is_still_reading_is_waited_for() -> None:
    """A first quote that comes while the prices are being read waits for that reading, and begins no other."""
    source, clock = Source(PLAIN), FakeClock(NOW)
    source.gate.clear()
    tariffs = live(source, clock)
    tariffs.warm()
    threading.Timer(0.01, source.gate.set).start()

    assert quoted(tariffs) == 10
    assert source.reads == 1


def test_t12_the_end_waits_for_no_database_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reading that the database never answers does not keep the process from its end."""
    monkeypatch.setattr(live_tariffs, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(live_tariffs, "LAST_WAIT", 0.01, raising=False)
    source, gate = Source(PLAIN), threading.Event()
    source.gate = gate
    tariffs = live(source, FakeClock(NOW))
    tariffs.quote("m", at=NOW)

    tariffs.close()

    assert source.reads == 0
    gate.set()


def test_t15_no_request_waits_for_a_hanging_database(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While the database hangs the settings and the book hold: the first quote waits a moment, the others not at all."""
    monkeypatch.setattr(live_tariffs, "FIRST_WAIT", 0.01)
    source, clock = Source(PLAIN), FakeClock(NOW)
    source.gate.clear()
    tariffs = live(source, clock)

    before = [tariffs.quote("m", at=NOW).price for _ in range(100)]
    source.gate.set()
    tariffs.close()

    assert before == [None] * 100
    assert source.reads == 1
    assert quoted(tariffs) == 10
    assert [record.getMessage()[:60] for record in caplog.records] == [
        "The tariffs in the database were not read within 0.01 s; unt"
    ]


def test_a_schema_one_step_back_has_no_tariffs(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """Without the table the app runs on what the settings say, silently: nobody was promised otherwise."""
    from tokenbudget_mw.database import tables

    tables.tariffs.drop(engine)
    store, clock = TariffStore(engine), FakeClock(NOW)
    tariffs = LiveTariffs((PLAIN,), lambda _: (), "flag", CEILING, str, load=store.find, ttl=30.0, timer=clock)

    assert quoted(tariffs) == 10
    assert caplog.records == []
