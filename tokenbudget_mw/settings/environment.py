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

__all__ = ["PREFIX", "from_environment"]

PREFIX = "TOKENBUDGET_"

_TRUTH = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_NEAR = 0.85


def from_environment(
    environ: Mapping[str, str], fields: tuple[dataclasses.Field[Any], ...], problems: Problems
) -> dict[str, Any]:
    """
    Return the settings that *environ* holds, as a dict might hold them.

    Other variables with our prefix are left alone, unless they look like a setting misspelt.
    """
    known = {f"{PREFIX}{each.name.upper()}": each for each in fields if each.name != "database_alias"}
    found: dict[str, Any] = {}
    for variable, value in environ.items():
        if variable in known:
            with problems.at(variable):
                found[known[variable].name] = _value(value, known[variable])
                problems.variables[known[variable].name] = variable
        elif variable.startswith(PREFIX):
            near = difflib.get_close_matches(variable, known, n=1, cutoff=_NEAR)
            if near:
                problems.add(variable, f"unknown setting; did you mean '{near[0]}'?")
    return found


def _value(value: str, setting: dataclasses.Field[Any]) -> Any:
    if isinstance(setting.default, bool):
        if value.strip().lower() not in _TRUTH:
            raise Invalid("true or false is expected")
        return _TRUTH[value.strip().lower()]
    if isinstance(setting.default, int | float):
        return _number(value)
    if value.lstrip()[:1] in ("{", "["):
        return _json(value)
    return value


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
    except ValueError as exc:
        raise Invalid(f"this is no JSON: {exc}") from None
