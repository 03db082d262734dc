"""Views that send requests to their own project, as for a batch: in the same thread, one call within another."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from django.http import HttpResponse, StreamingHttpResponse
from django.test import RequestFactory, override_settings
from django_rig import TOKENBUDGET, rows

from tokenbudget_mw.calls.call import running
from tokenbudget_mw.errors import SpoolFullError
from tokenbudget_mw_django import TokenBudgetMiddleware, conf, current

WIDE = {**TOKENBUDGET, "plans": {"one": ["100 concurrent", "1M tokens/minute"]}}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Counters of the test's own."""
    with override_settings(TOKENBUDGET=dict(WIDE)):
        yield
    running.set(None)


def used(tokens: int) -> None:
    """Charge the call that runs."""
    current().charge({"prompt_tokens": tokens, "completion_tokens": 1})


def ask(view: Any, subject: str, path: str = "/plain/part") -> Any:
    """Return what the project answers to *subject* by *view*."""
    return TokenBudgetMiddleware(view)(RequestFactory().get(path, headers={"x-subject": subject}))


def whole(_request: Any) -> HttpResponse:
    """Answer at once."""
    used(3)
    return HttpResponse("whole")


def streamed(_request: Any) -> StreamingHttpResponse:
    """Answer in pieces, each of which is charged when it is made."""

    def pieces() -> Iterator[bytes]:
        for number in (4, 5):
            used(number)
            yield b"piece"

    return StreamingHttpResponse(pieces())


def failing(_request: Any) -> HttpResponse:
    """Do not answer."""
    used(6)
    raise LookupError


@pytest.mark.parametrize("is_streamed", [False, True])
def test_view_that_asks_its_own_project(is_streamed: bool) -> None:
    """Each call is charged what was used in it, also between two pieces of another one's stream, and nothing runs afterwards."""
    outer, inner = f"batch-{is_streamed}", f"part-{is_streamed}"

    def parts() -> Iterator[bytes]:
        ask(whole, inner)
        used(10)
        for piece in ask(streamed, inner):
            used(20)
            yield piece
        with pytest.raises(LookupError):
            ask(failing, inner)
        used(40)

    def batch(_request: Any) -> Any:
        return StreamingHttpResponse(parts()) if is_streamed else HttpResponse(b"".join(parts()))

    body = b"".join(ask(batch, outer, "/plain/batch"))

    assert body == b"piecepiece"
    assert running.get() is None
    assert sum(row["input_tokens"] for row in rows(outer)) == 10 + 2 * 20 + 40
    assert sorted(row["input_tokens"] for row in rows(inner)) == [3, 6, 4 + 5]


def test_stream_that_is_left_in_the_middle_of_another_call() -> None:
    """What is closed there ends, and the call around it goes on."""

    def batch(_request: Any) -> HttpResponse:
        response = ask(streamed, "left-part")
        assert next(iter(response)) == b"piece"
        response.close()
        used(7)
        return HttpResponse("done")

    assert ask(batch, "left", "/plain/batch").content == b"done"
    assert [row["input_tokens"] for row in rows("left")] == [7]
    assert [row["input_tokens"] for row in rows("left-part")] == [4]


async def aask(view: Any, subject: str, path: str = "/plain/part") -> Any:
    """Return what the project answers on a loop."""
    return await TokenBudgetMiddleware(view)(RequestFactory().get(path, headers={"x-subject": subject}))  # type: ignore[misc]


async def awhole(_request: Any) -> HttpResponse:
    """Answer at once."""
    used(3)
    return HttpResponse("whole")


async def astreamed(_request: Any) -> StreamingHttpResponse:
    """Answer in pieces, each of which is charged when it is made."""

    async def pieces() -> AsyncIterator[bytes]:
        for number in (4, 5):
            await asyncio.sleep(0)
            used(number)
            yield b"piece"

    return StreamingHttpResponse(pieces())


def test_async_view_that_asks_its_own_project() -> None:
    """On a loop, too, each call is charged what was used in it."""

    async def batch(_request: Any) -> HttpResponse:
        await aask(awhole, "apart")
        used(10)
        async for _ in await aask(astreamed, "apart"):
            used(20)
        used(40)
        return HttpResponse("done")

    response = asyncio.run(aask(batch, "abatch", "/plain/batch"))

    assert response.content == b"done"
    assert sum(row["input_tokens"] for row in rows("abatch")) == 10 + 2 * 20 + 40
    assert sorted(row["input_tokens"] for row in rows("apart")) == [3, 4 + 5]


def test_a_part_whose_row_finds_no_place_leaves_the_call_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a full spool shall raise, the part's stream fails once, at its end; the view around it goes on in its own call."""
    seen: list[Any] = []

    def full(_record: object) -> None:
        raise SpoolFullError

    def outer(_request: Any) -> HttpResponse:
        here = current()
        part = ask(streamed, "full-inner")
        with monkeypatch.context() as patched:
            patched.setattr(conf.core().spool, "put", full)
            with pytest.raises(SpoolFullError):
                list(part)
        part.close()
        seen.append(running.get() is here)
        return HttpResponse("whole")

    ask(outer, "full-outer")

    assert seen == [True]
