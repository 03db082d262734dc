"""
Recordings that clients upload as forms, to apps of each framework that read them as it does: whatever the order of the
fields, the model that ran is the one that is charged, and the books say so.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import fastapi
import flask
import httpx
import openai
import pytest
from asgi_rig import subject_of
from django.conf import settings as django_settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.test import override_settings
from django_rig import HEARD, TRANSCRIPT, rows
from form_rig import COST, HEAR, HEAR_CHEAP

import tokenbudget_mw_fastapi
import tokenbudget_mw_flask
from tokenbudget_mw.accounting.sinks import CallableSink
from tokenbudget_mw.counting.payloads.forms import read_form
from tokenbudget_mw.wiring import wire

SIZE = 3_000_000
ASKED = "/audio/transcriptions"
SETTINGS: dict[str, Any] = {
    "identify": subject_of,
    "routes": [{"path": "/v1/audio/*", "format": "openai.audio"}, {"path": "/a/v1/audio/*", "format": "openai.audio"}],
    "plans": {"one": ["1M tokens/minute"]},
    "default_plan": "one",
}

Sent = tuple[list[str], int]
"""Models that the app read, and the size of its file."""

Books = Callable[[str], list[tuple[str | None, int]]]
"""Model and cost of each row of a key."""


def flask_app(core: Any) -> tuple[Any, list[Sent]]:
    """An app of Flask's, and what it hears."""
    app, heard = flask.Flask(__name__), list[Sent]()
    tokenbudget_mw_flask.TokenBudget(app, core)

    @app.post("/v1/audio/transcriptions")
    def transcribe() -> flask.Response:
        size = len(flask.request.files["file"].read())
        heard.append((flask.request.form.getlist("model"), size))
        return flask.Response(TRANSCRIPT, content_type="application/json")

    return app, heard


def fastapi_app(core: Any) -> tuple[Any, list[Sent]]:
    """An app of FastAPI's that reads the form as it comes, and what it hears."""
    app, heard = fastapi.FastAPI(), list[Sent]()
    tokenbudget_mw_fastapi.TokenBudget(app, core)

    @app.post("/v1/audio/transcriptions")
    async def transcribe(request: fastapi.Request) -> fastapi.Response:
        form = read_form(b"".join([piece async for piece in request.stream()]))
        models = [each["model"] for each in (form.firsts, form.fields)]
        heard.append((models if form.doubtful else models[:1], form.files[0][1]))
        return fastapi.Response(TRANSCRIPT, media_type="application/json")

    return app, heard


class Client:
    """A client's transport to one app, whatever it speaks."""

    def __init__(self, app: Any, *, is_async: bool, prefix: str = "") -> None:
        self._app, self._is_async = app, is_async
        self.url = f"http://test{prefix}/v1"

    def run(self, work: Callable[[Any], Any], awork: Callable[[Any], Awaitable[Any]]) -> Any:
        """Do the work with a client of the colour that reaches the app."""
        if not self._is_async:
            with httpx.Client(transport=httpx.WSGITransport(app=self._app), base_url=self.url) as client:
                return work(client)

        async def main() -> Any:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app=self._app), base_url=self.url) as client:
                return await awork(client)

        return asyncio.run(main())


@pytest.fixture(params=["flask", "fastapi", "django", "django-asgi", "django-async"])
def served(request: pytest.FixtureRequest) -> Iterator[tuple[Client, list[Sent], Books]]:
    """Each framework's app, what it hears, and its books."""
    if request.param.startswith("django"):
        with override_settings(TOKENBUDGET=SETTINGS, FILE_UPLOAD_MAX_MEMORY_SIZE=65_536):
            is_async = request.param != "django"
            app: Any = get_asgi_application() if is_async else get_wsgi_application()
            HEARD.clear()
            prefix = "/a" if request.param == "django-async" else ""
            yield Client(app, is_async=is_async, prefix=prefix), HEARD, django_books
        return
    records: list[Any] = []
    core = wire(SETTINGS, sink=CallableSink(records.extend))
    app, heard = (flask_app if request.param == "flask" else fastapi_app)(core)

    def books(key: str) -> list[tuple[str | None, int]]:
        assert core.flush()
        return [(row.request_model, row.cost_pico) for row in records if row.key_id == key]

    yield Client(app, is_async=request.param == "fastapi"), heard, books
    core.close()


def django_books(key: str) -> list[tuple[str | None, int]]:
    """The same of Django's database."""
    return [(row["request_model"], int(row["cost_pico"])) for row in rows(key)]


ORDERS: dict[str, tuple[list[str], list[str]]] = {
    "model-first": ([HEAR], []),
    "model-last": ([], [HEAR]),
    "cheap-before": ([HEAR_CHEAP], [HEAR]),
    "cheap-behind": ([HEAR], [HEAR_CHEAP]),
}


@pytest.mark.parametrize("order", ORDERS)
def test_an_upload_is_charged_by_the_model_that_may_have_run(
    served: tuple[Client, list[Sent], Books], order: str, request: pytest.FixtureRequest
) -> None:
    """
    The app gets the form as it was sent, its length told or not; of two models the dearer is charged, of a late one that one.
    """
    client, heard, books = served
    before, behind = ORDERS[order]
    parts: list[Any] = [("model", (None, name)) for name in before]
    parts += [("file", ("a.mp3", bytes(SIZE), "audio/mpeg")), *[("model", (None, name)) for name in behind]]
    encoded = httpx.Request("POST", client.url, files=parts)
    content, key = encoded.read(), request.node.name
    headers = {"content-type": encoded.headers["content-type"], "x-subject": key}
    given = [{"content-length": str(len(content))}]
    if "fastapi" in key:
        given.append({})  # Django takes a form of a length that is not told for empty

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(content), 100_000):
            yield content[at : at + 100_000]

    async def asend(inner: httpx.AsyncClient) -> list[httpx.Response]:
        return [await inner.post(ASKED, content=pieces(), headers=headers | told) for told in given]

    responses = client.run(lambda inner: [inner.post(ASKED, content=content, headers=headers)], asend)

    assert {(each.status_code, each.json()["text"]) for each in responses} == {(200, "hello")}
    assert heard == [(before + behind, SIZE)] * len(responses)
    assert books(key) == [(HEAR, COST[HEAR])] * len(responses)


def test_openais_client_is_charged_by_its_model(
    served: tuple[Client, list[Sent], Books], request: pytest.FixtureRequest
) -> None:
    """The form of OpenAI's own client, with a recording longer than what is read ahead."""
    client, heard, books = served
    key = request.node.name
    given: dict[str, Any] = {"api_key": "x", "base_url": client.url, "default_headers": {"x-subject": key}}
    recording = io.BytesIO(bytes(SIZE))
    recording.name = "a.mp3"

    def ask(inner: httpx.Client) -> Any:
        return openai.OpenAI(http_client=inner, **given).audio.transcriptions.create(model=HEAR, file=recording)

    async def aask(inner: httpx.AsyncClient) -> Any:
        made = openai.AsyncOpenAI(http_client=inner, **given)
        return await made.audio.transcriptions.create(model=HEAR, file=recording)

    assert client.run(ask, aask).text == "hello"
    assert heard == [([HEAR], SIZE)]
    assert books(key) == [(HEAR, COST[HEAR])]


def test_djangos_own_bound_is_below_these_uploads() -> None:
    """Django would not hold them whole."""
    assert django_settings.DATA_UPLOAD_MAX_MEMORY_SIZE < SIZE
