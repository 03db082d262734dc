"""
The settings of the spool.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenbudget_mw.errors import ConfigurationError
from tokenbudget_mw.settings import Settings, reference, warnings_of


def test_defaults():
    """
    Out of the box usage outlives its process, in at most a gigabyte of files, and a full spool drops the newest.
    """
    settings = Settings.from_mapping({})

    assert (settings.spool, settings.spool_dir) == ("kill_safe", None)
    assert (settings.spool_bytes, settings.spool_full, settings.spool_wait) == (2**30, "drop_newest", 0.1)


def test_the_environment():
    """
    Every one of them may be a variable.
    """
    settings = Settings.from_env(
        {
            "TOKENBUDGET_SPOOL": "power_safe",
            "TOKENBUDGET_SPOOL_DIR": "/var/lib/app",
            "TOKENBUDGET_SPOOL_BYTES": "2097152",
            "TOKENBUDGET_SPOOL_FULL": "block",
            "TOKENBUDGET_SPOOL_WAIT": "1 second",
        }
    )

    assert (settings.spool, settings.spool_dir) == ("power_safe", "/var/lib/app")
    assert (settings.spool_bytes, settings.spool_full, settings.spool_wait) == (2**21, "block", 1.0)


def test_a_folder_may_be_a_path():
    """
    Django projects name their folders by `BASE_DIR / "spool"`.
    """
    assert Settings.from_mapping({"spool_dir": Path("/var/lib") / "app"}).spool_dir == "/var/lib/app"


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"spool": "kilsafe"}, "at `spool`: unknown choice 'kilsafe'; did you mean 'kill_safe'"),
        ({"spool_dir": 5}, "at `spool_dir`: a text is expected, not a int"),
        ({"spool_dir": ""}, "at `spool_dir`: the text is empty"),
        ({"spool_bytes": 5}, "at `spool_bytes`: a number from 1048576"),
        ({"spool_full": "drop"}, "at `spool_full`: unknown choice 'drop'"),
        ({"spool_wait": 0}, "at `spool_wait`: a duration from 0.001"),
    ],
)
def test_what_is_wrong_is_said(mapping, message):
    """
    A value that cannot be meant fails at the start, with its place.
    """
    with pytest.raises(ConfigurationError, match=message):
        Settings.from_mapping(mapping)


def test_a_policy_that_never_holds_is_said():
    """
    A policy for files where there are none looks like a mistake.
    """
    told = warnings_of(Settings.from_mapping({"pepper": "x", "spool": "memory", "spool_full": "raise"}))

    assert any("where the newest is always dropped" in warning for warning in told)


def test_the_reference_names_the_choices():
    """
    The documentation lists what can be written.
    """
    types = {name: kind for name, kind, _, _ in reference()}

    assert types["spool"] == "'memory', 'kill_safe', 'power_safe_window' or 'power_safe'"
    assert types["spool_full"] == "'drop_newest', 'block' or 'raise'"
