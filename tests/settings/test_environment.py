"""
Settings in the environment, as shells, containers and orchestrators write them.
"""

from __future__ import annotations

import pytest

from tokenbudget_mw.errors import ConfigurationError
from tokenbudget_mw.settings import Settings


@pytest.mark.parametrize("pepper", ["[k3!x", "{k3!x", '["k3"]', '{"k": 3}', " {k3!x"])
def test_a_pepper_is_taken_as_it_is(pepper):
    """A random secret that begins like JSON is none."""
    assert Settings.from_env({"TOKENBUDGET_PEPPER": pepper}).pepper.value == pepper


@pytest.mark.parametrize("name", ["PEPPER", "BACKEND", "DATABASE", "SPOOL_DIR", "LIMITS", "MODE"])
def test_bytes_that_are_no_text_are_told(name):
    """A variable that is not in the locale's encoding is named, and not repeated."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env({f"TOKENBUDGET_{name}": "redis://canary\udcff"})

    assert str(caught.value) == f"at `TOKENBUDGET_{name}`: this is no text in the locale's encoding; write it in UTF-8"


@pytest.mark.parametrize("value", ["", "  "])
def test_an_empty_variable_takes_no_limits_away(value):
    """A variable that a template left empty is no word on limits; ``[]`` is."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env({"TOKENBUDGET_LIMITS": value})

    assert str(caught.value) == "at `TOKENBUDGET_LIMITS`: the variable is empty; write [] for no limits"
    assert Settings.from_mapping({"limits": ["1/minute"]}, {"TOKENBUDGET_LIMITS": "[]"}).limits == ()


@pytest.mark.parametrize("value", ["[" * 100_000, '{"a":' * 100_000])
def test_json_without_a_bottom_is_told(value):
    """Brackets in brackets for ever are a wrong variable, and no fault of ours."""
    with pytest.raises(ConfigurationError, match=r"TOKENBUDGET_PLANS.*no JSON"):
        Settings.from_env({"TOKENBUDGET_PLANS": value})


@pytest.mark.parametrize(
    "name",
    ["DB", "NODE", "ROLE", "KEY", "HOST", "SERVICE_HOST", "PORT", "PORT_80_TCP_PROTO", "REDIS_URL", "BACKEND_PORT"],
)
def test_variables_of_others_are_left_alone(name):
    """What an orchestrator makes for a service of our name, or a host for itself, is no setting misspelt."""
    assert Settings.from_env({f"TOKENBUDGET_{name}": "x"}) == Settings()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("PEPER", "PEPPER"),
        ("DATABSE", "DATABASE"),
        ("DATABASE_URL", "DATABASE"),
        ("QUERYKEYS", "QUERY_KEYS"),
        ("PLAN", "PLANS"),
        ("LIMIT", "LIMITS"),
        ("MOD", "MODE"),
        ("BACKEND_URL", "BACKEND"),
        ("DATABASE_ALIAS", "DATABASE"),
    ],
)
def test_a_slip_is_told(name, meant):
    """A setting misspelt by a letter, or with a usual ending, is told with what was meant, and without its value."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env({f"TOKENBUDGET_{name}": "canary"})

    told = f"at `TOKENBUDGET_{name}`: unknown setting; did you mean 'TOKENBUDGET_{meant}'?"
    assert str(caught.value) == told
