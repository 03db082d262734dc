"""
Limits of somebody's own: read, written, added to, and refused where they make no sense.
"""

import json
from decimal import Decimal

import pytest

import tokenbudget_mw
from tokenbudget_mw.errors import ConfigurationError
from tokenbudget_mw.settings import Settings
from tokenbudget_mw.settings.limits import Context
from tokenbudget_mw.settings.own_limits import OwnLimits, own_limits

NOW = 1_700_000_000.0  # 2023-11-14T22:13:20Z
READER = OwnLimits(Context(timezone="Europe/Zurich"))


def texts(stored):
    return [limit["limit"] if isinstance(limit, dict) else limit for limit in json.loads(stored)]


def test_what_is_written_is_read_back():
    """
    Texts, several in one text, and dicts; without a scope they count for the key.
    """
    stored = READER.write(["100 requests/minute; 4 concurrent", {"limit": "$5/month", "anchor": 15, "per": "tenant"}])
    requests, concurrent, money = READER.read(stored)

    assert (requests.amount, requests.per, concurrent.amount) == (100, ("key",), 4)
    assert (money.per, money.window.anchor) == (("tenant",), 15)


def test_shadow_mode_is_no_property_of_a_key():
    """
    What stands in the table means the same when the settings leave shadow mode.
    """
    reader = OwnLimits(Context(mode="shadow"))

    assert [limit.mode for limit in reader.read(reader.write(["9/minute"]))] == ["enforce"]


def test_an_end_means_the_same_wherever_it_is_read():
    """
    A naive end is stored with the zone that it was written in.
    """
    stored = READER.write([{"limit": "9/minute", "until": "2026-12-24"}])

    assert json.loads(stored)[0]["until"] == "2026-12-23T23:00:00+00:00"
    assert OwnLimits(Context(timezone="Asia/Tokyo")).read(stored) == READER.read(stored)


def test_one_text_is_read_once():
    """
    Keys of the same limits share them, so that they cost one reading and one place in every cache.
    """
    stored = READER.write(["100 requests/minute"])

    assert READER.read(stored) is READER.read(str(stored))


@pytest.mark.parametrize(
    ("limits", "complaint"),
    [
        (["100 requets/minute"], "at `limits[0]`: unknown unit 'requets'; did you mean 'requests'?"),
        (["9/minute", "9/minute per global"], "at `limits[1]`: '9/minute per global' counts for everybody together"),
        (["9/minute", {"limit": "5/minute", "mode": "shadow"}], "keep one"),
        ([5], "at `limits[0]`: a limit is a text or a dict, not a int"),
        ([{"limit": "9/minute", "until": "soon"}], "at `limits[0]`: 'soon' is no date"),
        ([{"limit": "9/minute", "unitl": "2026-12-24"}], "did you mean 'until'?"),
        ([" "], "the text is empty"),
    ],
)
def test_what_cannot_be_ones_own_is_explained(limits, complaint):
    """
    The same messages as of the settings, before anything is stored.
    """
    with pytest.raises(ConfigurationError) as caught:
        READER.write(limits)

    assert complaint in str(caught.value)


@pytest.mark.parametrize("stored", ["", "{", "5", '["9/minite"]', '{"a": 1}', "null"])
def test_what_stands_in_the_table_and_cannot_be_read_is_an_error(stored):
    """
    It is never taken for no limits.
    """
    with pytest.raises(ConfigurationError):
        READER.read(stored)
    with pytest.raises(ConfigurationError):
        READER.add(stored, ["9/minute"], NOW)


def test_an_addition_takes_the_place_of_what_counts_the_same():
    """
    An increase leaves the limit that it covers; a new increase takes the old one's place; what has ended goes.
    """
    stored = READER.add(None, ["100 requests/minute", "4 concurrent"], NOW)
    stored = READER.add(stored, [{"limit": "500 requests/minute", "until": "2023-12-01"}], NOW)
    assert texts(stored) == ["100 requests/minute", "4 concurrent", "500 requests/minute"]

    stored = READER.add(stored, [{"limit": "900 requests/minute", "until": "2023-12-24"}], NOW)
    assert texts(stored) == ["100 requests/minute", "4 concurrent", "900 requests/minute"]

    stored = READER.add(stored, ["200 requests/minute"], NOW)
    assert texts(stored) == ["4 concurrent", "900 requests/minute", "200 requests/minute"]

    assert texts(READER.add(stored, ["5 concurrent"], NOW + 60 * 86_400)) == ["200 requests/minute", "5 concurrent"]


def test_hosts_read_limits_for_their_subjects():
    """
    The function of the package's top level, as often as a host likes, for the objects that it gave before.
    """
    read = tokenbudget_mw.own_limits
    first = read("100 requests/minute", {"limit": "EUR 5/month"}, rates={"EUR": "1.1"})

    assert [limit.amount for limit in first] == [100, 5_500_000_000]
    assert read("100 requests/minute", {"limit": "EUR 5/month"}, rates={"EUR": Decimal("1.1")}) is first
    assert own_limits() == ()
    with pytest.raises(ConfigurationError, match="no rate is known for EUR"):
        own_limits("EUR 5/month")


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["9/minute"], "at `overrides`: a dict such as {'tenant:acme': ['$20k/month']} is expected, not a list"),
        ({"acme": ["9/minute"]}, "at `overrides.acme`: a scope and a value are expected, such as 'tenant:acme'"),
        ({"tennant:acme": ["9/minute"]}, "did you mean 'tenant'?"),
        ({"tenant:": ["9/minute"]}, "at `overrides.tenant:`"),
        ({"model:gpt-4o": ["9/minute"]}, "at `overrides.model:gpt-4o`"),
        ({"tenant:acme": ["9 tokes/minute"]}, "at `overrides.tenant:acme[0]`: unknown unit 'tokes'"),
        ({"tenant:acme": ["9/minute per global"]}, "counts for everybody together"),
    ],
)
def test_what_is_no_override_is_explained(overrides, complaint):
    """
    With its path in the settings.
    """
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_mapping({"overrides": overrides})

    assert complaint in str(caught.value)


def test_an_override_counts_for_its_holder():
    """
    A limit without a scope, or per model, counts for the one that it is given to; a value may hold colons.
    """
    overrides = {"tenant:acme": ["9/minute", "9 tokens/minute per model"], "key:ip:10.0.0.1": "5/minute; 1 concurrent"}
    settings = Settings.from_mapping({"overrides": overrides})

    assert [limit.per for limit in settings.overrides["tenant:acme"]] == [("tenant",), ("tenant", "model")]
    assert [limit.per for limit in settings.overrides["key:ip:10.0.0.1"]] == [("key",), ("key",)]
