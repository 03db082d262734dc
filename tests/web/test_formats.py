"""Every format through the middleware: what the provider says it used is on the books, streamed or not."""

import asyncio
import json
import time
from typing import Any

import pytest
from asgi_rig import Rig, request, scope_of, status_of

from tokenbudget_mw import current
from tokenbudget_mw.testing.provider import FakeProvider, Script
from tokenbudget_mw.values import Subject

CHAT = {"messages": [{"role": "user", "content": "just three words"}]}
GEMINI = {"contents": [{"role": "user", "parts": [{"text": "just three words"}]}]}
CONVERSE = {"messages": [{"role": "user", "content": [{"text": "just three words"}]}]}

# format -> path, path of the stream, prefix of the route, model, body, maximum
CALLS: dict[str, tuple[str, str, str, str, dict[str, Any], dict[str, Any]]] = {
    "openai.chat": (*["/v1/chat/completions"] * 3, "gpt-4o", CHAT, {"max_tokens": 5}),
    "openai.responses": (*["/v1/responses"] * 3, "gpt-4o", {"input": "just three words"}, {"max_output_tokens": 5}),
    "anthropic.messages": (*["/v1/messages"] * 3, "claude-sonnet-4-5", CHAT, {"max_tokens": 5}),
    "cohere": (*["/v2/chat"] * 3, "command-a-03-2025", CHAT, {"max_tokens": 5}),
    "ollama": (*["/api/chat"] * 3, "qwen3", CHAT, {"options": {"num_predict": 5}}),
    "gemini": (
        "/v1beta/models/gemini-2.5-flash:generateContent",
        "/v1beta/models/gemini-2.5-flash:streamGenerateContent",
        "/v1beta/models/*",
        "gemini-2.5-flash",
        GEMINI,
        {"generationConfig": {"maxOutputTokens": 5}},
    ),
    "gemini.interactions": (
        *["/v1/interactions"] * 3,
        "gemini-2.5-flash",
        {"input": "just three words"},
        {"generation_config": {"max_output_tokens": 5}},
    ),
    "bedrock.converse": (
        "/model/us.amazon.nova-pro-v1:0/converse",
        "/model/us.amazon.nova-pro-v1:0/converse-stream",
        "/model/*",
        "us.amazon.nova-pro-v1:0",
        CONVERSE,
        {"inferenceConfig": {"maxTokens": 5}},
    ),
}


def rig(name: str, script: Script | None = None, *, auto: bool = False, **settings: Any) -> Rig:
    """A provider behind the middleware, with one route."""
    route = {"path": CALLS[name][2], "format": "auto" if auto else name}
    given = {"routes": [route], "unknown_price": "flag", "plans": {"one": ["1000 tokens/minute"]}} | settings
    return Rig(FakeProvider(script or Script(usage="always")).asgi, **given)


def send(bench: Rig, name: str, *, stream: bool) -> list[Any]:
    """Send the call of a format."""
    path, stream_path, _, model, body, most = CALLS[name]
    fields = {"model": model} | body | most | {"stream": stream}
    return bench.run(request(fields), path=stream_path if stream else path)


@pytest.mark.parametrize("auto", [False, True])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_usage_is_on_the_books(name: str, stream: bool, auto: bool) -> None:
    """The row has the provider's figures and the model, wherever the request named it."""
    bench = rig(name, auto=auto)

    assert status_of(send(bench, name, stream=stream)) == 200

    (row,) = bench.rows()
    assert (row.input_tokens, row.output_tokens, row.usage_source) == (3, 5, "provider")
    assert (row.request_model, row.settle_reason, row.is_stream) == (CALLS[name][3], "complete", stream)


@pytest.mark.parametrize("name", CALLS)
def test_without_figures_input_is_estimated_and_output_counted(name: str) -> None:
    """A stream without usage is charged the prompt and the text that passed, never nothing."""
    bench = rig(name, Script(usage="never"))

    send(bench, name, stream=True)

    (row,) = bench.rows()
    assert row.usage_source == "counted"
    assert row.input_tokens >= 3
    assert row.output_tokens == pytest.approx(5, abs=3)


@pytest.mark.parametrize("is_stream", [(True, False), (False, True), (True, True), (False, False)])
@pytest.mark.parametrize("name", CALLS)
def test_t05_streamed_and_unary_share_a_limit(name: str, is_stream: tuple[bool, bool]) -> None:
    """Of 15 tokens a minute a call of 8 leaves too little for another, whichever of the two is streamed."""
    bench = rig(name, plans={"one": ["15 tokens/minute"]})

    sent = [status_of(send(bench, name, stream=stream)) for stream in is_stream]

    assert sent == [200, 429]
    assert [row.input_tokens + row.output_tokens for row in bench.rows()] == [8, 0]
    assert [line.remaining for line in bench.core.explain(Subject(key="k1")).limits] == [7]


@pytest.mark.parametrize("name", CALLS)
def test_the_maximum_is_reserved_in_every_dialect(name: str) -> None:
    """With half of the limit spent, a call fits whose maximum fits the rest, and no other."""
    path, _, _, model, body, most = CALLS[name]
    bench = rig(name, Script(usage="always", input_tokens=495))
    send(bench, name, stream=False)

    def status(maximum: str) -> int:
        asked = json.loads(json.dumps(most).replace("5", maximum))
        return status_of(bench.run(request({"model": model} | body | asked), path=path))

    assert [status("600"), status("300")] == [429, 200]


ADVISED_USAGE = {
    "input_tokens": 1000,
    "output_tokens": 100,
    "cache_read_input_tokens": 0,
    "iterations": [
        {"type": "message", "input_tokens": 1000, "output_tokens": 100},
        {"type": "advisor_message", "model": "claude-opus-5", "input_tokens": 2000, "output_tokens": 300},
        {"type": "advisor_message", "model": "claude-opus-5", "input_tokens": 1000, "output_tokens": 200},
    ],
}
ADVISED = {"type": "message", "model": "claude-sonnet-4-5", "content": [], "usage": ADVISED_USAGE}


@pytest.mark.parametrize("how", ["passing", "charged", "reserved", "late"])
def test_an_advisor_is_charged_on_a_row_of_its_own(how: str) -> None:
    """Anthropic's advisor is another model, at its own price, and counts for the limits with the one that asked it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if how == "charged":
            current().charge(ADVISED)
        elif how == "reserved":
            async with current().reserve(model="claude-sonnet-4-5", prompt=10, max_output=10) as held:
                held.charge(ADVISED)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": json.dumps(ADVISED).encode() if how == "passing" else b"{}"})
        if how == "late":
            current().charge(ADVISED)

    route = {"path": "/v1/messages"} | ({"format": "anthropic.messages"} if how == "passing" else {})
    bench = Rig(app, routes=[route], plans={"one": ["1M tokens/minute"]})
    bench.run(request({"model": "claude-sonnet-4-5", "max_tokens": 5} | CHAT), path="/v1/messages")

    rows = [row for row in bench.rows() if row.input_tokens]
    assert (rows[0].response_model, rows[0].input_tokens, rows[0].output_tokens) == ("claude-sonnet-4-5", 1000, 100)
    assert rows[0].cost_pico == 1000 * 3_000_000 + 100 * 15_000_000
    assert {row.response_model for row in rows[1:]} == {"claude-opus-5"}
    assert sum(row.cost_pico for row in rows[1:]) == 3000 * 5_000_000 + 500 * 25_000_000
    left = [bench.core.explain(Subject(key="k1")).limits[0].remaining]
    while left[-1] != 1_000_000 - 4600 and len(left) < 200:
        time.sleep(0.02)  # what is charged late is counted beside the loop
        left.append(bench.core.explain(Subject(key="k1")).limits[0].remaining)
    assert left[-1] == 1_000_000 - 4600


def media(app: Any, body: dict[str, Any] | bytes, path: str) -> Any:
    """The row of one request to OpenAI's images or audio."""
    name = "openai.images" if "images" in path else "openai.audio"
    given = {"routes": [{"path": path, "format": name}], "plans": {"one": ["1M tokens/minute"]}}
    bench = Rig(app, unknown_price="flag", **given)
    headers = {"content-type": "multipart/form-data; boundary=x"} if isinstance(body, bytes) else {}
    assert status_of(bench.run(request(body), path=path, headers=headers)) == 200
    (row,) = bench.rows()
    return row


def answering(content_type: bytes, body: bytes) -> Any:
    """An app that answers so."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", content_type)]})
        await send({"type": "http.response.body", "body": body})

    return app


def test_speech_is_charged_as_reserved() -> None:
    """Speech itself tells nothing, so what its text was bounded to is charged, and the row says so."""
    body = {"model": "gpt-4o-mini-tts", "input": "just three words", "voice": "x"}

    row = media(answering(b"audio/mpeg", b"ID3"), body, "/v1/audio/speech")

    assert (row.output_tokens, row.usage_source, row.settle_reason) == (96, "estimated", "no_usage")


FORM = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--x--\r\n'
FORM_TYPE = "multipart/form-data; boundary=x"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([("content-type", FORM_TYPE)], 200),
        ([("content-type", FORM_TYPE), ("content-encoding", "Identity")], 200),
        ([("content-type", "multipart/form-data; boundary=y")], 400),
        ([("content-type", FORM_TYPE), ("content-type", "multipart/form-data; boundary=y")], 400),
        ([("content-type", FORM_TYPE), ("content-encoding", "identity"), ("content-encoding", "gzip")], 415),
    ],
)
def test_what_an_app_may_read_differently_is_refused(headers: list[tuple[str, str]], status: int) -> None:
    """A form behind another boundary than its content type names, and a second content encoding, are not metered."""
    path = "/v1/audio/transcriptions"
    bench = Rig(
        answering(b"application/json", b"{}"), routes=[{"path": path, "format": "openai.audio"}], unknown_price="flag"
    )
    given = [*headers, ("x-subject", "k1")]
    scope = scope_of(path=path) | {"headers": [(name.encode(), value.encode()) for name, value in given]}
    sent: list[Any] = []

    async def receive() -> Any:
        return request(FORM)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(bench.middleware(scope, receive, send))

    assert status_of(sent) == status


def test_a_form_is_metered() -> None:
    """A recording in a form is admitted, and its transcript's figures are on the books."""
    form = (
        b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\ngpt-4o-transcribe\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.mp3"\r\n\r\n[{\x00\xff\r\n--x--\r\n'
    )
    usage = {"type": "tokens", "input_tokens": 14, "output_tokens": 45, "total_tokens": 59}
    answer = json.dumps({"text": "hello", "usage": usage}).encode()

    row = media(answering(b"application/json", answer), form, "/v1/audio/transcriptions")

    assert (row.request_model, row.input_tokens, row.output_tokens) == ("gpt-4o-transcribe", 14, 45)
    assert (row.usage_source, row.settle_reason) == ("provider", "complete")


def test_pictures_are_metered() -> None:
    """A picture's figures are on the books; without them, what was reserved is."""
    body = {"model": "gpt-image-1", "prompt": "just three words", "size": "1024x1024", "quality": "low"}
    usage = {"input_tokens": 5, "output_tokens": 272, "total_tokens": 277}

    def row_of(answer: dict[str, Any]) -> Any:
        return media(answering(b"application/json", json.dumps(answer).encode()), body, "/v1/images/generations")

    said, silent = row_of({"created": 1, "data": [], "usage": usage}), row_of({"created": 1, "data": []})

    assert (said.output_tokens, said.settle_reason) == (272, "complete")
    assert (silent.output_tokens, silent.settle_reason, silent.usage_source) == (272, "no_usage", "estimated")


@pytest.mark.parametrize("name", CALLS)
def test_streams_end_with_their_budget_in_every_dialect(name: str) -> None:
    """A stream of 500 words on a budget of 100 tokens ends as that format ends, and is charged no more."""
    route = {"path": CALLS[name][2], "format": name, "on_budget_end": "finish"}
    given = {"routes": [route], "plans": {"one": ["100 tokens/minute"]}, "output_reserve": 16}
    bench = rig(name, Script(usage="never", output_tokens=500), **given)
    _, path, _, model, body, _ = CALLS[name]

    sent = bench.run(request({"model": model} | body | {"stream": True}), path=path)

    (row,) = bench.rows()
    assert (sent[-1].get("more_body", False), row.settle_reason, row.limit_name) == (
        False,
        "budget_end",
        "tokens-minute",
    )
    assert 16 <= row.output_tokens <= 100
