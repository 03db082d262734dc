"""
A database that each migration chain may fill, and Django in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tokenbudget_mw.database.engine import open_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Engine

    Django = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """
    An engine on an empty database, on each dialect in turn.
    """
    engine = open_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def django(database_url: str) -> Django:
    """
    Run a Django command (or, with ``code=``, a program) in a host that uses the test's database.
    """

    def run(*arguments: str, code: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        command = ["-c", f"import django; django.setup()\n{code}"] if code else ["-m", "django", *arguments]
        return subprocess.run(
            [sys.executable, "-W", "error", *command],
            env={
                **os.environ,
                "HOST_DATABASE": database_url,
                "DJANGO_SETTINGS_MODULE": "django_host",
                "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")])),
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    return run
