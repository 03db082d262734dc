"""
Examples for frameworks and tools beside the three do what their pages say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import ModuleType
from typing import Any

import django_rig
import pytest
from django.test import Client, override_settings
from django.urls import path
from sqlalchemy import create_engine, text
from starlette.testclient import TestClient

from tokenbudget_mw import ASGIMiddleware

Load = Callable[[str], ModuleType]
ADDRESS = "203.0.113.7"


@pytest.fixture
def books(sqlite_database: str) -> Callable[[], list[tuple[Any, ...]]]:
    """Tables, and what is in them: path, status, tokens."""
    from tokenbudget_mw.cli import main

    assert main(["migrate", "--database", sqlite_database]) == 0

    def read() -> list[tuple[Any, ...]]:
        engine = create_engine(sqlite_database)
        with engine.connect() as connection:
            query = (
                "SELECT path, status, input_tokens + output_tokens FROM tokenbudget_usage ORDER BY created_at, sequence"
            )
            rows = [tuple(row) for row in connection.execute(text(query))]
        engine.dispose()
        return rows

    return read


def test_metrics_endpoint(example: Load) -> None:
    """How calls ended is told, and asking for it is no call."""
    app = example("metrics_endpoint").app
    with TestClient(app, client=(ADDRESS, 1)) as client:
        client.get("/nowhere")
        client.get("/metrics")
        told = client.get("/metrics").text

    assert 'tokenbudget_refusals_total{reason="missing_api_key"} 1\n' in told
    assert 'tokenbudget_calls_total{outcome="refused"} 1\n' in told


def test_fastapi_openapi(example: Load) -> None:
    """Keys, either of two, and refusals with their headers stand on the operations of the router."""
    app = example("fastapi_openapi").app

    described = app.openapi()
    operation = described["paths"]["/v1/models"]["get"]

    assert described["components"]["securitySchemes"]["TokenBudgetKey"]["scheme"] == "bearer"
    assert described["components"]["securitySchemes"]["TokenBudgetKeyHeader"]["name"] == "x-api-key"
    assert operation["security"] == [{"TokenBudgetKey": []}, {"TokenBudgetKeyHeader": []}]
    assert {"401", "402", "429"} <= set(operation["responses"])
    assert "Retry-After" in operation["responses"]["429"]["headers"]
    refusal = TestClient(app).get("/v1/models")
    assert refusal.status_code == 401
    documented = operation["responses"]["401"]
    assert set(documented["content"]["application/json"]["schema"]["required"]) <= set(refusal.json())
    assert {name.lower() for name in documented["headers"]} <= set(refusal.headers)


def test_quart(example: Load, books: Callable[[], list[tuple[Any, ...]]]) -> None:
    """Handlers and streams charge, what does not fit is refused, and the app's end writes all of it."""
    app = example("quart_app").app
    with TestClient(app.asgi_app, client=(ADDRESS, 1)) as client:
        answers = [client.post("/summaries", json={"text": "a long text"}), client.get("/stories")]
        answers += [client.post("/summaries", json={"text": "word " * 2000}), client.get("/stories")]

    assert [each.status_code for each in answers] == [200, 200, 429, 429]
    assert answers[1].text == "Once upon a time"
    assert [each.json()["violated-policies"] for each in answers[2:]] == [["tokens-minute"], ["requests-minute"]]
    assert books()[:3] == [("/summaries", 200, 17), ("/stories", 200, 7), ("/summaries", 429, 0)]


def test_quart_on_its_own_client(example: Load, sqlite_database: str) -> None:
    """Quart's test client goes through the middleware, too."""
    app = example("quart_app").app

    async def ask() -> int:
        client = app.test_client()
        statuses = [(await client.get("/stories", scope_base={"client": (ADDRESS, 1)})).status_code for _ in range(4)]
        return int(statuses[-1])

    assert asyncio.run(ask()) == 429


def test_litestar(example: Load, books: Callable[[], list[tuple[Any, ...]]]) -> None:
    """A reservation that does not fit is the middleware's refusal, through Litestar's own handling of exceptions."""
    app = example("litestar_app").app
    with TestClient(app, client=(ADDRESS, 1)) as client:
        answered = client.post("/summaries", json={"text": "a long text"})
        refused = client.post("/summaries", json={"text": "word " * 2000})

    assert (answered.status_code, answered.json()) == (200, {"summary": "a long text"})
    assert refused.status_code == 429
    assert refused.json()["violated-policies"] == ["tokens-minute"]
    assert books()[0] == ("/summaries", 200, 17)


def test_drf(example: Load) -> None:
    """Two requests a minute, then the refusal."""
    view = example("drf_views").Summaries
    view.authentication_classes = view.permission_classes = ()

    class Urls:
        urlpatterns = (path("plain/summaries", view.as_view()),)

    drf = {"UNAUTHENTICATED_USER": None}
    with override_settings(ROOT_URLCONF=Urls, REST_FRAMEWORK=drf, TOKENBUDGET=dict(django_rig.TOKENBUDGET)):
        client = Client(headers={"x-subject": "drf"})
        answers = [client.post("/plain/summaries", {"text": "x"}, "application/json") for _ in range(3)]

    assert [each.status_code for each in answers] == [200, 200, 429]
    assert answers[2].json()["violated-policies"] == ["requests-minute-endpoint"]


def test_the_middleware_is_the_plain_one(example: Load) -> None:
    """Neither framework needs an adapter."""
    assert isinstance(example("litestar_app").app, ASGIMiddleware)
