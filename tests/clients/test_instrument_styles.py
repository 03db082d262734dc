"""
Every way to call a model with the official clients is charged once, with the provider's figures.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import anthropic
import httpx
import openai
import pytest
from provider_server import Books, ProviderServer

from tokenbudget_mw_clients import instrument

ASK = [{"role": "user", "content": "one two three"}]
CHAT: Any = {"model": "gpt-4o", "messages": ASK}
STREAM: Any = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
RESPONSE: Any = {"model": "gpt-4o", "input": "one two three"}
MESSAGE: Any = {"model": "claude-opus-5", "messages": ASK, "max_tokens": 40}
NEWEST = {"openai": "3", "anthropic": "2"}
"""Major versions from which on every style below exists."""

GZIP = {"x-fake": '{"gzip": true}'}


def read(stream: Any) -> None:
    """Read a stream to its end, and leave it."""
    with stream as opened:
        for _ in opened:
            pass


def read_raw(opened: Any) -> None:
    """Read the bytes of a response that was opened for streaming."""
    with opened as response:
        assert b"".join(response.iter_bytes())


def parse_streaming(opened: Any) -> None:
    """Parse a response that was opened for streaming."""
    with opened as response:
        assert response.parse()


def helpers(client: Any) -> Any:
    """Where the chat helpers stand: in ``beta`` at first."""
    completions = client.chat.completions
    return completions if hasattr(completions, "parse") else client.beta.chat.completions


OPENAI: dict[str, Callable[[openai.OpenAI], object]] = {
    "create": lambda c: c.chat.completions.create(**CHAT),
    "create, gzip": lambda c: c.chat.completions.create(**CHAT, extra_headers=GZIP),
    "stream": lambda c: read(c.chat.completions.create(**STREAM)),
    "stream, gzip": lambda c: read(c.chat.completions.create(**STREAM, extra_headers=GZIP)),
    "stream helper": lambda c: read(helpers(c).stream(**CHAT, stream_options={"include_usage": True})),
    "raw": lambda c: c.chat.completions.with_raw_response.create(**CHAT).parse(),
    "raw stream": lambda c: read(c.chat.completions.with_raw_response.create(**STREAM).parse()),
    "streaming": lambda c: parse_streaming(c.chat.completions.with_streaming_response.create(**CHAT)),
    "streaming bytes": lambda c: read_raw(c.chat.completions.with_streaming_response.create(**STREAM)),
    "parse": lambda c: helpers(c).parse(**CHAT),
    "responses": lambda c: c.responses.create(**RESPONSE),
    "responses stream": lambda c: read(c.responses.create(**RESPONSE, stream=True)),
    "responses stream helper": lambda c: read(c.responses.stream(**RESPONSE)),
    "with_options": lambda c: c.with_options(timeout=5).chat.completions.create(**CHAT),
    "completions": lambda c: c.completions.create(model="gpt-4o", prompt="one two three"),
    "post": lambda c: c.post("/chat/completions", body=CHAT, cast_to=httpx.Response),
}

ANTHROPIC: dict[str, Callable[[anthropic.Anthropic], object]] = {
    "create": lambda c: c.messages.create(**MESSAGE),
    "create, gzip": lambda c: c.messages.create(**MESSAGE, extra_headers=GZIP),
    "stream": lambda c: read(c.messages.create(**MESSAGE, stream=True)),
    "stream, gzip": lambda c: read(c.messages.create(**MESSAGE, stream=True, extra_headers=GZIP)),
    "stream helper": lambda c: read(c.messages.stream(**MESSAGE)),
    "raw": lambda c: c.messages.with_raw_response.create(**MESSAGE).parse(),
    "streaming": lambda c: parse_streaming(c.messages.with_streaming_response.create(**MESSAGE)),
    "streaming bytes": lambda c: read_raw(c.messages.with_streaming_response.create(**MESSAGE, stream=True)),
    "beta": lambda c: c.beta.messages.create(**MESSAGE),
    "with_options": lambda c: c.with_options(timeout=5).messages.create(**MESSAGE),
}


async def aread(stream: Any) -> None:
    """Read an async stream to its end, and leave it."""
    async with stream as opened:
        async for _ in opened:
            pass


async def acreate(call: Awaitable[Any]) -> None:
    """Read the async stream that a call gives."""
    await aread(await call)


async def aparse(opened: Any) -> None:
    """Parse a response that was opened for streaming."""
    async with opened as response:
        assert await response.parse()


ASYNC_OPENAI: dict[str, Callable[[openai.AsyncOpenAI], Awaitable[object]]] = {
    "create": lambda c: c.chat.completions.create(**CHAT),
    "stream": lambda c: acreate(c.chat.completions.create(**STREAM)),
    "stream, gzip": lambda c: acreate(c.chat.completions.create(**STREAM, extra_headers=GZIP)),
    "stream helper": lambda c: aread(helpers(c).stream(**CHAT, stream_options={"include_usage": True})),
    "raw": lambda c: c.chat.completions.with_raw_response.create(**CHAT),
    "streaming": lambda c: aparse(c.chat.completions.with_streaming_response.create(**CHAT)),
    "responses": lambda c: c.responses.create(**RESPONSE),
    "responses stream": lambda c: acreate(c.responses.create(**RESPONSE, stream=True)),
    "with_options": lambda c: c.with_options(timeout=5).chat.completions.create(**CHAT),
}

ASYNC_ANTHROPIC: dict[str, Callable[[anthropic.AsyncAnthropic], Awaitable[object]]] = {
    "create": lambda c: c.messages.create(**MESSAGE),
    "stream": lambda c: acreate(c.messages.create(**MESSAGE, stream=True)),
    "stream helper": lambda c: aread(c.messages.stream(**MESSAGE)),
    "raw": lambda c: c.messages.with_raw_response.create(**MESSAGE),
    "streaming": lambda c: aparse(c.messages.with_streaming_response.create(**MESSAGE)),
    "with_options": lambda c: c.with_options(timeout=5).messages.create(**MESSAGE),
}


@contextmanager
def known_to(library: ModuleType) -> Iterator[None]:
    """Skip a style that a client of another generation does not know; the newest knows them all."""
    try:
        yield
    except AttributeError:
        if library.__version__ >= NEWEST[library.__name__]:
            raise
        pytest.skip(f"{library.__name__} {library.__version__} has no such call")


def check(books: Books) -> None:
    """One row with the provider's figures, and the tokens in the limit."""
    (row,) = books.rows()

    assert (row.input_tokens, row.output_tokens, row.settle_reason) == (3, 12, "complete")
    assert (row.key_id, row.status, row.server_address, row.usage_source) == ("script", 200, "127.0.0.1", "provider")
    assert row.cost_pico > 0
    assert row.duration_us > 0
    assert books.used() == 15


@pytest.mark.parametrize("style", OPENAI)
def test_openai(provider: ProviderServer, books: Books, style: str) -> None:
    """The OpenAI client, in each style."""
    with openai.OpenAI(**provider.options("/v1")) as client:
        assert instrument(client, core=books.core, subject=books.subject) is client
        with known_to(openai):
            OPENAI[style](client)

    check(books)


@pytest.mark.parametrize("style", ANTHROPIC)
def test_anthropic(provider: ProviderServer, books: Books, style: str) -> None:
    """The Anthropic client, in each style."""
    with anthropic.Anthropic(**provider.options()) as client:
        assert instrument(client, core=books.core, subject=books.subject) is client
        with known_to(anthropic):
            ANTHROPIC[style](client)

    check(books)


@pytest.mark.parametrize("style", ASYNC_OPENAI)
def test_openai_async(provider: ProviderServer, books: Books, style: str) -> None:
    """The async OpenAI client, in each style."""

    async def run() -> None:
        async with openai.AsyncOpenAI(**provider.options("/v1")) as client:
            with known_to(openai):
                await ASYNC_OPENAI[style](instrument(client, core=books.core, subject=books.subject))

    asyncio.run(run())
    check(books)


@pytest.mark.parametrize("style", ASYNC_ANTHROPIC)
def test_anthropic_async(provider: ProviderServer, books: Books, style: str) -> None:
    """The async Anthropic client, in each style."""

    async def run() -> None:
        async with anthropic.AsyncAnthropic(**provider.options()) as client:
            with known_to(anthropic):
                await ASYNC_ANTHROPIC[style](instrument(client, core=books.core, subject=books.subject))

    asyncio.run(run())
    check(books)


def test_client_on_the_other_http_library(provider: ProviderServer, books: Books) -> None:
    """An OpenAI client that was given an `httpx` client is metered as one on `httpx2`."""
    with httpx.Client() as inner, openai.OpenAI(**provider.options("/v1"), http_client=inner) as client:  # type: ignore[arg-type]
        instrument(client, core=books.core, subject=books.subject)
        read(client.chat.completions.create(**STREAM))

    check(books)


def test_plain_http_client(provider: ProviderServer, books: Books) -> None:
    """The HTTP client alone can be instrumented, for whatever client it is handed to."""
    with httpx.Client() as inner:
        instrument(inner, core=books.core, subject=books.subject)
        assert inner.post(f"{provider.url}/v1/chat/completions", json=CHAT).json()["usage"]["completion_tokens"] == 12

    check(books)


OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemini-2.5-flash": (
        "/v1beta/models/gemini-2.5-flash:generateContent",
        {"contents": [{"parts": [{"text": "one two three"}]}]},
    ),
    "gemini-3.5-flash": ("/v1beta/interactions", {"model": "gemini-3.5-flash", "input": "one two three"}),
    "command-a-03-2025": ("/v2/chat", {"model": "command-a-03-2025", "messages": ASK}),
    "qwen3": ("/api/chat", {"model": "qwen3", "messages": ASK, "stream": False}),
}


@pytest.mark.parametrize("model", OTHERS)
def test_http_client_of_other_providers(provider: ProviderServer, books: Books, model: str) -> None:
    """An HTTP client is metered whichever provider's client it is given to; the row names the model that was asked for."""
    path, asked = OTHERS[model]
    with httpx.Client() as inner:
        instrument(inner, core=books.core, subject=books.subject)
        assert inner.post(provider.url + path, json=asked).is_success

    (row,) = books.rows()
    assert (row.request_model, row.input_tokens, row.output_tokens, row.usage_source) == (model, 3, 12, "provider")
    assert books.used() == 15


def test_decisions(books: Books) -> None:
    """OpenAI's decisions are charged by their usage."""
    usage = {"input_tokens": 50, "output_tokens": 2, "total_tokens": 52}
    answer = httpx.Response(200, json={"answers": [], "model": "gpt-6-luna", "usage": usage})
    with httpx.Client(transport=httpx.MockTransport(lambda _: answer)) as inner:
        instrument(inner, core=books.core, subject=books.subject)
        inner.post("https://api.openai.com/v1/decisions", json={"model": "gpt-6-luna", "input": "x", "questions": []})

    (row,) = books.rows()
    assert (row.request_model, row.input_tokens, row.output_tokens, row.usage_source) == (
        "gpt-6-luna",
        50,
        2,
        "provider",
    )


def test_a_path_that_names_no_model_is_charged_all_the_same(books: Books) -> None:
    """A name that is none keeps nobody from being charged."""
    usage = {"promptTokenCount": 50, "candidatesTokenCount": 2}
    answer = httpx.Response(200, json={"candidates": [], "modelVersion": "gemini-2.5-flash", "usageMetadata": usage})
    with httpx.Client(transport=httpx.MockTransport(lambda _: answer)) as inner:
        instrument(inner, core=books.core, subject=books.subject)
        inner.post(f"https://example.org/v1beta/models/{'m' * 300}:generateContent", json={"contents": []})

    (row,) = books.rows()
    assert (row.request_model, row.response_model, row.input_tokens) == (None, "gemini-2.5-flash", 50)


def test_embeddings(provider: ProviderServer, books: Books) -> None:
    """Embeddings have input alone."""
    with openai.OpenAI(**provider.options("/v1")) as client:
        instrument(client, core=books.core, subject=books.subject)
        client.embeddings.create(model="text-embedding-3-small", input="one two three")

    (row,) = books.rows()
    assert (row.input_tokens, row.output_tokens) == (3, 0)


def test_answers_are_those_of_a_client_without_meter(provider: ProviderServer, books: Books) -> None:
    """Neither objects nor chunks nor types differ from those of a bare client."""
    with openai.OpenAI(**provider.options("/v1")) as bare, openai.OpenAI(**provider.options("/v1")) as metered:
        instrument(metered, core=books.core, subject=books.subject)
        answers = [client.chat.completions.create(**CHAT) for client in (bare, metered)]
        streams = [client.chat.completions.create(**STREAM) for client in (bare, metered)]
        kinds = {type(stream) for stream in streams}
        chunks = [[chunk.model_dump(exclude={"id", "created"}) for chunk in stream] for stream in streams]

    assert answers[0].model_dump(exclude={"id", "created"}) == answers[1].model_dump(exclude={"id", "created"})
    assert kinds == {openai.Stream}
    assert chunks[0] == chunks[1]
