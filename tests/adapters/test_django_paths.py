"""Paths of Django's: as it has decoded them, and as its URLs mount them."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from asgi_rig import scope_of
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpResponse
from django.test import Client, override_settings
from django.urls import path
from django_rig import TOKENBUDGET

from tokenbudget_mw.calls.call import running, running_call
from tokenbudget_mw_django import limit

ROUTES = [{"path": "/résumés"}, {"path": "/日本/*"}]


def view(_: Any) -> HttpResponse:
    """Say whether this request is metered."""
    call = running_call()
    return HttpResponse("nobody's" if call is None else call.facts.path)


urlpatterns = [
    path("résumés", view),
    path("日本/要約", view),
    path("журнал", view),
    path("журнал/search", limit("1 request/minute")(view)),
]


@pytest.fixture(autouse=True)
def project() -> Iterator[None]:
    """A project whose paths are not written in ASCII alone."""
    with override_settings(ROOT_URLCONF=__name__, TOKENBUDGET={**TOKENBUDGET, "routes": ROUTES}):
        yield
    running.set(None)


def ask_sync(path_: str) -> tuple[int, str]:
    """Ask under WSGI."""
    answer = Client(headers={"x-subject": "ada"}).get(path_)
    return answer.status_code, answer.content.decode()


def ask_async(path_: str) -> tuple[int, str]:
    """Ask under ASGI."""
    sent: list[Any] = []
    incoming = [{"type": "http.request"}]

    async def receive() -> Any:
        return incoming.pop() if incoming else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = scope_of(path=path_, subject="ada", method="GET", headers={"host": "test"}) | {"root_path": ""}
    asyncio.run(ASGIHandler()(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:]).decode()


@pytest.mark.parametrize("ask", [ask_sync, ask_async])
@pytest.mark.parametrize(
    ("path_", "answer"),
    [("/résumés", "/résumés"), ("/日本/要約", "/日本/要約"), ("/журнал", "nobody's")],
)
def test_a_path_in_any_writing_is_known(ask: Any, path_: str, answer: str) -> None:
    """Django has decoded it already: what a route names is metered, and all else passes."""
    assert ask(path_) == (200, answer)


@pytest.mark.parametrize("ask", [ask_sync, ask_async])
def test_a_limited_view_has_a_path_in_any_writing(ask: Any) -> None:
    """Its own limit reads the path, too."""
    assert [ask("/журнал/search")[0] for _ in range(2)] == [200, 429]
