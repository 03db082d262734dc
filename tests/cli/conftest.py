"""
How the commands are run here: in this process, with their output read back.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import Engine

from tokenbudget_mw.cli import main
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.tables import metadata
from tokenbudget_mw.database.writer import DatabaseSink
from tokenbudget_mw.values import UsageRecord


@dataclass(frozen=True)
class Ran:
    """
    What a command came to.
    """

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """
        Its output, which must be one JSON object.
        """
        return json.loads(self.out)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    No setting of the machine reaches a test.
    """
    for name in [name for name in os.environ if name.startswith("TOKENBUDGET_") and "_TEST_" not in name]:
        monkeypatch.delenv(name)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """
    Run a command and return its exit code and output.
    """

    def run(*argv: object, **host: Any) -> Ran:
        capsys.readouterr()
        code = main([str(word) for word in argv], **host)
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return run


@pytest.fixture
def engine(sqlite_database: str) -> Iterator[Engine]:
    """
    A database with our tables in it; its URL is `sqlite_database`.
    """
    opened = open_engine(sqlite_database)
    metadata.create_all(opened)
    yield opened
    opened.dispose()


@pytest.fixture
def write(engine: Engine) -> Callable[..., None]:
    """
    Write usage rows into the database.
    """
    sequence = iter(range(1, 10_000))
    sink = DatabaseSink(engine)

    def write(**fields: Any) -> None:
        number = next(sequence)
        defaults: dict[str, Any] = {
            "id": f"{number:032x}",
            "instance_id": "1" * 32,
            "sequence": number,
            "created_at_us": 1_700_000_000_000_000,
            "method": "POST",
            "path": "/v1/chat/completions",
            "request_model": "gpt-4o",
            "key_id": "k1",
            "account": "key:k1",
            "input_tokens": 10,
            "output_tokens": 5,
            "cost_pico": 75,
        }
        sink.write([UsageRecord(**{**defaults, **fields})])

    return write
