"""
A pytest plugin (``-p lua_mutation``): the script of the Redis backend is made with one file replaced.

``TOKENBUDGET_TEST_LUA`` is the path of the replacement; it has the name of the file that it replaces.
"""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

REPLACEMENT = Path(os.environ["TOKENBUDGET_TEST_LUA"])
USED: list[str] = []


class Folder:
    """
    A package's folder, in which one file has another text.
    """

    def __init__(self, folder: Any) -> None:
        self._folder = folder

    def joinpath(self, name: str) -> Any:
        if name != REPLACEMENT.name:
            return self._folder.joinpath(name)
        USED.append(name)
        return REPLACEMENT


def pytest_configure() -> None:
    from tokenbudget_mw.backends import redis_script

    redis_script.files = lambda package: Folder(files(package))  # type: ignore[assignment]


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not USED:
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR  # what was not read cannot have been tested
