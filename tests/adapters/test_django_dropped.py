"""Streams that Django never begins: another middleware answers in their place, or the client has gone."""

import asyncio
import gc
from collections.abc import Iterator
from contextvars import copy_context
from typing import Any

import pytest
from django.http import HttpResponse, StreamingHttpResponse
from django.template.response import SimpleTemplateResponse
from django.test import RequestFactory, override_settings
from django_rig import TOKENBUDGET, astreamed, core, rows, streamed
from signal_rig import Struck, strikes

from tokenbudget_mw.calls.call import running, running_call
from tokenbudget_mw_django import TokenBudgetMiddleware, conf


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Counters of the test's own."""
    with override_settings(TOKENBUDGET=dict(TOKENBUDGET)):
        yield
    running.set(None)


def request_of(subject: str) -> Any:
    """A request to a metered path."""
    return RequestFactory().get("/plain/streamed", headers={"x-subject": subject})


def answer(view: Any, subject: str) -> Any:
    """Return the response that the middleware has passed on, nothing of it read."""
    return TokenBudgetMiddleware(view)(request_of(subject))


async def aanswer(view: Any, subject: str) -> Any:
    """The same on a loop."""

    async def get_response(request: Any) -> Any:
        found = view(request)
        return await found if asyncio.iscoroutine(found) else found

    return await TokenBudgetMiddleware(get_response)(request_of(subject))  # type: ignore[misc]


def reasons(subject: str) -> list[str]:
    """How the calls of *subject* ended."""
    return [row["settle_reason"] for row in rows(subject)]


@pytest.mark.parametrize("view", [streamed, astreamed], ids=["sync", "async"])
@pytest.mark.parametrize("is_closed", [True, False], ids=["closed", "dropped"])
def test_t07_a_stream_that_is_never_begun_under_asgi(view: Any, is_closed: bool) -> None:
    """It is one row, and its slot is free, whether it is closed unread or thrown away."""
    subject = f"never-{view.__name__}-{is_closed}"

    async def drop() -> None:
        response = await aanswer(view, subject)
        if is_closed:
            response.close()
        del response
        gc.collect()
        conf.core()._aside.get().stop()

    asyncio.run(drop())

    assert reasons(subject) == ["client_gone_early"]
    assert asyncio.run(aanswer(lambda _: HttpResponse("42"), subject)).status_code == 200


@pytest.mark.parametrize("is_async", [False, True])
def test_t07_a_stream_that_is_thrown_away_under_wsgi(is_async: bool) -> None:
    """It is one row and its slot is free, though nobody has closed it."""
    view = (lambda request: asyncio.run(astreamed(request))) if is_async else streamed
    subject = f"thrown-{is_async}"

    response = answer(view, subject)
    del response
    gc.collect()

    assert reasons(subject) == ["client_gone_early"]
    assert answer(lambda _: HttpResponse("42"), subject).status_code == 200


@pytest.mark.parametrize("is_held", [False, True])
def test_no_other_request_is_charged_to_a_call_that_has_ended(is_held: bool) -> None:
    """What a path that is not metered uses is not the last stream's, whether that was thrown away here or has ended elsewhere."""
    response = answer(streamed, "before")
    if is_held:
        copy_context().run(response.close)  # as another thread would
    else:
        del response
    seen: list[Any] = []

    TokenBudgetMiddleware(lambda _: seen.append(running_call()))(RequestFactory().get("/free"))

    assert seen == [None]


def test_what_is_thrown_away_leaves_the_running_call_alone() -> None:
    """The garbage collector ends a stream in the middle of whatever its thread does."""
    response = answer(streamed, "first")
    seen: list[Any] = []

    def view(_: Any) -> HttpResponse:
        nonlocal response
        del response
        gc.collect()
        call = running_call()
        seen.append(call and call.subject and call.subject.key)
        return HttpResponse("42")

    answer(view, "second")

    assert seen == ["second"]
    assert reasons("first") == ["client_gone_early"]


def test_t07_a_stream_that_has_begun_ends_when_it_is_closed() -> None:
    """Its generators are a cycle that only the garbage collector finds, at any time; the slot is free before."""

    async def leave() -> None:
        response = await aanswer(astreamed, "begun")
        content = response.__aiter__()
        await anext(content)
        await content.aclose()
        response.close()
        assert len(conf.core().heartbeat) == 0
        del content, response
        gc.collect()

    asyncio.run(leave())
    response = answer(streamed, "begun")
    next(iter(response))
    response.close()

    assert reasons("begun") == ["client_gone", "client_gone"]


@pytest.mark.parametrize("is_async", [False, True])
def test_t08_a_response_that_has_no_body_yet(is_async: bool) -> None:
    """A template that a middleware has left unrendered fails as without ours, and holds nothing."""

    def view(_: Any) -> Any:
        return SimpleTemplateResponse("none.html")

    with pytest.raises(Exception, match="must be rendered"):
        asyncio.run(aanswer(view, "raw")) if is_async else answer(view, "raw")

    assert len(conf.core().heartbeat) == 0
    assert isinstance(answer(lambda _: StreamingHttpResponse([]), "raw"), StreamingHttpResponse)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_t08_a_signal_that_raises_in_any_step_leaves_nothing_alive() -> None:
    """A time limit comes between any two steps of a request; no reservation is renewed for a day then."""
    with override_settings(TOKENBUDGET={**TOKENBUDGET, "plans": {"one": ["9999 concurrent", "1M tokens/minute"]}}):
        middleware, left = TokenBudgetMiddleware(lambda _: HttpResponse("whole")), []
        middleware(request_of("struck"))  # what is made once is there
        for raised in strikes(lambda: middleware(request_of("struck"))):
            assert raised is None or isinstance(raised, Struck)
            left.append(len(core().heartbeat))
        running.set(None)

    assert len(left) > 100
    assert set(left) == {0}
