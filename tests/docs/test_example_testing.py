"""
The examples of the pages on testing and on model clients.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import openai
import pytest
from provider_server import ProviderServer
from sqlalchemy import create_engine, text
from starlette.testclient import TestClient

pytest_plugins = ["pytester"]

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture(scope="module")
def provider() -> Iterator[ProviderServer]:
    """A provider that the clients call."""
    with ProviderServer() as running:
        yield running


def rows_of(url: str) -> list[Any]:
    """Return key, tokens and labels of the usage rows."""
    engine = create_engine(url)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT key_id, output_tokens, tags FROM tokenbudget_usage")).all()
    engine.dispose()
    return [tuple(row) for row in rows]


def test_tests_of_limits_pass(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example's tests pass in a run of their own."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    shutil.copy(EXAMPLES / "test_my_limits.py", pytester.path)

    result = pytester.runpytest_subprocess("-p", "tokenbudget_mw.testing.plugin")

    result.assert_outcomes(passed=3)


def test_instrumented_client_charges_request_and_script(
    example: Callable[[str], ModuleType], sqlite_database: str, provider: ProviderServer
) -> None:
    """The request's caller pays for its call, with the label; the script's subject for the script's."""
    from tokenbudget_mw.cli import main

    assert main(["migrate", "--database", sqlite_database]) == 0
    module = example("instrumented_client")
    module.client.base_url = f"{provider.url}/v1"
    with TestClient(module.app, client=("203.0.113.7", 50000)) as client:
        assert client.post("/ask", params={"question": "Why?"}).status_code == 200
    with openai.OpenAI(**provider.options("/v1")) as script:
        module.nightly(script)

    keys, outputs, labels = zip(*sorted(rows_of(sqlite_database)), strict=True)
    assert keys == ("ip:203.0.113.7", "nightly")
    assert outputs == (12, 12)
    assert "ask" in str(labels[0])
