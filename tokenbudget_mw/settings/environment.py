"""
Settings in environment variables: ``TOKENBUDGET_BACKEND`` is ``backend``, and so on.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping
from typing import Any

from tokenbudget_mw.settings.reading import Invalid, Problems
from tokenbudget_mw.settings.secret import Secret

__all__ = ["PREFIX", "from_environment"]

PREFIX = "TOKENBUDGET_"

_TRUTH = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_NEAR = 0.77
"""How alike a name is that was meant to be another (1 is the same), the prefix left out, which all have."""

_MEANT = {"DATABASE_ALIAS": ["DATABASE"]}
"""What else is meant by names that are none."""


def from_environment(
    environ: Mapping[str, str], fields: tuple[dataclasses.Field[Any], ...], problems: Problems
) -> dict[str, Any]:
    """
    Return the settings that *environ* holds, as a dict might hold them.

    Other variables with our prefix are left alone, unless they look like a setting misspelt.
    """
    known = {each.name.upper(): each for each in fields if each.name != "database_alias"}
    found: dict[str, Any] = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX):
            continue
        name = variable.removeprefix(PREFIX)
        if name in known:
            with problems.at(variable):
                found[known[name].name] = _value(value, known[name])
                problems.variables[known[name].name] = variable
        else:
            near = _MEANT.get(name) or difflib.get_close_matches(name, known, n=1, cutoff=_NEAR)
            if near:
                problems.add(variable, f"unknown setting; did you mean '{PREFIX}{near[0]}'?")
    return found


def _value(value: str, setting: dataclasses.Field[Any]) -> Any:
    if not _is_text(value):
        raise Invalid("this is no text in the locale's encoding; write it in UTF-8")
    if isinstance(setting.default, Secret):  # which may begin like JSON
        return value
    if setting.name == "limits" and not value.strip():
        raise Invalid("the variable is empty; write [] for no limits")
    if isinstance(setting.default, bool):
        if value.strip().lower() not in _TRUTH:
            raise Invalid("true or false is expected")
        return _TRUTH[value.strip().lower()]
    if isinstance(setting.default, int | float):
        return _number(value)
    if value.lstrip()[:1] in ("{", "["):
        return _json(value)
    return value


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # bytes that the environment's encoding does not know
        return False
    return True


def _number(value: str) -> Any:
    """
    Return the number in *value*; the text itself, for the setting's reader, where there is none.
    """
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _json(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as exc:
        raise Invalid(f"this is no JSON: {exc}") from None
