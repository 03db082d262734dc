from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenbudget_mw.errors import ConfigurationError
from tokenbudget_mw.settings import Settings
from tokenbudget_mw.units import usd_from_pico
from tokenbudget_mw.values import Price

PLAIN = {"model": "my-gpt", "input": "2.50", "output": "10"}


def price(**more):
    settings = {key: more.pop(key) for key in ("timezone", "rates") if key in more}
    return Settings.from_mapping({"tariffs": [PLAIN | more], **settings}).tariffs[0]


def problem(value):
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_mapping({"tariffs": [value]})
    return str(caught.value)


def test_a_price_list_becomes_pico_dollars_per_token():
    """
    Dollars for a million tokens are pico-dollars per token times a million, exactly.
    """
    assert price(cache_read="0.25", cache_write=3.125, reasoning=Decimal("12.5")) == Price(
        id="tariff/my-gpt",
        model="my-gpt",
        input=2_500_000,
        output=10_000_000,
        cache_read=250_000,
        cache_write=3_125_000,
        reasoning=12_500_000,
    )


@pytest.mark.parametrize(
    ("per", "expected"),
    [
        ("1M tokens", 2_500_000),
        ("1M", 2_500_000),
        ("1k tokens", 2_500_000_000),
        ("token", 2_500_000_000_000),
        (1000, 2_500_000_000),
    ],
)
def test_prices_are_per_any_number_of_tokens(per, expected):
    """
    Providers write their prices per million, per thousand or per token.
    """
    assert price(per=per).input == expected


@given(st.integers(min_value=0, max_value=2**63 - 1))
def test_prices_round_trip(pico):
    """
    Any whole number of pico-dollars per token can be said exactly, down to the last digit.
    """
    assert price(input=usd_from_pico(pico * 10**6)[:40], per="1M tokens").input == pico


def test_a_tier_and_a_length_make_a_price_of_its_own():
    """
    A price may hold for a service tier and above a length of the prompt, which its id shows.
    """
    found = price(service_tier="flex", above_input="200k tokens")

    assert (found.id, found.service_tier, found.above_input) == ("tariff/my-gpt+flex+>200000", "flex", 200_000)
    assert "'above_input' is a number of tokens" in problem(PLAIN | {"above_input": 0})


def test_conditions_make_a_price_of_its_own():
    """
    A price may hold for a purpose, a batch window and a time, which its id shows.
    """
    found = price(purpose="batch", completion_window="24h", valid_from="2026-01-01", valid_until=date(2026, 7, 1))

    assert found.id == "tariff/my-gpt+batch+24h@2026-01-01"
    assert (found.purpose, found.completion_window) == ("batch", "24h")
    assert found.valid_from == datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    assert found.valid_until == datetime(2026, 7, 1, tzinfo=UTC).timestamp()


@pytest.mark.parametrize("purpose", ["batsh", "Batch", "mine"])
def test_a_purpose_that_no_key_has_is_refused(purpose):
    """
    A price for a purpose that is misspelt would never hold, and nobody would be told.
    """
    with pytest.raises(ConfigurationError, match=f"unknown purpose '{purpose}'"):
        price(purpose=purpose)


@pytest.mark.parametrize(
    "value",
    [
        "2026-01-01T00:00:00+01:00",
        datetime(2025, 12, 31, 23, tzinfo=UTC),
        "2026-01-01",
        date(2026, 1, 1),
        1_767_222_000,
    ],
)
def test_dates_begin_in_the_settings_time_zone(value):
    """
    A date without a zone is one of the settings' zone.
    """
    assert price(valid_from=value, timezone="Europe/Zurich").valid_from == 1_767_222_000.0


def test_prices_in_another_currency():
    """
    A price in another currency is turned into dollars by its rate.
    """
    assert price(currency="EUR", rates={"EUR": "1.08"}).input == 2_700_000


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"model": "a", "input": "1"}, "a price needs 'output'"),
        ({"input": "1", "output": "1"}, "a price needs its 'model'"),
        (PLAIN | {"inptu": "1"}, "did you mean 'input'?"),
        (PLAIN | {"input": "0.0000001"}, "no whole number of pico-dollars"),
        (PLAIN | {"input": "1", "per": 3}, "no whole number of pico-dollars"),
        (PLAIN | {"input": "-1"}, "is below 0"),
        (PLAIN | {"input": "9" * 30}, "is too large"),
        (PLAIN | {"input": "free"}, "is not a number"),
        (PLAIN | {"input": True}, "a number is expected"),
        (PLAIN | {"input": float("nan")}, "not a number"),
        (PLAIN | {"per": "0 tokens"}, "'per' is a number of tokens"),
        (PLAIN | {"per": []}, "'per' is a number of tokens"),
        (PLAIN | {"currency": "EUR"}, "no rate is known for EUR"),
        (PLAIN | {"valid_from": "soon"}, "is a date such as"),
        (PLAIN | {"valid_from": True}, "is a date such as"),
        (PLAIN | {"valid_from": "2026-02-01", "valid_until": "2026-01-01"}, "does not lie after"),
        (
            PLAIN | {"valid_until": 1_798_761_600_000},
            "'valid_until' 1798761600000 lies outside the calendar; a number is",
        ),
        (PLAIN | {"valid_until": float("nan")}, "'valid_until' nan lies outside the calendar"),
        (PLAIN | {"valid_until": "9999-12-31T23:00-02:00"}, "'valid_until' 9999-12-31T23:00-02:00 lies outside"),
        (PLAIN | {"valid_from": float("-inf")}, "'valid_from' -inf lies outside the calendar"),
        (PLAIN | {"valid_from": -1e18}, "'valid_from' -1e+18 lies outside the calendar"),
        (PLAIN | {"valid_from": 10**400}, "lies outside the calendar"),
        (
            PLAIN | {"valid_from": "0001-01-01T00:00+05:00"},
            "'valid_from' 0001-01-01T00:00+05:00 lies outside the calendar",
        ),
        ("my-gpt", "a price is a dict"),
    ],
)
def test_wrong_prices(value, message):
    """
    A price that cannot be held exactly, or makes no sense, fails at start.
    """
    assert problem(value).startswith("at `tariffs[0]`: ")
    assert message in problem(value)


def test_the_same_price_twice_is_refused():
    """
    Two prices for the same model and time leave open which holds.
    """
    with pytest.raises(ConfigurationError, match=r"at `tariffs\[1\]`: model 'my-gpt' has this price twice"):
        Settings.from_mapping({"tariffs": [PLAIN, PLAIN | {"input": "3"}]})


def test_the_ceiling_can_be_set():
    """
    The price of unknown models is a setting, and is high unless set.
    """
    assert Settings().ceiling.input == 150_000_000
    assert Settings.from_mapping({"ceiling": {"input": "1", "output": "2"}}).ceiling == Price(
        "ceiling", "*", 1_000_000, 2_000_000
    )


@pytest.mark.parametrize("value", [{"input": "1"}, {"model": "x", "input": "1", "output": "2"}, 5])
def test_a_wrong_ceiling_is_told(value):
    """
    A ceiling has both prices and no model.
    """
    with pytest.raises(ConfigurationError, match="at `ceiling`: "):
        Settings.from_mapping({"ceiling": value})
