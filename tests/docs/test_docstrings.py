"""
The examples in docstrings hold.
"""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import django_rig  # noqa: F401 - the admin's module wants a configured Django
import pytest

ROOT = Path(__file__).parents[2]
ROOMS = (ROOT / "tokenbudget_mw", ROOT / "adapters", ROOT / "contrib")
PLACES = {path: ROOT if room.name == "tokenbudget_mw" else room for room in ROOMS for path in room.rglob("*.py")}
MODULES = sorted(
    ".".join(path.relative_to(place).with_suffix("").parts).removesuffix(".__init__")
    for path, place in PLACES.items()
    if ">>> " in path.read_text("utf-8")
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_hold(name: str) -> None:
    """What a docstring shows is what happens."""
    seen = doctest.testmod(import_module(name))

    assert seen.attempted > 0
    assert seen.failed == 0
