"""
The fake provider: what tests and the demonstration take for a model.
"""

import gzip
import io
import json
import time

import anyio
import pytest

from tokenbudget_mw import tapping
from tokenbudget_mw.testing.clock import FakeClock
from tokenbudget_mw.testing.provider import SCRIPT_HEADER, FakeProvider, ProviderAbortedError, Script

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "how many words are these"}]}
MESSAGES = {
    "model": "claude-sonnet-4-5",
    "max_tokens": 5,
    "messages": [{"role": "user", "content": "three more words"}],
}

PATHS = {
    "openai.chat": ("/v1/chat/completions", CHAT),
    "openai.completions": ("/v1/completions", {"model": "gpt-4o", "prompt": "say two words"}),
    "openai.embeddings": ("/v1/embeddings", {"model": "text-embedding-3-small", "input": ["one two", "three"]}),
    "openai.responses": ("/v1/responses", {"model": "gpt-5", "input": "four words are here"}),
    "anthropic.messages": ("/v1/messages", MESSAGES),
    "bedrock.converse": (
        "/model/us.amazon.nova-pro-v1:0/converse",
        {
            "messages": [{"role": "user", "content": [{"text": "just three words"}]}],
            "inferenceConfig": {"maxTokens": 5},
        },
    ),
    "cohere": ("/v2/chat", {**CHAT, "model": "command-a-03-2025"}),
    "ollama": ("/api/chat", {**CHAT, "model": "qwen3", "stream": False}),
    "gemini": ("/v1beta/models/gemini-2.5-flash:generateContent", {"contents": [{"parts": [{"text": "two words"}]}]}),
    "gemini.interactions": ("/v1beta/interactions", {"model": "gemini-3.5-flash", "input": "two words"}),
}


def answer(wire, script=None, **fields):
    path, body = PATHS[wire]
    if wire in ("gemini", "bedrock.converse") and fields.pop("stream", False):
        path = path.replace(":generate", ":streamGenerate").replace("/converse", "/converse-stream")
    return FakeProvider(script).answer(path, json.dumps({**body, **fields}).encode())


def tapped(wire, reply):
    headers = dict(reply.headers)
    tap = tapping.open_tap(
        wire,
        content_type=headers["content-type"],
        content_encoding=headers.get("content-encoding", ""),
        count_text=lambda text: len(text.split()),
    )
    for chunk in reply.chunks:
        tap.feed(chunk)
    return tap.usage()


def get(app, path, body, headers=()):
    """
    Run one ASGI request; return the messages that were sent.
    """
    sent = []
    scope = {"type": "http", "method": "POST", "path": path, "headers": list(headers)}

    async def receive():
        return {"type": "http.request", "body": body}

    async def send(message):
        sent.append(message)

    async def run():
        await app(scope, receive, send)

    anyio.run(run)
    return sent


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("wire", "input_tokens", "output_tokens"),
    [
        ("openai.chat", 5, 12),
        ("openai.completions", 3, 12),
        ("openai.responses", 4, 12),
        ("anthropic.messages", 3, 5),
        ("bedrock.converse", 3, 5),
        ("cohere", 5, 12),
        ("gemini", 2, 12),
        ("gemini.interactions", 2, 12),
        ("ollama", 5, 12),
    ],
)
def test_usage_is_the_words_of_prompt_and_answer(wire, input_tokens, output_tokens, stream):
    """Each format gives one token a word, whole and streamed, and the taps read it."""
    reply = answer(wire, Script(usage="always"), stream=stream)

    usage = tapped(wire, reply)

    assert (usage.input_tokens, usage.output_tokens) == (input_tokens, output_tokens)
    assert usage.complete
    assert usage.source == "provider"


def test_embeddings_have_input_only():
    """An embedding costs its input's words and no output."""
    usage = tapped("openai.embeddings", answer("openai.embeddings"))

    assert (usage.input_tokens, usage.output_tokens) == (3, 0)


@pytest.mark.parametrize(
    ("most", "expected"), [({"max_tokens": 3}, 3), ({"max_completion_tokens": 4, "max_tokens": 9}, 4), ({}, 12)]
)
def test_the_answer_obeys_the_request_s_maximum(most, expected):
    """An answer has no more tokens than the request allows."""
    assert tapped("openai.chat", answer("openai.chat", **most)).output_tokens == expected


def test_a_chat_stream_has_usage_only_where_it_was_asked_for():
    """As with the real one, `include_usage` decides; without it the text that passed is counted."""
    silent = tapped("openai.chat", answer("openai.chat", stream=True))
    spoken = tapped("openai.chat", answer("openai.chat", stream=True, stream_options={"include_usage": True}))

    assert (silent.source, silent.output_tokens) == ("counted", 12)
    assert (spoken.source, spoken.output_tokens) == ("provider", 12)


@pytest.mark.parametrize(
    "wire",
    ["openai.chat", "openai.responses", "anthropic.messages", "cohere", "gemini", "gemini.interactions", "ollama"],
)
def test_usage_can_be_left_out_or_said_twice(wire):
    """`never` sends no figures at all, `twice` sends them twice and they count once."""
    assert tapped(wire, answer(wire, Script(usage="never"), stream=True)).source == "counted"
    twice = answer(wire, Script(usage="twice"), stream=True)
    assert tapped(wire, twice).output_tokens == (5 if wire == "anthropic.messages" else 12)
    assert len(twice.chunks) == len(answer(wire, Script(usage="always"), stream=True).chunks) + 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_compressed_body_is_one_gzip_member(stream):
    """What is compressed chunk by chunk unpacks to the plain body, and each chunk can be read at once."""
    plain = answer("openai.chat", stream=stream)
    packed = answer("openai.chat", Script(gzip=True), stream=stream)

    assert dict(packed.headers)["content-encoding"] == "gzip"
    assert gzip.decompress(b"".join(packed.chunks)) == b"".join(plain.chunks)
    assert tapped("openai.chat", packed).output_tokens == 12


@pytest.mark.parametrize("wire", list(PATHS))
def test_an_error_has_the_provider_s_shape(wire):
    """An error status comes with a JSON body that names an error and no usage."""
    reply = answer(wire, Script(status=529))

    assert reply.status == 529
    body = json.loads(reply.chunks[0])
    assert body.get("error", body)["message"]
    assert "usage" not in body


def test_it_breaks_off_after_the_chunk_it_was_told():
    """`abort_at` lets that many chunks out, then raises; 0 raises before the response begins."""
    reply = answer("openai.chat", Script(abort_at=2), stream=True)
    passed = []

    with pytest.raises(ProviderAbortedError):
        passed.extend(reply.iterate())
    with pytest.raises(ProviderAbortedError):
        answer("openai.chat", Script(abort_at=0))

    assert passed == list(reply.chunks[:2])


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_request_is_a_400(body):
    """Whatever the bytes, the provider answers."""
    assert FakeProvider().answer("/v1/chat/completions", body).status == 400


def test_an_unknown_path_is_a_404():
    """Paths it does not speak are not found."""
    assert FakeProvider().answer("/v1/audio", b"{}").status == 404


def test_the_asgi_app_streams_and_obeys_the_header():
    """A stream goes out message by message, and one request's header changes its script."""
    body = json.dumps({**CHAT, "stream": True}).encode()
    waits = []

    async def wait(number):
        waits.append(number)

    app = FakeProvider(await_=wait).asgi
    told = json.dumps({"output_tokens": 3, "model": "other"}).encode()
    sent = get(app, "/v1/chat/completions", body, [(SCRIPT_HEADER.encode(), told)])

    chunks = [message["body"] for message in sent[1:]]
    assert sent[0]["status"] == 200
    assert len(chunks) == 3 + 1 + 1 + 1
    assert waits == [1, 2, 3, 4, 5]
    assert b'"model":"other"' in chunks[0]


def test_the_asgi_app_answers_the_lifespan():
    """A server's startup and shutdown are answered."""
    sent = []

    async def send(message):
        sent.append(message["type"])

    async def receive():
        return {"type": "lifespan"}

    anyio.run(lambda: FakeProvider().asgi({"type": "lifespan"}, receive, send))

    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_the_wsgi_app_says_the_same_as_the_asgi_app():
    """Both faces give the same bytes for the same request."""
    body = json.dumps({**CHAT, "stream": True}).encode()
    waits, seen = [], []
    environ = {
        "PATH_INFO": "/v1/chat/completions",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
        "HTTP_X_FAKE": '{"output_tokens": 2}',
    }

    chunks = list(FakeProvider(wait=waits.append).wsgi(environ, lambda *response: seen.append(response)))

    told = [(SCRIPT_HEADER.encode(), b'{"output_tokens": 2}')]
    sent = get(FakeProvider().asgi, "/v1/chat/completions", body, told)
    assert chunks == [message["body"] for message in sent[1:-1]]
    assert seen[0][0] == "200 OK"
    assert waits == [1, 2, 3, 4]


def test_answers_are_the_same_every_time():
    """There is no chance in it: the same request gets the same bytes."""
    assert answer("openai.chat", stream=True) == answer("openai.chat", stream=True)


def test_a_slow_answer_passes_on_the_clock():
    """A delay stands before each chunk: on the clock that was given, in both colours, and in truth without one."""
    body = json.dumps({**CHAT, "stream": True}).encode()
    clock = FakeClock(0.0)
    slow = FakeProvider(Script(output_tokens=2, delay=2.5), clock=clock)

    chunks = len(list(slow.answer("/v1/chat/completions", body).iterate()))
    after = clock()
    get(slow.asgi, "/v1/chat/completions", body, [])
    hasty = FakeProvider(Script(output_tokens=2, delay=0.001))
    began = time.monotonic()
    list(hasty.answer("/v1/chat/completions", body).iterate())
    get(hasty.asgi, "/v1/chat/completions", body, [])

    assert after == 2.5 * chunks
    assert clock() == 5.0 * chunks
    assert time.monotonic() - began >= 0.002 * chunks
