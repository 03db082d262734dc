"""
A fake LLM provider that speaks the wire formats of `shapes` and `families`; no network, no model, no chance.

A token is a word: of the prompt's texts for the input, of the answer for the output. It can be told to misbehave, for
all requests by its `Script`, or for one by a header: ``x-fake: {"abort_at": 2, "usage": "never"}``.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Literal

import msgspec

from tokenbudget_mw.testing import families, shapes
from tokenbudget_mw.testing.clock import FakeClock
from tokenbudget_mw.testing.shapes import Reply, Shape

__all__ = ["SCRIPT_HEADER", "Answer", "FakeProvider", "ProviderAbortedError", "Script"]

SCRIPT_HEADER = "x-fake"
"""Header with a JSON object of `Script` fields, for one request."""

FORMATS: Mapping[str, Shape] = {**shapes.FORMATS, **families.FORMATS}
"""End of a path -> the format that is spoken there; the first that fits holds."""

_GZIP = 16 + zlib.MAX_WBITS


class ProviderAbortedError(Exception):
    """
    The fake provider broke off, as its script says.
    """


@dataclass(frozen=True, slots=True)
class Script:
    """
    How the fake provider behaves.

    Attributes:
        output_tokens: Output tokens of an answer, where the request allows as many.

        input_tokens: Input tokens of the usage; None counts the prompt's words.

        model: Model that the response names; None for the one that was asked for.

        usage: Which responses carry usage: ``asked`` (as the real ones: a stream of OpenAI's only with
            ``stream_options.include_usage``), ``always``, ``never``, ``twice``.

        status: HTTP status; from 400 on the body is an error.

        gzip: Whether the body is compressed.

        abort_at: Chunk after which `ProviderAbortedError` is raised; 0 before the response begins, None never.

        delay: Seconds that pass before each chunk: on the provider's clock, if it has one, else in truth.
    """

    output_tokens: int = 12
    input_tokens: int | None = None
    model: str | None = None
    usage: Literal["asked", "always", "never", "twice"] = "asked"
    status: int = 200
    gzip: bool = False
    abort_at: int | None = None
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """
    The response to one request, for a handler of any framework.

    Attributes:
        status: HTTP status.

        headers: Lower-case names and values.

        chunks: The body: one chunk of a unary response, one an event of a stream.

        abort_at: As in `Script`, and so is the next.

        delay: Seconds.

        clock: What passes the delay; None lets it pass in truth.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    chunks: tuple[bytes, ...]
    abort_at: int | None = None
    delay: float = 0.0
    clock: FakeClock | None = None

    def iterate(self, wait: Callable[[int], object] | None = None) -> Iterator[bytes]:
        """
        Give the body chunk by chunk.

        Args:
            wait: Called with each chunk's number, from 1, before it is given.

        Raises:
            ProviderAbortedError: The script says so.
        """
        for number, chunk in enumerate(self.chunks, 1):
            if self.delay:
                (time.sleep if self.clock is None else self.clock.advance)(self.delay)
            if wait is not None:
                wait(number)
            yield chunk
            self.check(number)

    async def aiterate(self, wait: Callable[[int], Awaitable[object]] | None = None) -> AsyncIterator[bytes]:
        """
        Give the body chunk by chunk; as `iterate`, with an awaited *wait*.
        """
        for number, chunk in enumerate(self.chunks, 1):
            if self.delay and self.clock is not None:
                self.clock.advance(self.delay)
            elif self.delay:
                await asyncio.sleep(self.delay)
            if wait is not None:
                await wait(number)
            yield chunk
            self.check(number)

    def check(self, number: int) -> None:
        """
        Raise `ProviderAbortedError` if the script says so after chunk *number*.
        """
        if self.abort_at == number:
            message = f"The fake provider breaks off after chunk {number}."
            raise ProviderAbortedError(message)


class FakeProvider:
    """
    The provider: `asgi` and `wsgi` are apps, `answer` is for handlers.

    Args:
        script: How it behaves.

        wait: Called with each chunk's number before it is sent by `wsgi`.

        await_: The same for `asgi`, awaited.

        clock: The clock that the script's ``delay`` moves; without one it passes in truth.
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        wait: Callable[[int], object] | None = None,
        await_: Callable[[int], Awaitable[object]] | None = None,
        clock: FakeClock | None = None,
    ) -> None:
        self.script = script or Script()
        self._wait = wait
        self._await = await_
        self._clock = clock

    def answer(self, path: str, body: bytes, told: str | None = None) -> Answer:
        """
        Answer one request.

        Args:
            path: Its path; how it ends says which format is spoken.

            body: Its body.

            told: Value of the `SCRIPT_HEADER`, if it has one.

        Raises:
            ProviderAbortedError: The script says so for chunk 0.
        """
        script = replace(self.script, **msgspec.json.decode(told)) if told else self.script
        shape = next((shape for end, shape in FORMATS.items() if path.endswith(end)), None)
        if shape is None:
            return _json_answer(404, {"error": {"message": f"The fake provider has no {path}."}}, script)
        fields = _decode(body)
        if fields is None:
            return _json_answer(400, shape.error(400), script)
        answer = replace(_answer(shape, path, fields, script), delay=script.delay, clock=self._clock)
        answer.check(0)
        return answer

    async def asgi(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        """
        Serve one ASGI connection.
        """
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        told = dict(scope["headers"]).get(SCRIPT_HEADER.encode())
        body = await _read(receive)
        answer = self.answer(scope["path"], body, told.decode() if told else None)
        headers = [(name.encode(), value.encode()) for name, value in answer.headers]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        async for chunk in answer.aiterate(self._await):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def wsgi(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """
        Serve one WSGI request.
        """
        length = int(environ.get("CONTENT_LENGTH") or 0)
        told = environ.get(f"HTTP_{SCRIPT_HEADER.upper().replace('-', '_')}")
        answer = self.answer(environ["PATH_INFO"], environ["wsgi.input"].read(length), told)
        start_response(f"{answer.status} {HTTPStatus(answer.status).phrase}", list(answer.headers))
        return answer.iterate(self._wait)


def _answer(shape: Shape, path: str, fields: Mapping[str, Any], script: Script) -> Answer:
    if script.status >= HTTPStatus.BAD_REQUEST:
        return _json_answer(script.status, shape.error(script.status), script)
    is_stream = shape.wants_stream(path, fields)
    reply = _reply(shape, path, fields, script)
    if not is_stream:
        return _json_answer(script.status, shape.whole(reply), script)
    headers = (("content-type", shape.stream_type), ("cache-control", "no-cache"))
    return _coded(Answer(script.status, headers, tuple(shape.events(reply)), script.abort_at), script)


def _reply(shape: Shape, path: str, fields: Mapping[str, Any], script: Script) -> Reply:
    most = shape.max_output(fields)
    asked = not shape.wants_stream(path, fields) or shape.wants_usage(fields)
    model = script.model or shape.model(path, fields)
    return Reply(
        model=model if isinstance(model, str) else "fake-llm",
        input_tokens=shape.input_tokens(fields) if script.input_tokens is None else script.input_tokens,
        output_tokens=script.output_tokens if most is None else max(0, min(script.output_tokens, most)),
        usages={"asked": int(asked), "always": 1, "never": 0, "twice": 2}[script.usage],
    )


def _json_answer(status: int, fields: Mapping[str, Any], script: Script) -> Answer:
    body = msgspec.json.encode(fields)
    return _coded(Answer(status, (("content-type", "application/json"),), (body,), script.abort_at), script)


def _coded(answer: Answer, script: Script) -> Answer:
    """
    Add the length of a unary body, and compress any body chunk by chunk if the script says so.
    """
    headers, chunks = answer.headers, answer.chunks
    if script.gzip:
        chunks = tuple(_compressed(chunks))
        headers = (*headers, ("content-encoding", "gzip"))
    elif len(chunks) == 1:
        headers = (*headers, ("content-length", str(len(chunks[0]))))
    return replace(answer, headers=headers, chunks=chunks)


def _compressed(chunks: tuple[bytes, ...]) -> Iterator[bytes]:
    deflate = zlib.compressobj(wbits=_GZIP)
    for at, chunk in enumerate(chunks, 1):
        end = zlib.Z_FINISH if at == len(chunks) else zlib.Z_SYNC_FLUSH
        yield deflate.compress(chunk) + deflate.flush(end)


def _decode(body: bytes) -> Mapping[str, Any] | None:
    try:
        fields = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, Mapping) else None


async def _read(receive: Callable[[], Awaitable[MutableMapping[str, Any]]]) -> bytes:
    pieces = []
    while True:
        message = await receive()
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces)


async def _live(
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
) -> None:
    for moment in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{moment}.complete"})
