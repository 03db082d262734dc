"""Apps that break ASGI or WSGI fail as they would alone, and are booked as what their clients saw; so are forged ends."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from wsgiref.types import StartResponse

import asgi_rig
import pytest
import wsgi_rig
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware  # noqa: TID251 - what it forges is tested
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

ANSWER = (
    b'{"model": "gpt-4o", "choices": [{"message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],'
    b' "usage": {"prompt_tokens": 8, "completion_tokens": 5, "total_tokens": 13}}'
)
START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}
JSON = [("Content-Type", "application/json")]


def booked(rig: Any) -> list[tuple[Any, ...]]:
    """Why each row was settled, and what it was charged."""
    return [(row.settle_reason, row.input_tokens, row.output_tokens, row.cost_pico) for row in rig.rows()]


@pytest.mark.parametrize("messages", [[], [{"type": "http.response.body", "body": ANSWER}]])
def test_an_asgi_app_that_never_begins_to_answer_costs_nothing(messages: list[Any]) -> None:
    """Its server makes a 500 of that; it was charged all that was held."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        for message in messages:
            await send(message)

    rig = asgi_rig.Rig(app)
    sent = rig.run(asgi_rig.chat())

    assert sent == messages
    assert booked(rig) == [("app_error", 0, 0, 0)]


@pytest.mark.parametrize("kind", [list, iter])
def test_a_wsgi_app_that_never_begins_to_answer_costs_nothing(kind: Any) -> None:
    """Nor does one that returns a body without a start."""
    rig = wsgi_rig.Rig(lambda environ, start_response: kind([ANSWER]))
    rig.run(wsgi_rig.chat())

    assert booked(rig) == [("app_error", 0, 0, 0)]


@pytest.mark.parametrize("body", ["a text", 7, [b"a list"]])
def test_what_is_no_chunk_reaches_an_asgi_server(body: Any) -> None:
    """A body that is no bytes is the server's to refuse, by its own error."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        await send({"type": "http.response.body", "body": body})

    sent = asgi_rig.Rig(app).run(asgi_rig.chat())

    assert sent[-1]["body"] is body


@pytest.mark.parametrize("kind", [list, iter])
@pytest.mark.parametrize("content", [["a text"], "text", b"bytes", [7]])
def test_what_is_no_chunk_reaches_a_wsgi_server(content: Any, kind: Any) -> None:
    """Under WSGI, too, whatever it stands in."""

    def app(environ: Any, start_response: StartResponse) -> Any:
        start_response("200 OK", JSON)
        return kind(content)

    got = wsgi_rig.Rig(app).run(wsgi_rig.chat())

    assert got.chunks == list(content)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_other_bytes_are_read(kind: Any) -> None:
    """What is bytes by another name is read as they are."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        await send({"type": "http.response.body", "body": kind(ANSWER)})

    rig = asgi_rig.Rig(app)
    rig.run(asgi_rig.chat())

    assert [row[:3] for row in booked(rig)] == [("complete", 8, 5)]


def test_a_client_that_leaves_behind_a_middleware_of_starlettes_is_one_that_left() -> None:
    """`BaseHTTPMiddleware` makes a last piece for a client that has gone; the stream is not one that its app cut off."""

    async def words() -> AsyncIterator[bytes]:
        while True:
            yield b'data: {"choices": [{"index": 0, "delta": {"content": "word"}}]}\n\n'
            await asyncio.sleep(0)

    async def answer(request: Request) -> Response:
        await request.body()
        return StreamingResponse(words(), media_type="text/event-stream")

    async def passed(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        return response

    around = [Middleware(BaseHTTPMiddleware, dispatch=passed)]
    rig = asgi_rig.Rig(Starlette(routes=[Route(asgi_rig.CHAT, answer, methods=["POST"])], middleware=around))
    left, read = asyncio.Event(), iter([asgi_rig.chat(stream=True)])

    async def receive() -> Any:
        for message in read:
            return message
        await left.wait()
        return asgi_rig.DISCONNECT

    async def send(message: Any) -> None:
        if message.get("body"):
            left.set()

    asyncio.run(rig.middleware(asgi_rig.scope_of(asgi={"version": "3.0", "spec_version": "2.3"}), receive, send))

    assert [row[0] for row in booked(rig)] == ["client_gone"]
