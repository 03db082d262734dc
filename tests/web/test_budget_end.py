"""
A stream that its budget does not last for, ended by its route, in ASGI and WSGI.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Any

import asgi_rig
import pytest
import wsgi_rig
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import StreamingResponse
from starlette.routing import Route

from tokenbudget_mw import current
from tokenbudget_mw.asgi import facts_of as facts_of_scope
from tokenbudget_mw.limiting import EndpointLimit
from tokenbudget_mw.testing.provider import FakeProvider, Script
from tokenbudget_mw.web.bounding import MOST_ASKED, StreamEndedError, abound
from tokenbudget_mw.wsgi import facts_of as facts_of_environ

CHAT = asgi_rig.CHAT
RESERVE = 32
"""Output tokens that are held for a request that names no maximum: what the middleware asks for at a time, too."""


def settings(how: str = "finish", tokens: int = 100, **changes: Any) -> dict[str, Any]:
    return {
        "routes": [{"path": CHAT, "format": "openai.chat", "on_budget_end": how}],
        "plans": {"one": [f"{tokens} tokens/minute", "1 concurrent"]},
        "output_reserve": RESERVE,
    } | changes


def chat(**changes: Any) -> dict[str, Any]:
    """A request that names no maximum; its prompt has 8 tokens."""
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}], "stream": True} | changes


def run_asgi(rig: asgi_rig.Rig) -> bytes:
    sent = rig.run(asgi_rig.request(chat()))
    assert not sent[-1].get("more_body")
    assert [message["type"] for message in sent].count("http.response.start") == 1
    return b"".join(message.get("body", b"") for message in sent)


def run_wsgi(rig: wsgi_rig.Rig) -> bytes:
    return rig.run(chat()).body


def asgi(provider: FakeProvider, **given: Any) -> tuple[Any, bytes]:
    rig = asgi_rig.Rig(provider.asgi, **given)
    return rig, run_asgi(rig)


def wsgi(provider: FakeProvider, **given: Any) -> tuple[Any, bytes]:
    rig = wsgi_rig.Rig(provider.wsgi, **given)
    return rig, run_wsgi(rig)


BOTH = pytest.mark.parametrize("protocol", [asgi, wsgi])


def events_of(body: bytes) -> list[Any]:
    blocks = [block.removeprefix("data: ") for block in body.decode().strip().split("\n\n")]
    return [block if block == "[DONE]" else json.loads(block) for block in blocks]


def left(rig: Any) -> dict[str, int]:
    facts = asgi_rig.Facts("POST", CHAT, (("x-subject", "k1"),))
    return {line.limit.unit: line.remaining for line in rig.core.explain(asgi_rig.subject_of(facts)).limits}


@BOTH
def test_stream_is_finished_where_the_budget_ends(protocol: Any) -> None:
    """Of 1,000 words as many pass as the minute has tokens; then the answer ends at its length, and is settled so."""
    rig, body = protocol(FakeProvider(Script(output_tokens=1000)), **settings())

    *text, last, done = events_of(body)
    (row,) = rig.rows()
    assert (last["choices"][0]["finish_reason"], done) == ("length", "[DONE]")
    assert (row.settle_reason, row.status, row.usage_source) == ("budget_end", 200, "counted")
    assert row.limit_name == "tokens-minute"
    assert 100 - 8 - RESERVE < row.output_tokens == len(text) <= 100 - 8
    assert left(rig) == {"tokens": 100 - 8 - row.output_tokens, "concurrent": 1}


@BOTH
def test_stream_is_ended_by_an_error_where_the_route_says_so(protocol: Any) -> None:
    """The error names the limit, as a refusal does."""
    rig, body = protocol(FakeProvider(Script(output_tokens=1000)), **settings("error"))

    *_, error, done = events_of(body)
    assert (error["error"]["code"], done) == ("budget_exceeded", "[DONE]")
    assert "Limit 'tokens-minute' reached" in error["error"]["message"]
    assert [row.settle_reason for row in rig.rows()] == ["budget_end"]


@BOTH
def test_stream_that_fits_is_untouched(protocol: Any) -> None:
    """What is within the limits passes byte for byte, though it is more than was held; all of it is given back."""
    provider = FakeProvider(Script(output_tokens=300, usage="always", input_tokens=8))
    (rig, body), (_, plain) = protocol(provider, **settings(tokens=1000)), protocol(provider, **settings("pass", 1000))

    assert body == plain
    assert [(row.settle_reason, row.output_tokens) for row in rig.rows()] == [("complete", 300)]
    assert left(rig) == {"tokens": 1000 - 308, "concurrent": 1}


@BOTH
def test_without_the_setting_streams_go_into_debt(protocol: Any) -> None:
    """By default nothing is ended."""
    rig, body = protocol(FakeProvider(Script(output_tokens=300)), **settings("pass"))

    assert body.count(b"data: ") > 300
    assert [row.settle_reason for row in rig.rows()] == ["no_usage"]


@BOTH
def test_money_ends_a_stream(protocol: Any) -> None:
    """A limit on money ends it, too, at the price of its model."""
    given = settings(plans={"one": ["$0.001/day"]})  # gpt-4o: $10 for a million output tokens, so fewer than 100

    rig, body = protocol(FakeProvider(Script(output_tokens=1000)), **given)

    (row,) = rig.rows()
    assert events_of(body)[-2]["choices"][0]["finish_reason"] == "length"
    assert row.settle_reason == "budget_end"
    assert 0 < row.cost_pico <= 1_000_000_000


@BOTH
def test_a_tier_ends_at_its_own_price(protocol: Any) -> None:
    """Output of a tier that costs twice as much ends where its money does, not where that of the usual price would."""
    said = {"id": "c1", "object": "chat.completion.chunk", "model": "gpt-5", "service_tier": "priority"}
    event = b"data: " + json.dumps(said | {"choices": [{"index": 0, "delta": {"content": " word"}}]}).encode() + b"\n\n"
    asked = chat(model="gpt-5", service_tier="priority")

    rig, sent = stream_of(protocol, [event] * 3000, asked, **settings(plans={"one": ["$0.01/day"]}))

    (row,) = rig.rows()
    assert b'"finish_reason":"length"' in sent
    assert (row.settle_reason, row.price_id.partition("@")[0]) == ("budget_end", "openai/gpt-5+priority")
    assert 9_000_000_000 < row.cost_pico <= 10_000_000_000


def stream_of(protocol: Any, events: list[bytes], asked: dict[str, Any], **given: Any) -> tuple[Any, bytes]:
    """The rig and the response of an app that sends these events."""
    if protocol is wsgi:

        def app(environ: Any, start_response: Any) -> Iterator[bytes]:
            start_response("200 OK", [("Content-Type", "text/event-stream")])
            yield from events

        rig = wsgi_rig.Rig(app, **given)
        return rig, rig.run(asked).body

    async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for event in events:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body"})

    asgi_host = asgi_rig.Rig(asgi_app, **given)
    sent = asgi_host.run(asgi_rig.request(asked))
    return asgi_host, b"".join(message.get("body", b"") for message in sent)


@BOTH
@pytest.mark.parametrize("plan", [["1 concurrent"], ["1 concurrent", "100000 tokens/minute"]])
def test_a_limit_on_a_single_endpoint_ends_a_stream(protocol: Any, plan: list[str]) -> None:
    """What an endpoint is limited by takes part, alone and beside the limits of the plan."""
    limit = EndpointLimit.parse(("100 tokens/minute", "9 requests/minute"), name="chat")
    provider = FakeProvider(Script(output_tokens=1000))

    def limited_wsgi(environ: Any, start_response: Any) -> Any:
        limit.admit(asgi_rig_call().core, facts_of_environ(environ))
        return provider.wsgi(environ, start_response)

    async def limited_asgi(scope: Any, receive: Any, send: Any) -> None:
        await limit.aadmit(asgi_rig_call().core, facts_of_scope(scope))
        await provider.asgi(scope, receive, send)

    rig: Any
    if protocol is wsgi:
        rig = wsgi_rig.Rig(limited_wsgi, **settings(plans={"one": plan}))
        run_wsgi(rig)
    else:
        rig = asgi_rig.Rig(limited_asgi, **settings(plans={"one": plan}))
        run_asgi(rig)

    (row,) = rig.rows()
    assert (row.settle_reason, row.limit_name) == ("budget_end", "tokens-minute-endpoint")
    assert 100 - 8 - RESERVE < row.output_tokens <= 100 - 8
    assert left(rig).get("tokens", 0) == (100_000 - 8 - row.output_tokens if plan[1:] else 0)


@BOTH
def test_a_route_says_what_it_costs(protocol: Any) -> None:
    """The outcome has a rule as every other has."""
    route = {"path": CHAT, "format": "openai.chat", "on_budget_end": "finish", "settle": {"budget_end": "refund"}}

    rig, _ = protocol(FakeProvider(Script(output_tokens=1000)), **settings(routes=[route]))

    assert [(row.settle_reason, row.output_tokens) for row in rig.rows()] == [("budget_end", 0)]
    assert left(rig) == {"tokens": 100, "concurrent": 1}


@BOTH
def test_nothing_limits_the_tokens(protocol: Any) -> None:
    """Without a limit on tokens or money there is nothing that could end."""
    rig, _ = protocol(FakeProvider(Script(output_tokens=500)), **settings(plans={"one": ["5 requests/minute"]}))

    assert [row.settle_reason for row in rig.rows()] == ["no_usage"]


@BOTH
def test_shadow_limits_end_nothing(protocol: Any) -> None:
    """A limit that refuses nobody ends no stream."""
    rig, _ = protocol(FakeProvider(Script(output_tokens=500)), **settings(mode="shadow"))

    assert [row.settle_reason for row in rig.rows()] == ["no_usage"]


def test_a_long_stream_holds_few_reservations() -> None:
    """Each reservation is for twice the tokens of the last, so a long stream has few."""
    held: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await FakeProvider(Script(output_tokens=20_000)).asgi(scope, receive, send)
        held.append(len(asgi_rig_call().extensions))

    rig = asgi_rig.Rig(app, **settings(tokens=10**9))
    run_asgi(rig)

    assert 5 < held[0] < 12 < MOST_ASKED
    assert [row.settle_reason for row in rig.rows()] == ["no_usage"]


def asgi_rig_call() -> Any:
    from tokenbudget_mw.calls.call import current

    return current()


def test_what_is_no_stream_stays_the_list_that_it_was() -> None:
    """A server tells the length of the only block of a list, which is JSON here and cannot be ended."""
    blocks = [b'{"model": "gpt-4o", "usage": {"prompt_tokens": 8, "completion_tokens": 5}}']

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "application/json")])
        return blocks

    assert wsgi_rig.Rig(app, **settings()).open(wsgi_rig.environ_of(chat())) is blocks


class TestASGI:
    def test_the_app_is_stopped(self) -> None:
        """An app that streams for ever is stopped by its next message, and told that the client has gone."""
        told: list[str] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            headers = [(b"content-type", b"text/event-stream")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            try:
                while True:
                    await send({"type": "http.response.body", "body": word(), "more_body": True})
            finally:
                told.append((await receive())["type"])
                with pytest.raises(StreamEndedError):
                    await send({"type": "http.response.body", "body": word(), "more_body": True})
                told.append("failed again")

        rig = asgi_rig.Rig(app, **settings())
        body = run_asgi(rig)

        assert told == ["http.disconnect", "failed again"]
        assert body.endswith(b"data: [DONE]\n\n")

    @pytest.mark.parametrize("version", ["2.3", "2.4"])
    def test_starlette_stops(self, version: str) -> None:
        """Starlette's stream ends, its generator is closed, and no error comes of it."""
        closed: list[bool] = []

        async def words() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield word()
                    await asyncio.sleep(0)
            finally:
                closed.append(True)

        async def stream(request: Any) -> StreamingResponse:
            return StreamingResponse(words(), media_type="text/event-stream", background=BackgroundTask(lambda: None))

        rig = asgi_rig.Rig(Starlette(routes=[Route(CHAT, stream, methods=["POST"])]), **settings())
        sent = rig.run(asgi_rig.request(chat()), asgi={"version": "3.0", "spec_version": version})

        assert sent[-1]["body"].endswith(b"data: [DONE]\n\n")
        assert [row.settle_reason for row in rig.rows()] == ["budget_end"]
        assert closed == [True]

    def test_a_price_that_ends_meanwhile_holds_for_its_stream(self) -> None:
        """A stream is priced when it begins, to its end, though the model's price has ended by then and there is no other."""
        begun = "2023-11-14T22:13:20+00:00"  # the rig's clock
        tariff = {"model": "own", "input": "1.00", "output": "10.00", "valid_until": "2023-11-14T22:15:00+00:00"}

        async def app(scope: Any, receive: Any, send: Any) -> None:
            headers = [(b"content-type", b"text/event-stream")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            rig.clock.advance(200)
            said = word().replace(b"gpt-4o", b"own")
            for _ in range(1000):
                await send({"type": "http.response.body", "body": said, "more_body": True})

        priced = {"tariffs": [tariff], "unknown_price": "deny", "plans": {"one": ["$0.001/day"]}}
        rig = asgi_rig.Rig(app, **settings(**priced))
        assert datetime.fromisoformat(begun).timestamp() == rig.clock()
        rig.run(asgi_rig.request(chat(model="own")))

        (row,) = rig.rows()
        assert (row.settle_reason, row.usage_source) == ("budget_end", "counted")
        assert 500_000_000 < row.cost_pico <= 1_000_000_000

    def test_what_one_limit_refuses_no_other_holds(self) -> None:
        """Where an endpoint's limit grants nothing more, the plan's has given back what it had granted for that."""
        limit, held = EndpointLimit.parse(("150 tokens/minute",), name="chat"), list[int]()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            call = asgi_rig_call()
            await limit.aadmit(call.core, facts_of_scope(scope))
            try:
                await FakeProvider(Script(output_tokens=1000)).asgi(scope, receive, send)
            finally:
                held.extend(each.cost.output_tokens for each in call.extensions)

        run_asgi(asgi_rig.Rig(app, **settings(tokens=100_000)))

        assert held == [32, 32, 64, 64]

    @pytest.mark.parametrize(
        ("start", "length"),
        [
            ({"status": 204}, 0),
            (
                {"status": 200, "headers": iter([(b"content-type", b"text/event-stream"), (b"content-length", b"99")])},
                99,
            ),
        ],
    )
    def test_headers_are_optional_and_may_be_read_once(self, start: Any, length: int) -> None:
        """A start without headers passes, and so do headers that are an iterator, among them a length, which is not cut."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", **start})
            for number in range(length):
                await send({"type": "http.response.body", "body": word(), "more_body": number < length - 1})

        rig = asgi_rig.Rig(app, **settings(tokens=45))
        sent = rig.run(asgi_rig.request(chat()))

        assert sent[0]["status"] == start["status"]
        assert len(sent) == 1 + length

    def test_trailers_that_are_announced_come(self) -> None:
        """A server waits for them; of a stream that is ended they are empty."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            headers = [(b"content-type", b"text/event-stream")]
            await send({"type": "http.response.start", "status": 200, "headers": headers, "trailers": True})
            while True:
                await send({"type": "http.response.body", "body": word(), "more_body": True})

        *_, body, trailers = asgi_rig.Rig(app, **settings()).run(asgi_rig.request(chat()))

        assert (body["more_body"], body["body"][-8:]) == (False, b"[DONE]\n\n")
        assert trailers == {"type": "http.response.trailers", "headers": [], "more_trailers": False}

    def test_errors_of_the_app_are_its_own(self) -> None:
        """An error that does not come of the end passes."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await FakeProvider(Script(output_tokens=2)).asgi(scope, receive, send)
            raise LookupError

        with pytest.raises(LookupError):
            asgi_rig.Rig(app, **settings()).run(asgi_rig.request(chat()))

    def test_a_client_that_leaves_gives_back_everything(self) -> None:
        """What the stream took beyond the first reservation is given back with it."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            headers = [(b"content-type", b"text/event-stream")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            for _ in range(200):
                await send({"type": "http.response.body", "body": word(), "more_body": True})
            assert (await receive())["type"] == "http.disconnect"

        rig = asgi_rig.Rig(app, **settings(tokens=1000))
        rig.run(asgi_rig.request(chat()), asgi_rig.DISCONNECT)

        (row,) = rig.rows()
        assert (row.settle_reason, row.output_tokens) == ("client_gone", 200)
        assert left(rig) == {"tokens": 1000 - 208, "concurrent": 1}


@BOTH
@pytest.mark.parametrize("coding", ["", "gzip"])
def test_a_route_whose_format_is_detected(protocol: Any, coding: str) -> None:
    """The stream tells its format by its first event, compressed too."""
    route = {"path": CHAT, "format": "auto", "on_budget_end": "finish"}
    provider = FakeProvider(Script(output_tokens=1000, gzip=bool(coding)))

    rig, body = protocol(provider, **settings(routes=[route]))

    *text, last, done = events_of(gzip.decompress(body) if coding else body)
    (row,) = rig.rows()
    assert (last["choices"][0]["finish_reason"], done) == ("length", "[DONE]")
    assert (row.settle_reason, row.output_tokens) == ("budget_end", len(text))


@BOTH
@pytest.mark.parametrize("how", ["finish", "error"])
def test_a_compressed_stream_ends(protocol: Any, how: str) -> None:
    """What the client decodes is the end that it would see uncompressed, with its checksum."""
    rig, body = protocol(FakeProvider(Script(output_tokens=1000, gzip=True)), **settings(how))

    *_, last, done = events_of(gzip.decompress(body))
    (row,) = rig.rows()
    assert done == "[DONE]"
    assert last["error"]["code"] == "budget_exceeded" if how == "error" else last["choices"]
    assert row.settle_reason == "budget_end"
    assert 100 - 8 - RESERVE < row.output_tokens <= 100 - 8
    assert left(rig) == {"tokens": 100 - 8 - row.output_tokens, "concurrent": 1}


def test_what_starlettes_own_compression_makes_of_a_stream_ends() -> None:
    """Its middleware flushes behind each chunk, so that the stream can be gone on with."""

    async def lines() -> AsyncIterator[bytes]:
        while True:
            line = {"model": "qwen3", "created_at": "now", "message": {"role": "assistant", "content": " word"}}
            yield json.dumps(line | {"done": False}).encode() + b"\n"

    async def stream(request: Any) -> StreamingResponse:
        return StreamingResponse(lines(), media_type="application/x-ndjson")

    app = Starlette(
        routes=[Route("/api/chat", stream, methods=["POST"])], middleware=[Middleware(GZipMiddleware, minimum_size=1)]
    )
    route = {"path": "/api/chat", "format": "ollama", "on_budget_end": "finish"}
    rig = asgi_rig.Rig(app, **settings(routes=[route]))
    sent = rig.run(asgi_rig.request(chat(model="qwen3")), path="/api/chat", headers={"accept-encoding": "gzip"})

    body = gzip.decompress(b"".join(message.get("body", b"") for message in sent))
    *_, last = [json.loads(line) for line in body.splitlines()]
    assert (b"content-encoding", b"gzip") in sent[0]["headers"]
    assert (last["done"], last["done_reason"]) == (True, "length")
    assert [row.settle_reason for row in rig.rows()] == ["budget_end"]


GEMINI = "/v1beta/models/gemini-2.5-flash:streamGenerateContent"


def gemini_array() -> Iterator[bytes]:
    """A thousand words, as Gemini sends them without ``alt=sse``."""
    for number in range(1000):
        text = {
            "candidates": [{"content": {"parts": [{"text": " word"}]}, "index": 0}],
            "modelVersion": "gemini-2.5-flash",
        }
        yield (b"," if number else b"[") + json.dumps(text).encode()
    yield b"]"


@pytest.mark.parametrize("is_asgi", [True, False])
def test_geminis_array_is_closed(is_asgi: bool) -> None:
    """The last object finishes at the maximum, and the array ends."""
    route = {"path": "/v1beta/*", "format": "gemini", "on_budget_end": "finish"}
    asked = {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"application/json; charset=UTF-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for chunk in gemini_array():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})

    def wsgi_app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("content-type", "application/json; charset=UTF-8")])
        return gemini_array()

    rig: Any
    if is_asgi:
        rig = asgi_rig.Rig(app, **settings(routes=[route]))
        sent = rig.run(asgi_rig.request(asked), path=GEMINI)
        body = b"".join(message.get("body", b"") for message in sent)
    else:
        rig = wsgi_rig.Rig(wsgi_app, **settings(routes=[route]))
        body = rig.run(asked, PATH_INFO=GEMINI).body

    *objects, last = json.loads(body)
    (row,) = rig.rows()
    assert last["candidates"][0]["finishReason"] == "MAX_TOKENS"
    assert row.settle_reason == "budget_end"
    assert (
        32 <= len(objects) <= row.output_tokens < 100
    )  # a word is more than a token of Gemini's, by the count's factor


def test_an_async_iterable_is_closed_with_its_stream() -> None:
    """What Django streams is closed where its budget ends, not when it is collected: a provider would go on and ask for money."""
    closed: list[int] = []

    async def words() -> AsyncIterator[bytes]:
        try:
            while True:
                yield word()
        finally:
            closed.append(1)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        call, content = current(), words()
        call.respond(200, [("content-type", "text/event-stream")])
        pieces = [piece async for piece in abound(call, content, has_length=False)]
        assert pieces[-1].endswith(b"data: [DONE]\n\n")
        assert closed == [1]

    route = {"path": CHAT, "format": "openai.chat", "on_budget_end": "finish"}
    rig = asgi_rig.Rig(app, **settings(routes=[route]))
    rig.run(asgi_rig.request(chat()))

    assert closed == [1]


def test_an_app_that_sends_on_is_not_heard() -> None:
    """An app that takes the end of its stream for a passing error gets it each time, and nothing more goes out."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        start = {"status": 200, "headers": [(b"content-type", b"text/event-stream")]}
        await send({"type": "http.response.start", **start})
        piece = {"type": "http.response.body", "body": word(), "more_body": True}
        failed = 0
        for _ in range(200):
            try:
                await send(piece)
            except OSError:
                failed += 1
        assert failed > 100

    body = run_asgi(asgi_rig.Rig(app, **settings()))

    assert body.endswith(b"data: [DONE]\n\n")
    assert body.count(b"[DONE]") == 1


class TestWSGI:
    @pytest.mark.parametrize("catches", [False, True])
    def test_what_is_written_ends(self, catches: bool) -> None:
        """An app that writes is stopped by `write()`; what it would say afterwards is not said."""
        stopped: list[bool] = []

        def app(environ: Any, start_response: Any) -> list[bytes]:
            write = start_response("200 OK", [("content-type", "text/event-stream")])
            try:
                while True:
                    write(word())
            except OSError:
                with pytest.raises(StreamEndedError):
                    write(word())
                stopped.append(True)
                if not catches:
                    raise
            return [word()]

        rig = wsgi_rig.Rig(app, **settings())
        body = run_wsgi(rig)

        (row,) = rig.rows()
        assert stopped == [True]
        assert body.endswith(b"data: [DONE]\n\n")
        assert body.count(b"[DONE]") == 1
        assert row.settle_reason == "budget_end"
        assert row.output_tokens == body.count(b" word") <= 100 - 8

    def test_errors_of_an_app_that_writes_are_its_own(self) -> None:
        """Only the end of the stream is kept from the server."""

        def app(environ: Any, start_response: Any) -> list[bytes]:
            start_response("200 OK", [("content-type", "text/event-stream")])(word())
            raise LookupError

        with pytest.raises(LookupError):
            run_wsgi(wsgi_rig.Rig(app, **settings()))

    def test_the_app_is_closed_at_once(self) -> None:
        """The app's generator is closed with the end, not when the server comes round to it; and only once."""
        closed: list[int] = []

        def app(environ: Any, start_response: Any) -> Iterator[bytes]:
            start_response("200 OK", [("content-type", "text/event-stream")])
            try:
                while True:
                    yield word()
            finally:
                closed.append(1)

        rig = wsgi_rig.Rig(app, **settings())
        iterable: Any = rig.open(wsgi_rig.environ_of(chat()))
        chunks = []
        for chunk in iterable:
            chunks.append(chunk)
            if b"[DONE]" in chunk:
                assert closed == [1]
        iterable.close()

        assert chunks[-1].endswith(b"data: [DONE]\n\n")
        assert closed == [1]


@pytest.mark.parametrize(
    "headers",
    [
        [("content-type", "text/event-stream"), ("content-encoding", "gzip")],
        [("content-type", "text/event-stream"), ("content-length", "100000")],
        [("content-type", "application/json")],
    ],
)
@pytest.mark.parametrize("is_asgi", [True, False])
def test_what_cannot_be_ended_passes(headers: list[tuple[str, str]], is_asgi: bool) -> None:
    """What is compressed, of a known length, or no stream, passes as it comes."""
    data = word() * 300

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raw = [(name.encode(), value.encode()) for name, value in headers]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        await send({"type": "http.response.body", "body": data})

    def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", headers)
        return [data]

    body = run_asgi(asgi_rig.Rig(app, **settings())) if is_asgi else run_wsgi(wsgi_rig.Rig(wsgi_app, **settings()))

    assert body == data


def word() -> bytes:
    choice = {"index": 0, "delta": {"content": " word"}, "finish_reason": None}
    return b"data: " + json.dumps({"id": "c", "model": "gpt-4o", "choices": [choice]}).encode() + b"\n\n"
