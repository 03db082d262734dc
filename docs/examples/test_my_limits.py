"""Tests of an app's limits, with the fixture that the package brings."""

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from tokenbudget_mw import Subject
from tokenbudget_mw_fastapi import TokenBudget, current

ANN = Subject(key="ann", plan="free")


def create_app(settings):
    """The app: its settings are an argument, so that a test can hand it a core."""
    app = FastAPI()
    TokenBudget(app, settings)

    @app.post("/ask")
    def ask():
        current().charge({"input_tokens": 100, "output_tokens": 20}, model="gpt-4o")
        return "42"

    return app


@pytest.fixture
def tokenbudget_settings():  # as a rule, in conftest.py
    return {"routes": [{"path": "/ask"}], "plans": {"free": ["3 requests/minute", "$0.01/month"]}}


@pytest.fixture
def client(tokenbudget):
    return TestClient(create_app(tokenbudget.core), headers=tokenbudget.headers(ANN))


def test_third_request_is_the_last(client, tokenbudget):
    tokenbudget.set_usage(ANN, requests=2)

    assert client.post("/ask").status_code == 200
    tokenbudget.assert_refused(client.post("/ask"), limit="requests-minute")

    tokenbudget.clock.advance(61)
    assert client.post("/ask").status_code == 200


def test_money_ends(client, tokenbudget):
    tokenbudget.set_usage(ANN, dollars=0.01)

    tokenbudget.assert_refused(client.post("/ask"), limit="money-month", status=429)


def test_books(client, tokenbudget):
    client.post("/ask")

    (row,) = tokenbudget.rows()
    assert (row.key_id, row.input_tokens, row.output_tokens) == ("ann", 100, 20)
