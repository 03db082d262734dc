"""
The tester behind the fixture `tokenbudget`, around apps of each kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import flask
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from tokenbudget_mw.asgi import ASGIMiddleware
from tokenbudget_mw.errors import ConfigurationError
from tokenbudget_mw.testing.budget import BudgetTester
from tokenbudget_mw.values import Cost, Subject
from tokenbudget_mw_fastapi import TokenBudget as FastAPIBudget
from tokenbudget_mw_flask import TokenBudget as FlaskBudget

ANN, BOB = Subject(key="ann"), Subject(key="bob")
SETTINGS: dict[str, Any] = {
    "backend": "redis://nowhere.invalid:1/0",
    "database": "postgresql://nowhere.invalid/app",
    "plans": {"free": ["2 requests/minute", "100 tokens/minute", "$1/month"]},
    "default_plan": "free",
}


@pytest.fixture
def tester() -> Iterator[BudgetTester]:
    """A tester with the settings of an app in production."""
    made = BudgetTester(SETTINGS)
    yield made
    made.close()


def test_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend in the environment does not reach a test."""
    monkeypatch.setenv("TOKENBUDGET_BACKEND", "redis://nowhere.invalid:1/0")
    tester = BudgetTester(SETTINGS)

    assert tester.core.settings.backend == "memory://"
    assert tester.decide(ANN).admitted
    tester.close()


def test_misspelt_settings_fail() -> None:
    """The app's settings are checked as they are in production."""
    with pytest.raises(ConfigurationError, match="planes"):
        BudgetTester({"planes": {}})


@pytest.mark.parametrize(
    ("usage", "limit"),
    [
        ({"requests": 2}, "requests-minute"),
        ({"input_tokens": 60, "output_tokens": 40}, "tokens-minute"),
        ({"dollars": 1}, "money-month"),
    ],
)
def test_set_usage_fills_a_limit(tester: BudgetTester, usage: dict[str, Any], limit: str) -> None:
    """Usage that is set counts against its limit, for that subject alone, and leaves no row."""
    tester.set_usage(ANN, **usage)

    tester.assert_refused(tester.decide(ANN, Cost(1, 1, 1, 1)), limit=limit)
    assert tester.decide(BOB, Cost(1, 1, 1, 1)).admitted
    assert tester.rows() == []


def test_set_usage_of_somebody_without_limits(tester: BudgetTester) -> None:
    """Usage that no limit would ever see is a mistake of the test, and says so."""
    with pytest.raises(ValueError, match="No limit counts"):
        tester.set_usage(Subject(user="nobody's key"), requests=1)


def test_deciding_takes_nothing(tester: BudgetTester) -> None:
    """Asking ten times leaves the limit as it was."""
    answers = [tester.decide(ANN).tallies[0].state.remaining for _ in range(10)]

    assert answers == [1] * 10


def test_charge_moves_limits_and_books(tester: BudgetTester) -> None:
    """A charge costs the model's price, fills the token limit, even beyond it, and stands on a row."""
    usage = tester.charge(ANN, input_tokens=80, output_tokens=40, model="gpt-4o")
    (row,) = tester.rows()

    assert (usage.input_tokens, usage.output_tokens) == (80, 40)
    assert (row.method, row.key_id, row.settle_reason, row.request_model) == ("CHARGE", "ann", "complete", "gpt-4o")
    assert row.cost_pico == 80 * 2_500_000 + 40 * 10_000_000
    tester.assert_refused(tester.decide(ANN, Cost(1, 1)), limit="tokens-minute")


def test_fastapi_app_takes_the_core(tester: BudgetTester) -> None:
    """A FastAPI app on the tester's core refuses, identifies by its headers, and forgets when the clock moves."""
    app = FastAPI()
    FastAPIBudget(app, tester.core)

    @app.get("/")
    async def root() -> str:
        return "fine"

    client, ann = TestClient(app), tester.headers(ANN)

    assert client.get("/", headers=ann).status_code == 200
    tester.set_usage(ANN, requests=1)
    tester.assert_refused(client.get("/", headers=ann), limit="requests-minute", status=429)
    assert client.get("/", headers=tester.headers(BOB)).status_code == 200
    tester.assert_refused(client.get("/"), status=401)
    tester.clock.advance(61)
    assert client.get("/", headers=ann).status_code == 200
    assert [row.status for row in tester.rows()] == [200, 429, 200, 200]


def test_flask_app_takes_the_core(tester: BudgetTester) -> None:
    """So does a Flask app."""
    app = flask.Flask("tested")
    FlaskBudget(app, tester.core)
    app.add_url_rule("/", view_func=lambda: "fine")
    client, ann = app.test_client(), tester.headers(ANN)

    assert client.get("/", headers=ann).status_code == 200
    tester.set_usage(ANN, requests=1)
    tester.assert_refused(client.get("/", headers=ann), limit="requests-minute")


def test_own_identify_is_kept() -> None:
    """An app that identifies its users itself does so in tests, too."""
    tester = BudgetTester({**SETTINGS, "identify": lambda facts: Subject(key=facts.header("x-user"))})
    app = FastAPI()
    FastAPIBudget(app, tester.core)
    TestClient(app).get("/missing", headers={"x-user": "carl"})

    assert [row.key_id for row in tester.rows()] == ["carl"]
    tester.close()


@pytest.mark.parametrize(
    ("script", "reason", "tokens"),
    [
        ({"usage": "never"}, "no_usage", 12),
        ({"usage": "twice"}, "complete", 12),
        ({"abort_at": 3}, "app_error_late", 3),
        ({"status": 503}, "status_5xx", 0),
        ({"delay": 2.0, "usage": "always"}, "complete", 12),
    ],
)
def test_a_provider_misbehaves_as_it_is_told(script: dict[str, Any], reason: str, tokens: int) -> None:
    """A handler's model breaks off, says nothing or twice what it used, fails, or is slow: on the test's clock."""
    tester = BudgetTester(SETTINGS | {"routes": [{"path": "/v1/chat/completions", "format": "openai.chat"}]})
    app = ASGIMiddleware(tester.provider(**script).asgi, tester.core)
    client = TestClient(app, raise_server_exceptions=False, headers=tester.headers(ANN))
    began = tester.clock()

    client.post("/v1/chat/completions", json={"model": "gpt-4o", "stream": True, "messages": []})

    (row,) = tester.rows()
    tester.close()
    assert (row.settle_reason, row.output_tokens) == (reason, tokens)
    if "delay" in script:
        assert row.duration_us == (tester.clock() - began) * 1_000_000 >= 20_000_000
        assert row.first_byte_us == 2_000_000
