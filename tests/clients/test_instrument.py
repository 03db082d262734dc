"""
Who is charged for an instrumented client's calls, when, and what happens where something is wrong.
"""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx
import openai
import pytest
from asgi_rig import Rig, request
from provider_server import Books, ProviderServer

from tokenbudget_mw.calls.call import current
from tokenbudget_mw.errors import ConfigurationError
from tokenbudget_mw.testing.budget import BudgetTester
from tokenbudget_mw.values import Subject, UsageRecord
from tokenbudget_mw_clients import instrument, tags
from tokenbudget_mw_clients.endpoints import format_of
from tokenbudget_mw_clients.tees import tee

CHAT: Any = {"model": "gpt-4o", "messages": [{"role": "user", "content": "one two three"}]}
STREAM: Any = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
BYE = {"type": "websocket.disconnect", "code": 1000}
ABORT = {"x-fake": '{"abort_at": 5}'}


@pytest.fixture
def client(provider: ProviderServer, books: Books) -> Iterator[openai.OpenAI]:
    """A client that is charged to the script's books."""
    with openai.OpenAI(**provider.options("/v1")) as made:
        yield instrument(made, core=books.core, subject=books.subject)


def in_request(
    provider: ProviderServer, handle: Callable[[openai.AsyncOpenAI], Awaitable[object]]
) -> list[UsageRecord]:
    """Let a metered request's handler call the provider with an instrumented client, and return the rows."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with openai.AsyncOpenAI(**provider.options("/v1")) as made:
            await handle(instrument(made))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    rig = Rig(app)
    rig.run(request(b""), path="/plain/ask", subject="ann")
    rows = rig.rows()
    rig.core.close()
    return rows


class Raw(httpx.SyncByteStream):
    """A body as it comes over the wire."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __iter__(self) -> Iterator[bytes]:
        yield self.data


def test_what_cannot_be_decoded_is_charged_its_prompt(books: Books) -> None:
    """Of a response that is not in the coding that it names nothing is known but that it was asked for."""
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    transport = httpx.MockTransport(lambda _: httpx.Response(200, headers=headers, stream=Raw(b"no gzip")))
    with httpx.Client(transport=transport) as made, pytest.raises(httpx.DecodingError):
        instrument(made, core=books.core, subject=books.subject).post("https://a/v1/chat/completions", json=CHAT)

    (row,) = books.rows()
    assert row.input_tokens >= 3
    assert (row.output_tokens, row.usage_source) == (0, "estimated")


class Reading(httpx.HTTPTransport):
    """A transport that reads bodies, as such do that write a log, retry, or cache."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Read the whole response."""
        response = super().handle_request(request)
        response.read()
        return response


class AsyncReading(httpx.AsyncHTTPTransport):
    """The same on an event loop."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Read the whole response."""
        response = await super().handle_async_request(request)
        await response.aread()
        return response


@pytest.mark.parametrize("asked", [CHAT, STREAM], ids=["whole", "streamed"])
@pytest.mark.parametrize("fake", ["{}", '{"gzip": true}'])
def test_transport_that_reads_bodies(provider: ProviderServer, books: Books, asked: Any, fake: str) -> None:
    """What the client's own transport has read is charged as well."""
    with httpx.Client(transport=Reading()) as inner:
        made = openai.OpenAI(**provider.options("/v1", http_client=inner))
        answer = instrument(made, core=books.core, subject=books.subject).chat.completions.create(
            **asked, extra_headers={"x-fake": fake}
        )
        list(answer)

    assert [(row.input_tokens, row.output_tokens, row.usage_source) for row in books.rows()] == [(3, 12, "provider")]


def test_async_transport_that_reads_bodies(provider: ProviderServer) -> None:
    """The same on an event loop, in a request."""

    async def handle(client: openai.AsyncOpenAI) -> None:
        async with httpx.AsyncClient(transport=AsyncReading()) as inner:
            made = instrument(openai.AsyncOpenAI(**provider.options("/v1", http_client=inner)))
            await made.chat.completions.create(**CHAT)

    (row,) = in_request(provider, handle)

    assert (row.input_tokens, row.output_tokens) == (3, 12)


# -- who pays ---------------------------------------------------------------------------------------------------------


def test_request_pays(provider: ProviderServer) -> None:
    """Inside a metered request, its subject is charged, on the request's own row."""
    (row,) = in_request(provider, lambda client: client.chat.completions.create(**CHAT))

    assert (row.key_id, row.path, row.input_tokens, row.output_tokens) == ("ann", "/plain/ask", 3, 12)
    assert row.cost_pico > 0


def test_request_pays_rather_than_the_subject_that_was_given(provider: ProviderServer, books: Books) -> None:
    """A subject given to `instrument` pays only where no request runs."""

    async def handle(client: openai.AsyncOpenAI) -> None:
        await instrument(client, core=books.core, subject=books.subject).chat.completions.create(**CHAT)

    (row,) = in_request(provider, handle)

    assert (row.key_id, row.output_tokens) == ("ann", 12)
    assert books.rows() == []


@pytest.mark.parametrize("route", [{}, {"format": "openai.chat"}], ids=["without a format", "with a format"])
def test_message_of_a_websocket_pays(provider: ProviderServer, route: dict[str, str]) -> None:
    """Where messages are metered, the call that works at one is charged to it, and once."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        async with openai.AsyncOpenAI(**provider.options("/v1")) as made:
            instrument(made)
            while (await receive())["type"] == "websocket.receive":
                await made.chat.completions.create(**CHAT)

    rig = Rig(app, routes=[{"path": "/talk", "websocket": "message", **route}])
    says = {"type": "websocket.receive", "text": json.dumps({**CHAT, "max_tokens": 50})}
    rig.run({"type": "websocket.connect"}, says, says, BYE, type="websocket", path="/talk", method="GET")
    rows = rig.rows()
    rig.core.close()

    assert [(row.input_tokens, row.output_tokens) for row in rows] == [(3, 12), (3, 12), (0, 0)]


async def ask(client: openai.AsyncOpenAI) -> None:
    """One call, answered in one piece."""
    await client.chat.completions.create(**CHAT)


async def ask_for_a_stream(client: openai.AsyncOpenAI) -> None:
    """One call, answered in many."""
    async for _ in await client.chat.completions.create(**STREAM):
        pass


async def ask_twice_and_fail(client: openai.AsyncOpenAI) -> None:
    """Two calls at once, and an error of the handler's own."""
    await asyncio.gather(ask(client), ask_for_a_stream(client))
    raise LookupError


@pytest.mark.parametrize(("doing", "calls"), [(ask, 1), (ask_for_a_stream, 1), (ask_twice_and_fail, 2)])
def test_reservation_is_settled_by_what_was_heard(provider: ProviderServer, doing: Any, calls: int) -> None:
    """A call in the block of a reservation is charged once: what was used, in the place of what was reserved."""

    async def handle(client: openai.AsyncOpenAI) -> None:
        with suppress(LookupError):
            async with current().reserve(model="gpt-4o", prompt=100, max_output=500):
                await doing(client)

    rows = in_request(provider, handle)

    assert [(row.input_tokens, row.output_tokens) for row in rows] == [(3 * calls, 12 * calls)]
    assert rows[0].usage_source == "provider"


def test_stream_that_outlives_its_reservation_is_charged_once(provider: ProviderServer) -> None:
    """A stream that is read when the block has ended is charged to the request; what was reserved is not."""

    async def handle(client: openai.AsyncOpenAI) -> None:
        async with current().reserve(model="gpt-4o", prompt=100, max_output=500):
            stream = await client.chat.completions.create(**STREAM)
        async for _ in stream:
            pass

    (row,) = in_request(provider, handle)

    assert (row.input_tokens, row.output_tokens) == (3, 12)


def test_reservation_in_a_thread_without_a_context(provider: ProviderServer) -> None:
    """A thread that was given the call alone reserves by it, and so says who pays for what a client does there."""

    def work(call: Any) -> None:
        with openai.OpenAI(**provider.options("/v1")) as made, call.reserve(model="gpt-4o", prompt=3, max_output=20):
            instrument(made).chat.completions.create(**CHAT)

    async def handle(client: openai.AsyncOpenAI) -> None:
        await asyncio.get_running_loop().run_in_executor(None, work, current())

    (row,) = in_request(provider, handle)

    assert (row.key_id, row.input_tokens, row.output_tokens) == ("ann", 3, 12)


def test_one_row_for_a_model_and_its_labels(provider: ProviderServer) -> None:
    """Calls of one request share a row where model and labels are the same, and have one of their own where not."""

    async def handle(client: openai.AsyncOpenAI) -> None:
        with tags(feature="search"):
            await client.chat.completions.create(**CHAT)
            await client.chat.completions.create(**CHAT)
        with tags(feature="title"):
            await client.chat.completions.create(**CHAT)

    rows = in_request(provider, handle)

    assert [(row.tags, row.output_tokens) for row in rows] == [({"feature": "search"}, 24), ({"feature": "title"}, 12)]


def test_concurrent_tasks_keep_their_labels(provider: ProviderServer) -> None:
    """Labels follow the task that set them."""

    async def ask(client: openai.AsyncOpenAI, user: str) -> None:
        with tags(user=user):
            async for _ in await client.chat.completions.create(**STREAM):
                pass

    async def handle(client: openai.AsyncOpenAI) -> None:
        await asyncio.gather(*(ask(client, name) for name in "abc"))

    rows = in_request(provider, handle)

    assert sorted(row.tags["user"] for row in rows) == ["a", "b", "c"]
    assert {row.output_tokens for row in rows} == {12}


def test_labels_nest_and_outlive_their_block(client: openai.OpenAI, books: Books) -> None:
    """Inner labels go before outer ones; a stream that is read after the block has the labels of its request."""
    with tags(feature="search", user="u1"), tags(user="u2"):
        stream = client.chat.completions.create(**STREAM)
    list(stream)
    client.chat.completions.create(**CHAT)

    assert [row.tags for row in books.rows()] == [{"feature": "search", "user": "u2"}, {}]


def test_nobody_pays_and_the_log_says_so_once(provider: ProviderServer, caplog: pytest.LogCaptureFixture) -> None:
    """Outside of any request and without a subject, calls work, and one warning tells why they are not charged."""
    with openai.OpenAI(**provider.options("/v1")) as client:
        instrument(client)
        answers = [client.chat.completions.create(**CHAT) for _ in range(3)]

    assert [answer.usage.completion_tokens for answer in answers if answer.usage] == [12] * 3
    assert [record.levelno for record in caplog.records if record.name == "tokenbudget_mw"] == [logging.WARNING]
    assert "outside of any metered request" in caplog.text


# -- once, or not at all ----------------------------------------------------------------------------------------------


def test_twice_instrumented_charges_once(client: openai.OpenAI, books: Books) -> None:
    """A second `instrument` replaces the first, on a copy of the client, too."""
    again = instrument(client, core=books.core, subject=Subject(key="other"))
    instrument(client.with_options(timeout=9), core=books.core, subject=Subject(key="third"))
    again.chat.completions.create(**CHAT)

    assert [row.key_id for row in books.rows()] == ["third"]


def test_off_takes_the_meter_off(client: openai.OpenAI, books: Books) -> None:
    """With mode `off` nothing is charged any more."""
    instrument(client, mode="off").chat.completions.create(**CHAT)

    assert books.rows() == []


def test_disabled_settings_charge_nothing(provider: ProviderServer) -> None:
    """`enabled: False` holds for clients, too."""
    tester = BudgetTester({"enabled": False})
    with openai.OpenAI(**provider.options("/v1")) as client:
        instrument(client, core=tester.core, subject=Subject(key="k")).chat.completions.create(**CHAT)

    assert tester.rows() == []
    tester.close()


def test_failed_calls_are_free(client: openai.OpenAI, books: Books) -> None:
    """A call that the provider refused is not charged; each attempt is looked at on its own."""
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(**CHAT, extra_headers={"x-fake": '{"status": 500}'})

    assert books.rows() == []


def test_unread_body_is_free(client: openai.OpenAI, books: Books) -> None:
    """A response of which nobody reads a byte charges nothing."""
    with client.chat.completions.with_streaming_response.create(**STREAM) as response:
        assert response.status_code == 200

    assert books.rows() == []


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/v1/messages/count_tokens", None),
        ("POST", "/v1/threads/t1/messages", None),
        ("GET", "/v1/responses", None),
        ("POST", "/v1/responses/compact", "openai.responses"),
        ("POST", "/v1/responses/r1/cancel", None),
        ("POST", "/openai/deployments/d/chat/completions", "openai.chat"),
        ("POST", "/model/us.anthropic.claude-sonnet-4-5-v1:0/invoke", "anthropic.messages"),
        ("POST", "/model/us.anthropic.claude-sonnet-4-5-v1:0/invoke-with-response-stream", "anthropic.messages"),
        ("POST", "/chains/answer/invoke", None),
        ("POST", "/v1/projects/p/publishers/anthropic/models/m:streamRawPredict", "anthropic.messages"),
        ("POST", "/v1/projects/p/publishers/anthropic/models/count-tokens:rawPredict", None),
        ("POST", "/v1/decisions", "openai.responses"),
        ("POST", "/v1beta/models/gemini-2.5-flash:streamGenerateContent", "gemini"),
        ("POST", "/v1beta/models/gemini-embedding-001:batchEmbedContents", "gemini"),
        ("POST", "/v1beta/models/gemini-2.5-flash:countTokens", None),
        ("POST", "/v1beta/interactions", "gemini.interactions"),
        ("POST", "/v1beta/interactions/v1/cancel", None),
        ("POST", "/v2/chat", "cohere"),
        ("POST", "/v1/chat", "cohere"),
        ("POST", "/v2/rerank", None),
        ("POST", "/api/chat", "ollama"),
        ("POST", "/api/pull", None),
    ],
)
def test_only_model_calls_are_metered(method: str, path: str, expected: str | None) -> None:
    """Look-ups, cancellations and other people's messages are no model calls."""
    assert format_of(method, path) == expected


# -- streams ----------------------------------------------------------------------------------------------------------


def test_early_closed_stream_charges_what_passed(client: openai.OpenAI, books: Books) -> None:
    """A stream that its reader leaves is charged its prompt and the text that passed."""
    with client.chat.completions.with_streaming_response.create(**STREAM) as response:
        lines = response.iter_lines()
        texts = [json.loads(line[5:]) for line in (next(lines) for _ in range(6)) if line.startswith("data:")]

    assert texts
    (row,) = books.rows()
    assert row.settle_reason == "client_gone"
    assert row.input_tokens >= 3
    assert row.cost_pico > 0
    assert books.used() == row.total_tokens


def test_abandoned_stream_charges_what_passed(provider: ProviderServer, books: Books) -> None:
    """A reader who neither reads on nor closes is charged when the stream is forgotten."""
    with httpx.Client() as inner:
        instrument(inner, core=books.core, subject=books.subject)
        asked = inner.build_request("POST", f"{provider.url}/v1/chat/completions", json=STREAM)
        response = inner.send(asked, stream=True)
        chunks = response.iter_raw()
        next(chunks)
        chunks.close()

        (row,) = books.rows()
        assert row.settle_reason == "client_gone"
        assert row.input_tokens >= 3
        response.close()

    assert len(books.rows()) == 1


@pytest.mark.parametrize("is_async", [False, True])
def test_stream_that_is_never_closed_charges_when_all_ends(
    provider: ProviderServer, books: Books, *, is_async: bool
) -> None:
    """A script that has stopped reading and still holds the stream is charged when it closes its books."""

    async def read_some() -> object:
        made = instrument(openai.AsyncOpenAI(**provider.options("/v1")), core=books.core, subject=books.subject)
        stream = await made.chat.completions.create(**STREAM)
        async for _ in stream:
            break
        books.core.close()
        return stream

    if is_async:
        held: object = asyncio.run(read_some())
    else:
        made = instrument(openai.OpenAI(**provider.options("/v1")), core=books.core, subject=books.subject)
        held = made.chat.completions.create(**STREAM)
        next(held)
        books.core.close()

    (row,) = books.rows()
    assert held is not None
    assert (row.settle_reason, row.usage_source) == ("client_gone", "counted")
    assert books.used() == row.total_tokens > 3


SCRIPT = """
import asyncio, sys

import openai

from tokenbudget_mw import Subject
from tokenbudget_mw.accounting.sinks import CallableSink
from tokenbudget_mw.wiring import wire
from tokenbudget_mw_clients import instrument

core = wire({"plans": {}}, sink=CallableSink(lambda rows: [print(row.settle_reason, row.usage_source) for row in rows]))
kind, options = getattr(openai, sys.argv[1]), {"base_url": sys.argv[2], "api_key": "unused"}
client = instrument(kind(**options), core=core, subject=Subject(key="script"))
ask = {"model": "gpt-4o", "messages": [{"role": "user", "content": "one"}], "stream": True}


async def read_some():
    global held
    held = await client.chat.completions.create(**ask)
    async for _ in held:
        break


if sys.argv[1] == "OpenAI":
    held = client.chat.completions.create(**ask)
    next(held)
else:
    asyncio.run(read_some())
sys.exit(0)
"""


@pytest.mark.parametrize("kind", ["OpenAI", "AsyncOpenAI"])
def test_stream_that_a_script_leaves_is_charged_when_that_ends(provider: ProviderServer, kind: str) -> None:
    """A script that closes neither its stream nor its books ends them with itself."""
    options = provider.options("/v1")
    command = [sys.executable, "-c", SCRIPT, kind, options["base_url"]]
    # not asked how it ends: Python 3.13.0 crashes when such a script ends, without us, too
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert done.stdout == "client_gone counted\n"
    assert "not charged" not in done.stderr


def test_stream_that_breaks_off_charges_what_passed(client: openai.OpenAI, books: Books) -> None:
    """A stream that the provider breaks off raises what it raises anyway, and is charged as truncated."""
    with pytest.raises((openai.APIConnectionError, httpx.RemoteProtocolError)):  # the latter from older clients
        list(client.chat.completions.create(**STREAM, extra_headers=ABORT))

    (row,) = books.rows()
    assert row.settle_reason == "truncated"
    assert 0 < row.output_tokens < 12


def test_stream_without_usage_is_counted(client: openai.OpenAI, books: Books) -> None:
    """Where the client asked for no usage, prompt and answer are counted: unknown is never zero."""
    list(client.chat.completions.create(**CHAT, stream=True))

    (row,) = books.rows()
    assert row.settle_reason == "complete"
    assert row.input_tokens >= 3
    assert row.output_tokens > 0


# -- nothing reaches the user -----------------------------------------------------------------------------------------


def test_broken_books_do_not_reach_the_call(
    client: openai.OpenAI, books: Books, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever fails in the meter, the answer comes; the log says it once, without prompt or answer."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the meter is broken")

    monkeypatch.setattr(type(books.core.meter), "open_tap", fail)
    assert client.chat.completions.create(**CHAT).choices
    monkeypatch.undo()
    monkeypatch.setattr(type(books.core), "record", fail)
    assert client.chat.completions.create(**CHAT).choices
    assert list(client.chat.completions.create(**STREAM))

    assert len([record for record in caplog.records if record.name == "tokenbudget_mw"]) == 1
    assert "RuntimeError" in caplog.text
    assert "one two three" not in caplog.text


def test_hooks_of_the_user_stay(provider: ProviderServer, books: Books) -> None:
    """A hook of the user's own is called as before, and may read the body before the client does."""
    seen: list[int] = []

    def hook(response: httpx.Response) -> None:
        response.read()
        seen.append(len(response.content))

    with httpx.Client(event_hooks={"response": [hook]}) as inner:
        instrument(inner, core=books.core, subject=books.subject)
        answered = inner.post(f"{provider.url}/v1/chat/completions", json=CHAT)
        assert answered.elapsed.total_seconds() > 0
        assert instrument(inner, mode="off").event_hooks["response"] == [hook]

    assert seen == [len(answered.content)]
    (row,) = books.rows()
    assert row.output_tokens == 12


def test_tee_changes_no_byte_and_ends_once() -> None:
    """What is heard is what passes; closing after the end is no second end."""

    class Listener:
        heard, ends = b"", 0

        def feed(self, chunk: bytes) -> None:
            self.heard += chunk

        def end(self, *, was_left: bool) -> None:
            self.ends += 1
            assert not (was_left and self.ends == 1)

    listener = Listener()
    response = httpx.Response(200, stream=httpx.ByteStream(b"some bytes"))
    tee(response, listener, is_async=False)

    assert response.read() == listener.heard == b"some bytes"
    assert listener.ends >= 1


# -- mistakes at the start --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("client", "options", "message"),
    [
        (object(), {}, "cannot meter builtins.object"),
        (openai.OpenAI(api_key="unused"), {"subject": Subject(key="k")}, "`core` and `subject` together"),
        (openai.OpenAI(api_key="unused"), {"mode": "charged"}, "no mode 'charged'"),
    ],
)
def test_mistakes_are_said_at_once(client: Any, options: dict[str, Any], message: str) -> None:
    """What could never charge anybody fails where it is written."""
    with pytest.raises(ConfigurationError, match=message):
        instrument(client, **options)
