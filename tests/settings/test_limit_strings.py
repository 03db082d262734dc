from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenbudget_mw.errors import ConfigurationError
from tokenbudget_mw.settings.limits import parse_limit, split_limits
from tokenbudget_mw.units import COUNTER_MAX, format_duration, format_quantity
from tokenbudget_mw.values import Limit, Window

MINUTE = Window(seconds=60.0)
RATES = {"EUR": Decimal("1.08")}


def limit(name, unit, amount, window, per=("key",), algorithm="strict_log"):
    return Limit(name, unit, amount, window, per, algorithm)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("60 requests/minute", limit("requests-minute", "requests", 60, MINUTE)),
        ("60/minute", limit("requests-minute", "requests", 60, MINUTE)),
        ("10 per minute", limit("requests-minute", "requests", 10, MINUTE)),
        ("5/10 minutes", limit("requests-10-minutes", "requests", 5, Window(seconds=600.0))),
        ("5 per 60 minutes", limit("requests-hour", "requests", 5, Window(seconds=3600.0))),
        ("1/second", limit("requests-second", "requests", 1, Window(seconds=1.0))),
        ("  1,000  Requests / Day ", limit("requests-day", "requests", 1000, Window(seconds=86_400.0))),
        ("40k tokens/minute", limit("tokens-minute", "tokens", 40_000, MINUTE)),
        ("1.5M input tokens/h", limit("input-tokens-hour", "input_tokens", 1_500_000, Window(seconds=3600.0))),
        ("10 output tokens/week", limit("output-tokens-week", "output_tokens", 10, Window(seconds=604_800.0))),
        ("2M tokens/minute per model", limit("tokens-minute-model", "tokens", 2_000_000, MINUTE, ("model",))),
        ("$5/month", limit("money-month", "money", 5 * 10**9, Window(period="month"), algorithm="calendar")),
        ("$0.50/day", limit("money-day", "money", 5 * 10**8, Window(seconds=86_400.0))),
        ("5 usd/year", limit("money-year", "money", 5 * 10**9, Window(period="year"), algorithm="calendar")),
        ("EUR 5/month", limit("money-month", "money", 5_400_000_000, Window(period="month"), algorithm="calendar")),
        ("€5/quarter", limit("money-quarter", "money", 5_400_000_000, Window(period="quarter"), algorithm="calendar")),
        (
            "$10k/month per tenant",
            limit("money-month-tenant", "money", 10**13, Window(period="month"), ("tenant",), "calendar"),
        ),
        (
            "100/calendar day per user and model",
            limit(
                "requests-calendar-day-user-model", "requests", 100, Window(period="day"), ("user", "model"), "calendar"
            ),
        ),
        (
            "9 requests/minute per model per team",
            limit("requests-minute-model-team", "requests", 9, MINUTE, ("team", "model")),
        ),
        ("4 concurrent", limit("concurrent", "concurrent", 4, None, algorithm="concurrent")),
        ("4 concurrent requests per user", limit("concurrent-user", "concurrent", 4, None, ("user",), "concurrent")),
        ("100/minute per global", limit("requests-minute-global", "requests", 100, MINUTE, ("global",))),
        ("0 tokens/day", limit("tokens-day", "tokens", 0, Window(seconds=86_400.0))),
    ],
)
def test_limit_strings(text, expected):
    """
    A limit means what it says.
    """
    found = parse_limit(text, rates=RATES)

    assert found.text == text.strip()
    assert (found.name, found.unit, found.amount, found.window, found.per, found.algorithm) == (
        expected.name,
        expected.unit,
        expected.amount,
        expected.window,
        expected.per,
        expected.algorithm,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("40k tokes/minute", "unknown unit 'tokes'; did you mean 'tokens'?"),
        ("10 prompt tokens/minute", "unknown unit 'prompt tokens'; did you mean 'input tokens'?"),
        ("10 completion_tokens/minute", "did you mean 'output tokens'?"),
        ("60 rpm", "unknown unit 'rpm'; did you mean 'requests/minute'?"),
        ("9 requests per user per minute", "the window 'minute' stands before the scopes"),
        ("60 requests/minuet", "unknown window 'minuet'; did you mean 'minute'?"),
        ("60 requests/fortnight", "unknown window 'fortnight'"),
        ("60 requests/minute per tenent", "unknown scope 'tenent'; did you mean 'tenant'?"),
        ("60 requests", "says no window; write it like '60 requests/minute'"),
        ("60 requests per user", "says no window"),
        ("requests/minute", "begins with an amount"),
        ("-5/minute", "begins with an amount"),
        ("", "begins with an amount"),
        ("1.5 requests/minute", "must be whole"),
        ("1.2.3/minute", "begins with an amount"),
        ("$0,075/day", "begins with an amount"),
        ("1234,567 tokens/day", "begins with an amount"),
        ("$0.0000000001/month", "nano-dollars"),
        ("$9008k/month", "too large: counters are exact up to $9,007,199"),
        ("9007199254740992 tokens/day", "too large"),
        ("CHF 5/month", "no rate is known for CHF"),
        ("$5 tokens/month", "not counted in 'tokens'"),
        ("5€/month", "'€' stands before the amount: write '€5/month'"),
        ("5/2 months", "calendar periods are not counted"),
        ("5/calendar minute", "the calendar has no"),
        ("5/0 minutes", "from 1 second to 366 days"),
        ("5/367 days", "from 1 second to 366 days"),
        ("4 concurrent/minute", "has no window"),
    ],
)
def test_what_is_wrong_is_said_with_its_path(text, message):
    """
    A limit that cannot be read names its path, what is wrong and, where possible, what was meant.
    """
    with pytest.raises(ConfigurationError) as caught:
        parse_limit(text, path="plans.free[1]", rates=RATES)

    assert str(caught.value).startswith("at `plans.free[1]`: ")
    assert message in str(caught.value)


def test_the_largest_amount_is_the_largest_a_double_counts():
    """
    2^53 - 1 is allowed, one more is not.
    """
    assert parse_limit(f"{COUNTER_MAX} tokens/day").amount == COUNTER_MAX
    with pytest.raises(ConfigurationError, match="too large"):
        parse_limit(f"{COUNTER_MAX + 1} tokens/day")


@pytest.mark.parametrize(
    ("text", "place", "holder", "per"),
    [
        ("1/minute", "plan", "key", ("key",)),
        ("1/minute", "plan", "team", ("team",)),
        ("1/minute per model", "plan", "key", ("key", "model")),
        ("1/minute per model and route", "plan", "user", ("user", "model", "route")),
        ("1/minute per tenant", "plan", "key", ("tenant",)),
        ("1/minute per tenant and model", "plan", "key", ("tenant", "model")),
        ("1/minute per global", "plan", "key", ("global",)),
        ("1/minute", "top", "key", ("key",)),
        ("1/minute per model", "top", "key", ("model",)),
        ("1/minute per global and model", "top", "key", ("model",)),
        ("1/minute", "route", "key", ("key", "route")),
        ("1/minute per tenant", "route", "key", ("tenant", "route")),
        ("1/minute per global", "route", "key", ("route",)),
        ("1/minute per model", "route", "key", ("key", "model", "route")),
    ],
)
def test_scopes_depend_on_the_place(text, place, holder, per):
    """
    In a plan the model is added to the holder, at the top it stands alone, and in a route the route is always added.
    """
    assert parse_limit(text, place=place, holder=holder).per == per


def test_a_dict_says_more():
    """
    A limit may be a dict with its name and the details.
    """
    found = parse_limit(
        {
            "limit": "60 requests",
            "window": "30 minutes",
            "name": "burst",
            "per": ["team", "model"],
            "slots": 30,
            "mode": "shadow",
            "on_backend_error": "deny",
            "algorithm": "strict_log",
        }
    )

    assert found == Limit(
        "burst",
        "requests",
        60,
        Window(seconds=1800.0),
        ("team", "model"),
        "strict_log",
        30,
        "shadow",
        "deny",
        "60 requests",
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "needs 'limit'"),
        ({"limit": "1/minute", "windw": "minute"}, "did you mean 'window'?"),
        ({"limit": "1/minute", "window": "hour"}, "given twice"),
        ({"limit": "1 concurrent", "window": "hour"}, "has no 'window'"),
        ({"limit": "1/minute per user", "per": "user"}, "given twice"),
        ({"limit": "1/minute", "algorithm": "calendar"}, "known: strict_log"),
        ({"limit": "1/month", "slots": 10}, "belongs to strict_log"),
        ({"limit": "1/minute", "slots": 0}, "from 1 to 1000"),
        ({"limit": "1/minute", "slots": True}, "whole number"),
        ({"limit": "1/minute", "mode": "shadw"}, "did you mean 'shadow'?"),
        ({"limit": "1/minute", "on_backend_error": "pass"}, "known: allow, deny, local"),
        ({"limit": 5}, "a text is expected, not a int"),
        (5, "a text or a dict, not a int"),
        (None, "not nothing (None)"),
    ],
)
def test_wrong_dicts(value, message):
    """
    A dict with anything wrong in it says what.
    """
    with pytest.raises(ConfigurationError) as caught:
        parse_limit(value)

    assert message in str(caught.value)


def test_shadow_from_outside_cannot_be_left():
    """
    A limit cannot enforce itself where everything is in shadow.
    """
    assert parse_limit({"limit": "1/minute", "mode": "enforce"}, mode="shadow").mode == "shadow"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("1/day;12/hour", ["1/day", "12/hour"]),
        ("10 per minute | 100 per hour\n$5/month", ["10 per minute", "100 per hour", "$5/month"]),
        ("1/day,100/hour, 1,000/month", ["1/day", "100/hour", "1,000/month"]),
        ("5/day per user, model", ["5/day per user, model"]),
        ("5/day, EUR 3/month", ["5/day", "EUR 3/month"]),
        (" ; ", []),
    ],
)
def test_several_limits_in_one_text(text, parts):
    """
    Several limits may stand in one text, as the `limits` package has them.
    """
    assert split_limits(text) == parts


@given(
    st.integers(min_value=0, max_value=COUNTER_MAX),
    st.sampled_from(["requests", "tokens", "input tokens", "output tokens"]),
    st.integers(min_value=1, max_value=366 * 86_400),
)
def test_limits_round_trip(amount, what, seconds):
    """
    A limit written from its parts reads as those parts.
    """
    window = format_duration(seconds).replace(f"{seconds:g}", str(seconds))
    found = parse_limit(f"{format_quantity(amount)} {what}/{window}")

    assert (found.amount, found.unit, found.window) == (amount, what.replace(" ", "_"), Window(seconds=float(seconds)))


@given(st.text(st.sampled_from("0159kM$€ /per.,tokens-minuth"), max_size=30))
def test_any_text_is_a_limit_or_a_configuration_error(text):
    """
    Whatever a user writes, the answer is a limit or an error with a path.
    """
    try:
        found = parse_limit(text)
    except ConfigurationError:
        return
    assert 0 <= found.amount <= COUNTER_MAX
    assert found.per
