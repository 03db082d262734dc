"""
Anchors of periods and ends of limits, as settings say them.
"""

from datetime import UTC, date, datetime

import pytest

from tokenbudget_mw.errors import ConfigurationError
from tokenbudget_mw.settings import Settings
from tokenbudget_mw.settings.describe import describe, describe_limit, warnings_of
from tokenbudget_mw.settings.limits import parse_limit

CHRISTMAS = datetime(2026, 12, 24, tzinfo=UTC)


def anchor(limit, value):
    return parse_limit({"limit": limit, "anchor": value}).window.anchor


@pytest.mark.parametrize(
    ("limit", "value", "expected"),
    [
        ("$5/month", 15, 15),
        ("$5/month", 31, 31),
        ("$5/month", None, 1),
        ("$5/quarter", 15, 15),
        ("$5/quarter", "02-15", 215),
        ("$5/quarter", "05-15", 215),
        ("$5/quarter", "10-01", 1),
        ("$5/year", "04-06", 406),
        ("$5/year", "01-06", 6),
        ("$5/year", "12-31", 1231),
        ("$5/calendar week", "sunday", 7),
        ("$5/calendar week", "Mon", 1),
    ],
)
def test_anchors(limit, value, expected):
    """
    Days of the month, days of the year and weekdays; one way of writing for each that means the same.
    """
    assert anchor(limit, value) == expected


@pytest.mark.parametrize(
    ("limit", "value", "complaint"),
    [
        ("$5/month", 0, "from 1 to 31, not 0"),
        ("$5/month", 32, "from 1 to 31, not 32"),
        ("$5/month", "15", "such as 15, not a str"),
        ("$5/month", True, "not a bool"),
        ("$5/month", 1.5, "not a float"),
        ("$5/year", "13-01", "'13-01' is no day of the year"),
        ("$5/year", "04-32", "from 1 to 31, not 32"),
        ("$5/year", "April 6", "write it like '04-06'"),
        ("$5/calendar week", "friyay", "did you mean 'friday'"),
        ("$5/calendar week", 5, "a weekday such as 'monday', not a int"),
        ("60 requests/minute", 15, "'anchor' belongs to a week, month, quarter or year"),
        ("$5/week", "friday", "'anchor' belongs to"),
        ("$5/calendar day", 1, "'anchor' belongs to"),
        ("4 concurrent", 1, "'anchor' belongs to"),
    ],
)
def test_what_is_no_anchor_is_explained(limit, value, complaint):
    """
    The message says what was given and what to write.
    """
    with pytest.raises(ConfigurationError) as caught:
        anchor(limit, value)

    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-12-24T00:00:00Z", CHRISTMAS),
        ("2026-12-24T01:00:00+01:00", CHRISTMAS),
        ("2026-12-24T01:00:00", CHRISTMAS),
        (" 2026-12-24T01 ", CHRISTMAS),
        ("2026-12-24", datetime(2026, 12, 23, 23, tzinfo=UTC)),
        (date(2026, 12, 24), datetime(2026, 12, 23, 23, tzinfo=UTC)),
        (datetime(2026, 12, 24, 1), CHRISTMAS),  # noqa: DTZ001 - a naive one is what is tested
        (CHRISTMAS, CHRISTMAS),
        (None, None),
    ],
)
def test_ends_are_in_the_settings_zone_unless_they_name_one(value, expected):
    """
    Texts in ISO 8601, dates and moments of Python; a date is the moment at which its day begins.
    """
    limit = parse_limit({"limit": "9/minute", "until": value}, timezone="Europe/Zurich")

    assert limit.until == (None if expected is None else expected.timestamp())


@pytest.mark.parametrize("value", ["tomorrow", "2026-13-01", 1798070400, "", "24.12.2026"])
def test_what_is_no_end_is_explained(value):
    """
    The message says how a date is written.
    """
    with pytest.raises(ConfigurationError, match="'2026-12-24' or '2026-12-24T18:00:00Z'"):
        parse_limit({"limit": "9/minute", "until": value})


def test_the_settings_zone_reaches_every_place():
    """
    Plans, limits, routes and overrides read a naive end alike.
    """
    ending = {"limit": "9/minute", "until": "2026-12-24T01:00:00"}
    settings = Settings.from_mapping(
        {
            "timezone": "Europe/Zurich",
            "plans": {"free": [ending]},
            "limits": [ending],
            "routes": [{"path": "/x", "limits": [ending]}],
            "overrides": {"tenant:acme": [ending]},
        }
    )
    places = [settings.plans["free"].limits, settings.limits, settings.routes[0].limits]

    assert {limits[0].until for limits in (*places, settings.overrides["tenant:acme"])} == {CHRISTMAS.timestamp()}


def test_an_increase_has_the_name_of_what_it_replaces():
    """
    Clients see one policy whose amount changes, wherever it stands in its list; another list's is another.
    """
    increase = {"limit": "1000 requests/minute", "until": "2026-12-24"}
    other = {"limit": "1000 requests/minute per tenant", "until": "2026-12-24", "name": "requests-minute"}
    settings = Settings.from_mapping(
        {"plans": {"free": [increase, "60 requests/minute", other]}, "limits": ["99 requests/minute", increase]}
    )

    assert [(each.amount, each.name) for each in settings.plans["free"].limits] == [
        (60, "requests-minute"),
        (1000, "requests-minute"),
        (1000, "requests-minute-2"),
    ]
    assert {each.name for each in settings.limits} == {"requests-minute-3"}


def test_a_past_end_is_told_and_is_no_error():
    """
    An app whose settings hold an old increase still starts.
    """
    settings = Settings.from_mapping({"limits": [{"limit": "9/minute", "until": "2026-12-24T00:00Z"}]})

    def warned(now):
        return [text for text in warnings_of(settings, lambda: now) if "has ended" in text]

    assert warned(CHRISTMAS.timestamp() - 1) == []
    assert warned(CHRISTMAS.timestamp()) == [
        "'9/minute' has ended at 2026-12-24 00:00 UTC: it holds no more, and can be removed."
    ]


@pytest.mark.parametrize(
    ("limit", "sentence"),
    [
        ({"limit": "$5/month", "anchor": 31}, "At most $5.00 in a calendar month that begins on day 31, for each key"),
        ({"limit": "$5/year", "anchor": "04-06"}, "a calendar year that begins on April 6,"),
        ({"limit": "$5/year", "anchor": 6}, "a calendar year that begins on January 6,"),
        ({"limit": "$5/calendar week", "anchor": "sun"}, "a calendar week that begins on Sunday,"),
        ({"limit": "9/minute", "until": "2026-12-24T00:00Z"}, "for each key, until 2026-12-24 00:00 UTC ("),
    ],
)
def test_sentences_say_anchors_and_ends(limit, sentence):
    """
    What `check` prints has them.
    """
    assert sentence in describe_limit(parse_limit(limit))


def test_check_tells_of_overrides():
    """
    Whom they are for, and what they are.
    """
    text = "\n".join(describe(Settings.from_mapping({"overrides": {"tenant:acme": ["$20k/month"]}})))

    assert "For tenant acme, in the place of what counts the same elsewhere:" in text
    assert "At most $20,000.00 in a calendar month, for each tenant" in text
    assert "There are no limits" not in text


def test_check_tells_what_holds_after_an_end():
    """
    And when an increase would replace nothing, as one with other scopes does.
    """
    end = {"until": "2090-12-24"}
    limits = ["60 requests/minute", {"limit": "90 requests/minute", **end}, {"limit": "90/minute per user", **end}]
    lines = describe(Settings.from_mapping({"limits": limits}))

    assert next(line for line in lines if "90" in line and "each key" in line).endswith(
        "('requests-minute'). Afterwards 60 requests/minute again."
    )
    assert "It stands beside the others" in next(line for line in lines if "each user" in line)
