"""ASGI: what passes passes untouched, and whatever way a request ends, it is settled once."""

import asyncio
import gc
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from asgi_rig import CHAT, DISCONNECT, Message, Rig, chat, request, scope_of, status_of

from tokenbudget_mw import ASGIMiddleware, current
from tokenbudget_mw.asgi import facts_of
from tokenbudget_mw.calls.call import Call, running
from tokenbudget_mw.errors import SpoolFullError, TokenBudgetError
from tokenbudget_mw.values import Cost, Subject

USAGE = {"prompt_tokens": 8, "completion_tokens": 5, "total_tokens": 13}
ANSWER = json.dumps(
    {"object": "chat.completion", "model": "gpt-4o", "choices": [{"message": {"content": "hi"}}], "usage": USAGE}
).encode()
START: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"x-own", b"1")],
}


def piece(number: int) -> bytes:
    """One chunk of a stream, with one word of text."""
    delta = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": f"word{number} "}}]}
    return b"data: " + json.dumps(delta).encode() + b"\n\n"


async def answering(scope: Any, receive: Any, send: Any) -> None:
    """Answer a chat in one piece."""
    await receive()
    await send(dict(START))
    await send({"type": "http.response.body", "body": ANSWER})


def streaming(pieces: int, *, after: Callable[[int], Any] | None = None) -> Any:
    """An app that streams, and does something after each piece."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for number in range(pieces):
            await send({"type": "http.response.body", "body": piece(number), "more_body": True})
            if after is not None:
                await after(number)
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    return app


def in_flight(rig: Rig) -> int:
    """How many calls the key holds, by asking for one more."""
    beside = ASGIMiddleware(answering, rig.core)
    rig.middleware, own = beside, rig.middleware
    sent = rig.run(chat(), subject="k1:one")
    rig.middleware = own
    return 1 if status_of(sent) == 429 else 0


def test_response_passes_with_headers_added() -> None:
    """The app's messages pass in order and unchanged, but for the limits' headers on the first."""
    sent = Rig(answering).run(chat())

    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["headers"][:2] == START["headers"]
    assert [name for name, _ in sent[0]["headers"][2:]] == [b"ratelimit-policy", b"ratelimit"]
    assert sent[1] == {"type": "http.response.body", "body": ANSWER}


@pytest.mark.parametrize("kind", [bytearray, memoryview])
@pytest.mark.parametrize("ending", ["pass", "finish"])
@pytest.mark.parametrize("form", ["application/json", "text/event-stream", ""])
def test_a_body_of_another_kind_than_bytes_is_read(kind: Any, ending: str, form: str) -> None:
    """Starlette's streams may be of memory views, which servers take; what they say is metered all the same."""
    body = ANSWER if form != "text/event-stream" else b"data: " + ANSWER.replace(b"\n", b"") + b"\n\n"

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", form.encode())]})
        await send({"type": "http.response.body", "body": kind(body[:9]), "more_body": True})
        await send({"type": "http.response.body", "body": kind(body[9:])})

    rig = Rig(app, routes=[{"path": CHAT, "format": "openai.chat", "on_budget_end": ending}])
    sent = rig.run(chat())

    (row,) = rig.rows()
    assert b"".join(bytes(message["body"]) for message in sent[1:]) == body
    assert (row.input_tokens, row.output_tokens, row.usage_source) == (8, 5, "provider")


def test_body_is_given_to_the_app_as_it_came() -> None:
    """A body that was read ahead reaches the app message by message, and nothing is invented after it."""
    got: list[Message] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        got.extend([await receive() for _ in range(4)])
        await send(dict(START))
        await send({"type": "http.response.body", "body": ANSWER})

    body = json.dumps({"model": "gpt-4o", "messages": []}).encode()
    parts: list[Message] = [
        {"type": "http.request", "body": body[:10], "more_body": True},
        {"type": "http.request", "body": b"", "more_body": True},
        {"type": "http.request", "body": body[10:], "more_body": False},
    ]
    Rig(app).run(*parts, DISCONNECT)

    assert got == [*parts, DISCONNECT]


def test_a_body_in_thousands_of_messages_is_kept_in_few() -> None:
    """What a client sends byte by byte, with messages of no bytes between, reaches the app whole and in few messages."""
    got: list[Message] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while not got or got[-1].get("more_body"):
            got.append(await receive())
        await send(dict(START))
        await send({"type": "http.response.body", "body": ANSWER})

    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "y" * 5000}]}).encode()
    parts: list[Message] = [{"type": "http.request", "body": b"", "more_body": True}] * 20_000
    parts += [{"type": "http.request", "body": bytes([byte]), "more_body": True} for byte in body]
    sent = Rig(app, plans={"one": ["100k tokens/minute"]}).run(*parts, {"type": "http.request", "body": b" "})

    assert status_of(sent) == 200
    assert b"".join(message["body"] for message in got) == body + b" "
    assert len(got) < 1_100


def test_long_body_is_not_read_whole() -> None:
    """Of a body above the limit only the head is read ahead; it is bounded by its length, and passes on."""
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive()).get("more_body"):
            seen.append(len(message["body"]))
        seen.append(len(message["body"]))
        await send(dict(START))
        await send({"type": "http.response.body", "body": ANSWER})

    rig = Rig(app, max_body=1000, plans={"one": ["100k tokens/minute"]})
    parts: list[Message] = [{"type": "http.request", "body": b"x" * 600, "more_body": True} for _ in range(4)]
    sent = rig.run(*parts, {"type": "http.request", "body": b"end"}, headers={"content-length": "2403"})

    assert status_of(sent) == 200
    assert seen == [600, 600, 600, 600, 3]


@pytest.mark.parametrize("digits", [20, 400, 5000])
def test_a_length_beyond_all_numbers_is_a_length(digits: int) -> None:
    """A body that is too long to be read is bounded by what it says of its length, whatever that is."""
    rig = Rig(answering, max_body=1000)
    sent = rig.run(chat(messages=[{"content": "x" * 2000}]), headers={"content-length": "9" * digits})

    assert status_of(sent) == 200


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Büro — 東", "B%C3%BCro %E2%80%94 %E6%9D%B1"),
        ('a "b" \\ c', 'a \\"b\\" \\\\ c'),
        ("a\r\nset-cookie: x", "a%0D%0Aset-cookie: x"),
    ],
)
def test_a_limit_of_any_name_is_in_the_headers(name: str, shown: str) -> None:
    """Whatever a limit is called: headers hold one line of ASCII, and requests pass."""
    rig = Rig(answering, plans={"one": [{"limit": "1 request/minute", "name": name}]})
    admitted, refused = [dict(rig.run(chat())[0]["headers"]) for _ in "ab"]

    for headers in (admitted, refused):
        assert headers[b"ratelimit-policy"] == f'"{shown}";q=1;w=60'.encode()
        assert headers[b"ratelimit"].startswith(f'"{shown}";r=0;'.encode())


def test_unmetered_paths_pass_untouched() -> None:
    """A path that no route names is none of our business."""
    rig = Rig(answering)
    sent = rig.run(chat(), path="/other", subject=None)

    assert sent[0] == START
    assert rig.rows() == []


def test_unknown_scope_types_pass_untouched() -> None:
    """What ASGI may yet invent goes straight to the app."""
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    Rig(app).run(type="tomorrow")

    assert seen == ["tomorrow"]


def test_disabled_passes_everything() -> None:
    """``enabled: False`` takes the middleware out of the way."""
    rig = Rig(answering, enabled=False)

    assert rig.run(chat(), subject=None)[0] == START
    assert rig.rows() == []


def test_t07_client_gone_before_the_first_chunk() -> None:
    """A client that leaves before any byte is charged its prompt, once, and its slot is free."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        assert (await receive())["type"] == "http.disconnect"

    rig = Rig(app)
    rig.run(chat(), DISCONNECT, subject="k1:one")

    (row,) = rig.rows()
    assert (row.settle_reason, row.input_tokens, row.output_tokens) == ("client_gone_early", 8, 0)
    assert in_flight(rig) == 0


def test_a_request_is_not_of_the_call_before_it() -> None:
    """uvicorn begins a request that came early where the one before it sends its end; what it uses is nobody's of that one."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(running.get())
        await send(START)
        await send({"type": "http.response.body", "body": b""})

    async def run(rig: Rig) -> None:
        begun: list[asyncio.Task[Any]] = []

        async def silent() -> Message:
            return chat()

        async def send(message: Message) -> None:
            if message["type"] == "http.response.body":
                begun.append(asyncio.create_task(rig.arun(chat(), path="/free")))

        await rig.middleware(scope_of(), silent, send)
        await begun[0]

    asyncio.run(run(Rig(app, routes=[{"path": "/v1/*"}])))

    assert [call is None for call in seen] == [False, True]


@pytest.mark.parametrize("answers", [False, True])
def test_an_upload_that_breaks_off_costs_no_prompt(answers: bool) -> None:
    """A client that leaves in the middle of its prompt is charged none, as no model was asked it; unless something was answered."""
    told: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        told.extend([(await receive())["type"] for _ in range(2)])
        if answers:
            await send(START)
            await send({"type": "http.response.body", "body": b"{", "more_body": True})

    rig = Rig(app)
    part = {"type": "http.request", "body": b'{"model": "gpt-4o", "messages": [{"role": "us', "more_body": True}
    rig.run(part, DISCONNECT, headers={"content-length": "900"})

    (row,) = rig.rows()
    assert told == ["http.request", "http.disconnect"]
    assert row.settle_reason == ("client_gone" if answers else "client_gone_early")
    assert bool(row.input_tokens) is answers


@pytest.mark.parametrize("cut", [0, 1, 17])
def test_t07_client_gone_at_a_chunk(cut: int) -> None:
    """A request cancelled in its stream is charged what had passed, once, and its slot is free."""

    async def run(rig: Rig, reached: asyncio.Event) -> None:
        task = asyncio.create_task(rig.arun(chat(stream=True), subject="k1:one"))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def both() -> Rig:
        reached = asyncio.Event()

        async def after(number: int) -> None:
            if number == cut:
                reached.set()
                await asyncio.get_running_loop().create_future()

        rig = Rig(streaming(30, after=after))
        await run(rig, reached)
        return rig

    rig = asyncio.run(both())

    (row,) = rig.rows()
    assert (row.settle_reason, row.usage_source) == ("client_gone", "counted")
    assert row.output_tokens >= cut + 1
    assert in_flight(rig) == 0


def test_t07_client_gone_in_a_unary_call() -> None:
    """A unary call whose answer nobody can take (the server's send fails) is still booked once."""

    async def run(rig: Rig) -> None:
        async def receive() -> Message:
            return chat()

        async def send(message: Message) -> None:
            raise OSError("the connection is closed")

        with pytest.raises(OSError, match="closed"):
            await rig.middleware(scope_of(subject="k1:one"), receive, send)

    rig = Rig(answering)
    asyncio.run(run(rig))

    (row,) = rig.rows()
    assert (row.settle_reason, row.input_tokens, row.output_tokens) == ("client_gone_early", 8, 0)
    assert in_flight(rig) == 0


def test_t08_app_raises_before_it_answers() -> None:
    """An app that raises is not charged; its error goes on as it was."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("the app fails")

    rig = Rig(app)
    with pytest.raises(RuntimeError, match="the app fails"):
        rig.run(chat(), subject="k1:one")

    (row,) = rig.rows()
    assert (row.settle_reason, row.cost_pico, row.status) == ("app_error", 0, None)


def test_t08_app_raises_in_its_stream() -> None:
    """An app that raises in its stream is charged for what had passed."""

    async def fail(number: int) -> None:
        if number == 2:
            raise RuntimeError("the app fails")

    rig = Rig(streaming(9, after=fail))
    with pytest.raises(RuntimeError, match="the app fails"):
        rig.run(chat(stream=True), subject="k1:one")

    (row,) = rig.rows()
    assert row.settle_reason == "app_error_late"
    assert row.output_tokens > 2
    assert row.cost_pico > 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_t08_a_call_that_a_closed_loop_leaves_behind_is_ended() -> None:
    """What hangs when its loop is closed is taken off, in a context of somebody else's, and has a row all the same."""

    async def hanging(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.get_running_loop().create_future()

    rig, loop = Rig(hanging), asyncio.new_event_loop()
    task = loop.create_task(rig.arun(chat()))
    loop.run_until_complete(asyncio.sleep(0))
    task.add_done_callback(print)  # nobody says of a task with a callback that it was pending
    held = rig.core.health().open_reservations
    loop.close()
    del task
    gc.collect()

    assert (held, rig.core.health().open_reservations) == (1, 0)
    assert [row.settle_reason for row in rig.rows()] == ["app_error"]


def test_t08_empty_completion() -> None:
    """A completion without a word is charged its prompt."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(dict(START))
        await send({"type": "http.response.body", "body": b""})

    rig = Rig(app)
    rig.run(chat())

    (row,) = rig.rows()
    assert (row.input_tokens, row.output_tokens) == (8, 0)


def test_t09_random_aborts_leave_no_slot_taken() -> None:
    """After 2,000 requests that end in every way, nothing is in flight and every request has one row."""

    class Broken(Exception):
        """The app's own."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        draw = random.Random(dict(scope["headers"])[b"x-number"])
        await receive()
        for number in range(draw.randrange(5)):
            if number == 0:
                await send(dict(START))
            await send({"type": "http.response.body", "body": piece(number), "more_body": True})
            if draw.random() < 0.3:
                raise Broken
            if draw.random() < 0.3:
                await asyncio.sleep(0)
        if draw.random() < 0.5:
            await send({"type": "http.response.body", "body": b""})

    async def one(rig: Rig, number: int) -> None:
        draw = random.Random(number)
        task = asyncio.create_task(rig.arun(chat(), headers={"x-number": str(number)}))
        for _ in range(draw.randrange(8)):
            await asyncio.sleep(0)
        if draw.random() < 0.4:
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def all_of_them(rig: Rig) -> None:
        for start in range(0, 2000, 100):
            await asyncio.gather(*[one(rig, number) for number in range(start, start + 100)])

    rig = Rig(app, plans={"one": ["100 concurrent", "1G tokens/minute"]})
    asyncio.run(all_of_them(rig))

    rows = rig.rows()
    assert len({row.id for row in rows}) == len(rows) > 1500
    assert {"app_error", "client_gone", "app_error_late", "truncated"} <= {row.settle_reason for row in rows}
    rig.middleware = ASGIMiddleware(answering, rig.core)
    free = dict(rig.run(chat())[0]["headers"])
    assert b'"concurrent";r=99' in free[b"ratelimit"]


def test_t09_refusal_changes_no_counter() -> None:
    """A refused request leaves every limit as it was."""
    limits = ["10 requests/minute", "200 tokens/minute", "$1/month", "3 concurrent"]
    rig = Rig(answering, plans={"one": limits}, limits=["50 concurrent per global"])
    rig.run(chat(max_tokens=150))
    before = rig.core.explain(Subject(key="k1")).limits

    refused = rig.run(chat(max_tokens=190))

    assert status_of(refused) == 429
    assert [line.remaining for line in before] == [9, 187, 10**9 - 70_000, 3, 50]
    assert rig.core.explain(Subject(key="k1")).limits == before


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"[1, 2]",
        b'{"model": 7, "messages": []}',
        b'{"model": "gpt-4o", "messages": [], "max_tokens": -3}',
        b'{"model": "gpt-4o", "messages": [], "max_tokens": NaN}',
        b'{"model": "gpt-4o", "messages": [], "max_tokens": 1e400}',
        b'{"model": "gpt-4o", "messages": [], "n": 18446744073686646784}',
        b'{"model": "gpt-4o", "messages": ' + b"[" * 100_000,
        b"\xff\xfe{\x00}\x00",
        '{"model": "gpt-4o"}'.encode("utf-16"),
    ],
)
def test_malformed_bodies_are_refused(body: bytes) -> None:
    """A body that makes no sense gives 400 with the reason; the app never sees it, nothing is charged."""
    rig = Rig(answering)

    sent = rig.run(request(body))

    assert status_of(sent) == 400
    assert json.loads(sent[1]["body"])["error"]["type"] == "invalid_request_error"
    assert in_flight(rig) == 0


def test_nested_arrays_are_bounded() -> None:
    """A hundred thousand arrays inside a chat are a bounded estimate, not a crash."""
    body = b'{"model": "gpt-4o", "messages": [' + b"[]," * 100_000 + b"[]]}"

    assert status_of(Rig(answering).run(request(body))) == 200


def test_compressed_request_is_refused() -> None:
    """A compressed request body is refused, not unpacked: it could be a bomb, and the app would not unpack it either."""
    sent = Rig(answering).run(request(b"\x1f\x8b..."), headers={"content-encoding": "gzip"})

    assert status_of(sent) == 415


def test_a_model_has_one_counter_however_it_is_spelt() -> None:
    """A limit per model is not walked around by another spelling, a provider's prefix or a deployment's name."""
    deployments = {"our-gpt": "gpt-4o", "Prod": "azure/GPT-4o"}
    rig = Rig(answering, plans={"one": ["2 requests/minute per model"]}, models=deployments)

    spellings = [
        "gpt-4o",
        "GPT-4o",
        "openai/gpt-4o",
        "our-gpt",
        "OUR-GPT",
        "azure/our-gpt",
        "Prod",
        "prod",
        "gpt-4o-mini",
    ]
    statuses = [status_of(rig.run(chat(model=model))) for model in spellings]

    assert statuses == [200, 200, *[429] * 6, 200]


def test_a_deployment_in_the_path_is_the_model() -> None:
    """Azure runs the deployment that the path names, whatever the body says; so it is the one that is limited."""
    route = [{"path": "/openai/deployments/*", "format": "openai.chat"}]
    rig = Rig(answering, routes=route, plans={"one": ["2 requests/minute per model"]}, models={"big": "gpt-4o"})

    def asked(deployment: str, **body: Any) -> int:
        return status_of(rig.run(chat(**body), path=f"/openai/deployments/{deployment}/chat/completions"))

    statuses = [asked("big", model=None), asked("BIG", model="gpt-4o-mini"), asked("big", model="gpt-4o-mini")]
    assert [*statuses, asked("small", model="gpt-4o")] == [200, 200, 429, 200]


def test_estimates_learn_from_the_provider() -> None:
    """A model whose tokenizer is not known is estimated better after each response that says what it was."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(dict(START))
        body = ANSWER.replace(b'"prompt_tokens": 8', b'"prompt_tokens": 3000').replace(b"gpt-4o", b"somebodys-model")
        await send({"type": "http.response.body", "body": body})

    rig = Rig(app, plans={"one": ["1G tokens/minute"]})
    asked = chat(model="somebodys-model", messages=[{"role": "user", "content": "hello " * 2000}])

    def estimate() -> int:
        return rig.core.meter.read_prompt(rig.core.routes.routes[0], asked["body"]).input.estimate

    before = estimate()
    for _ in range(50):
        rig.run(asked)

    assert before < estimate() <= 3000


def test_head_refusal_has_no_body() -> None:
    """A refused HEAD request has headers only (RFC 9110, section 9.3.2)."""
    sent = Rig(answering).run(request(b""), method="HEAD", subject=None)

    assert status_of(sent) == 401
    assert sent[1]["body"] == b""


def test_preflight_passes() -> None:
    """A browser's preflight carries no credentials, and passes."""
    headers = {"origin": "https://example.org", "access-control-request-method": "POST"}

    assert Rig(answering).run(request(b""), method="OPTIONS", subject=None, headers=headers)[0] == START


@pytest.mark.parametrize(
    "path", ["//v1/chat/completions", "/v1/chat/completions/", "/v1/./chat/completions", "/V1/chat/COMPLETIONS"]
)
def test_metered_path_has_no_second_spelling(path: str) -> None:
    """However a metered path is spelt, it is metered."""
    assert status_of(Rig(answering).run(chat(), path=path, subject=None)) == 401


def test_websocket_is_metered_per_connection() -> None:
    """A websocket is admitted once, holds its slot while it is open, and has one row."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "hello"})
        await send({"type": "websocket.close"})

    rig = Rig(app)
    connect: Message = {"type": "websocket.connect"}
    sent = rig.run(connect, type="websocket", path="/plain/chat")

    (row,) = rig.rows()
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.send", "websocket.close"]
    assert (row.method, row.status, row.settle_reason) == ("WEBSOCKET", 101, "complete")


@pytest.mark.parametrize(
    ("extensions", "types"),
    [
        (None, ["websocket.close"]),
        ({"websocket.http.response": {}}, ["websocket.http.response.start", "websocket.http.response.body"]),
    ],
)
def test_websocket_refusal(extensions: Any, types: list[str]) -> None:
    """A refused websocket is closed, with a body where the server can send one."""
    rig = Rig(answering)
    sent = rig.run(
        {"type": "websocket.connect"}, type="websocket", path="/plain/x", extensions=extensions, subject=None
    )

    assert [message["type"] for message in sent] == types


def test_a_full_spool_raises_after_all_is_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a full spool shall raise, the request fails, but its slot is free."""
    rig = Rig(answering)

    def full(record: object) -> bool:
        raise SpoolFullError

    with monkeypatch.context() as patched:
        patched.setattr(rig.core.spool, "put", full)
        with pytest.raises(SpoolFullError):
            rig.run(chat())

    assert in_flight(rig) == 0


@pytest.mark.parametrize("limit", ["1000 tokens/minute", "$5/month"])
def test_figures_beyond_all_counters_are_no_error_of_the_app(limit: str, redis_database: str) -> None:
    """What a provider reports passes, though no counter can hold it: the limit is spent, and nothing stays reserved."""
    figures = {"prompt_tokens": 2**53 - 1, "completion_tokens": 2**53 - 1}
    body = json.dumps({"model": "gpt-4o", "usage": figures}).encode()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": body})

    rig = Rig(app, backend=redis_database, plans={"one": [limit, "1 concurrent"]})

    async def twice() -> list[list[Message]]:
        sent = [await rig.arun(chat()), await rig.arun(chat())]
        await rig.core.async_guard.backend.aclose()
        return sent

    first, second = asyncio.run(twice())
    assert (status_of(first), first[-1]["body"]) == (200, body)
    assert status_of(second) == 429
    assert rig.core.health().open_reservations == 0


def test_lifespan_passes_and_drains() -> None:
    """The app's lifespan passes, and by the end of it everything is written."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await answering(scope, receive, send)
            return
        for word in ("startup", "shutdown"):
            assert (await receive())["type"] == f"lifespan.{word}"
            await send({"type": f"lifespan.{word}.complete"})

    rig = Rig(app)
    rig.run(chat())
    sent = rig.run({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}, type="lifespan")

    assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert len(rig.records) == 1


@pytest.mark.parametrize("backend", ["memory", "redis"])
def test_a_second_lifespan_begins_again(backend: str, request: pytest.FixtureRequest) -> None:
    """An app whose lifespan has ended may begin another, on a new loop: counters go on, records are written."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await answering(scope, receive, send)
        else:
            await send({"type": "lifespan.shutdown.complete"})

    url = "memory://" if backend == "memory" else request.getfixturevalue("redis_db")
    rig = Rig(app, backend=url, plans={"one": ["9 requests/minute"]})

    async def life() -> bytes:
        sent = await rig.arun(chat())
        await rig.arun(type="lifespan")
        return dict(sent[0]["headers"])[b"ratelimit"]

    left = [asyncio.run(life()) for _ in range(3)]

    assert [each.split(b";")[1] for each in left] == [b"r=8", b"r=7", b"r=6"]
    assert len(rig.records) == 3


def test_background_work_may_charge_late() -> None:
    """What a handler charges after its response counts, on a row of its own."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(dict(START))
        await send({"type": "http.response.body", "body": b"{}"})
        current().charge({"usage": {"prompt_tokens": 700, "completion_tokens": 300}, "model": "gpt-4o"})

    rig = Rig(app)
    rig.run(request(b""), path="/plain/x")
    rig.core.aside(lambda: None)
    rig.core.close()
    refused = rig.run(request(b""), path="/plain/x")

    first, late = rig.records[:2]
    assert (first.input_tokens, late.input_tokens, late.settle_reason) == (0, 700, "late")
    assert late.correlation_id == first.id
    assert status_of(refused) == 429


@pytest.mark.parametrize("kind", ["alone", "in groups"])
def test_refused_reservation_becomes_the_response(kind: str) -> None:
    """A refused reservation that an app lets through is the response, task groups around it or not."""

    async def reserve() -> None:
        async with current().reserve(model="gpt-4o", prompt=5000, max_output=10):
            raise AssertionError

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if kind == "alone":
            await reserve()
        async with asyncio.TaskGroup() as outer, asyncio.TaskGroup() as inner:
            outer.create_task(reserve())
            inner.create_task(reserve())

    rig = Rig(app)
    start, _ = rig.run(request(b""), path="/plain/x")

    assert start["status"] == 429
    assert [(row.decision, row.status) for row in rig.rows()] == [("refused", 429)]


def test_a_client_that_hears_a_refusal_may_ask_again() -> None:
    """When the response to a refused reservation goes out, the request has given its place back."""
    open_then: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with current().reserve(model="gpt-4o", prompt=5000, max_output=10):
            raise AssertionError

    async def receive() -> Message:
        return request(b"")

    async def send(message: Message) -> None:
        open_then.append(rig.core.health().open_reservations)

    rig = Rig(app)
    asyncio.run(rig.middleware(scope_of(path="/plain/x"), receive, send))

    assert open_then == [0, 0]


def test_rows_name_the_model_that_its_handler_named() -> None:
    """
    Where a response names no model, that which the handler gives stands on a row of its own, and limits per model count it:
    of a request whose model was not known before, and late, too.
    """
    usage = {"usage": {"inputTokens": 600, "outputTokens": 100}}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        for model in ("gpt-4o", "my-own", "my-other"):
            current().charge(usage, model=model)
        async with current().reserve(model="gpt-4o-mini", prompt=1, max_output=1) as held:
            held.charge(usage)
        await send(dict(START))
        await send({"type": "http.response.body", "body": b"{}"})
        current().charge(usage, model="gpt-4o")

    rig = Rig(app, plans={"one": ["3000 tokens/minute per model"]})
    rig.run(request(b""), path="/plain/x")
    rig.core.aside(lambda: None)
    rig.core.close()
    models = ("gpt-4o", "gpt-4o-mini", "my-own")
    left = [rig.core.explain(Subject(key="k1"), model=model).limits[0].remaining for model in models]

    names = ["gpt-4o", "my-own", "my-other", "gpt-4o-mini", "gpt-4o"]
    assert [row.response_model for row in rig.records] == names
    assert left == [3000 - 1400, 3000 - 700, 3000 - 700]


def test_current_needs_a_request() -> None:
    """Outside of any metered request, `current` says what is missing."""
    with pytest.raises(TokenBudgetError, match="No metered request runs here"):
        current()


def test_t11_settling_twice_is_settling_once() -> None:
    """A settlement that is sent again changes nothing."""
    rig = Rig(answering, plans={"one": ["1000 tokens/minute"]})

    async def twice() -> tuple[bool, bool]:
        call = Call(rig.core, facts_of(scope_of()), rig.core.routes.routes[0])
        call.subject = rig.core.identifier.quick(call.facts)
        call.read(chat()["body"], True)
        decision = await rig.core.async_guard.admit(call.request())
        assert decision.reservation is not None
        actual = Cost(1, 10, 20)
        first = await rig.core.async_guard.settle(decision.reservation, actual)
        return first, await rig.core.async_guard.settle(decision.reservation, actual)

    assert asyncio.run(twice()) == (True, False)
    headers = dict(rig.run(chat())[0]["headers"])
    assert b'"tokens-minute";r=862;' in headers[b"ratelimit"]


def test_unpriced_model_is_denied_when_told_so() -> None:
    """Under ``unknown_price: deny`` a model without a price is refused by name."""
    rig = Rig(answering, unknown_price="deny")

    sent = rig.run(chat(model="nobody-knows-this-model"))

    assert status_of(sent) == 400
    assert "nobody-knows-this-model" in json.loads(sent[1]["body"])["error"]["message"]


@pytest.mark.parametrize(("policy", "kind"), [("ceiling", "ceiling"), ("flag", "unpriced")])
def test_t03_unknown_price_is_visible(policy: str, kind: str) -> None:
    """A model without a price is charged the ceiling or flagged, and its row says which."""
    rig = Rig(answering_as("nobody-knows-this-model"), unknown_price=policy)

    rig.run(chat(model="nobody-knows-this-model"))

    (row,) = rig.rows()
    assert row.price_kind == kind
    assert (row.cost_pico > 0) == (policy == "ceiling")


def answering_as(model: str) -> Any:
    """An app whose response names *model*."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(dict(START))
        await send({"type": "http.response.body", "body": ANSWER.replace(b"gpt-4o", model.encode())})

    return app


def test_t01_parallel_requests_never_settle_above_the_limit() -> None:
    """Of 200 requests at once against a limit, what is settled stays within it, and the refused charge nothing."""
    rig = Rig(answering, plans={"one": ["1000 tokens/minute"]})

    async def all_of_them() -> list[int]:
        sent = await asyncio.gather(*[rig.arun(chat(max_tokens=92)) for _ in range(200)])
        return [status_of(messages) for messages in sent]

    statuses = asyncio.run(all_of_them())

    settled = sum(row.input_tokens + row.output_tokens for row in rig.rows() if row.decision == "admitted")
    refused = [row for row in rig.records if row.decision == "refused"]
    assert 10 <= statuses.count(200) < 200
    (spent,) = rig.core.explain(Subject(key="k1")).limits
    assert settled <= 1000
    assert spent.remaining == 1000 - settled
    assert {(row.cost_pico, row.input_tokens, row.output_tokens) for row in refused} == {(0, 0, 0)}
    assert CHAT in {row.route for row in rig.records}
