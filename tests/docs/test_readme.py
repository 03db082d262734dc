"""
The code in the README is right.
"""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

from tokenbudget_mw import Settings
from tokenbudget_mw.cli import COMMANDS

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_settings_in_the_readme_are_valid() -> None:
    """The dict passes the checks that an app's start makes."""
    names: dict[str, dict[str, object]] = {}
    exec(BLOCKS[0], names)

    settings = Settings.from_mapping(names["TOKENBUDGET"])

    assert set(settings.plans) == {"free", "pro"}


@pytest.mark.parametrize("block", BLOCKS)
def test_imports_in_the_readme_exist(block: str) -> None:
    """Whatever a snippet imports is there."""
    imports = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.ImportFrom)]

    for node in imports:
        module = importlib.import_module(str(node.module))
        assert [name.name for name in node.names if not hasattr(module, name.name)] == []


def test_the_extras_in_the_readme_exist() -> None:
    """Each `pip install 'tokenbudget-mw[extra]'` names an extra that the package has."""
    from importlib.metadata import metadata

    pages = [README, *(path.read_text() for path in (Path(__file__).parents[2] / "docs").glob("*.md"))]
    named = {
        extra
        for page in pages
        for group in re.findall(r"tokenbudget-mw\[([a-z,]+)\]", page)
        for extra in group.split(",")
    }

    assert named <= set(metadata("tokenbudget-mw").get_all("Provides-Extra") or [])


def test_the_readme_names_every_command() -> None:
    """Whoever reads it knows what the command line has."""
    (told,) = re.findall(r"^The command line is `tokenbudget-mw`.*?\n\n", README, re.MULTILINE | re.DOTALL)

    assert sorted(re.findall(r"`([a-z-]+)`", told.partition("To set up:")[2])) == sorted(COMMANDS)
