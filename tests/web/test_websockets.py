"""Websockets: admitted and metered as a connection, or each of their messages as well, as the route says."""

import asyncio
import json
from typing import Any

import pytest
from asgi_rig import Message, Rig

from tokenbudget_mw import ASGIMiddleware, current
from tokenbudget_mw.testing.conformance import Conformant

CONNECT: Message = {"type": "websocket.connect"}
BYE: Message = {"type": "websocket.disconnect", "code": 1000}
LOST: Message = {"type": "websocket.disconnect", "code": 1006}
ROUTES: list[dict[str, Any]] = [
    {"path": "/talk", "websocket": "message"},
    {"path": "/chat", "websocket": "message", "format": "openai.chat"},
    {"path": "/open"},
]
USAGE = {"prompt_tokens": 8, "completion_tokens": 5, "total_tokens": 13}


def says(text: str) -> Message:
    """A message of the client's."""
    return {"type": "websocket.receive", "text": text}


async def echoing(scope: Any, receive: Any, send: Any) -> None:
    """Answer each message with itself, until the client leaves."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


def rig(app: Any, **plan: Any) -> Rig:
    """A rig with websocket routes, whose messages keep to the specification on both sides."""
    limits = plan or {"one": ["1 concurrent", "1000 tokens/minute"]}
    made = Rig(Conformant(app), routes=ROUTES, plans=limits)
    made.middleware = Conformant(made.middleware)  # type: ignore[assignment]
    return made


def talk(rig: Rig, *messages: Message, path: str = "/talk") -> list[Message]:
    """What the server gets of a conversation."""
    scope = {"asgi": {"version": "3.0"}, "type": "websocket", "path": path, "scheme": "ws", "method": "GET"}
    return rig.run(CONNECT, *messages, **scope)


def test_a_connection_is_one_call() -> None:
    """By default a websocket is one request with one row, whatever is said, and its first answer is timed."""
    made = rig(echoing, one=["1 request/minute"])
    sent = talk(made, says("a"), says("b"), BYE, path="/open")

    (row,) = made.rows()
    assert [message.get("text") for message in sent] == [None, "a", "b"]
    assert (row.status, row.settle_reason) == (101, "complete")
    assert row.first_byte_us is not None


def test_each_message_is_a_call() -> None:
    """A route may meter messages: the connection has its row, and so has every message."""
    made = rig(echoing)
    talk(made, says("a"), says("b"), BYE)

    rows = made.rows()
    assert [(row.status, row.settle_reason, row.decision) for row in rows] == [(101, "complete", "admitted")] * 3
    assert len({row.id for row in rows}) == 3


def test_a_message_that_nobody_answers_ends_with_the_next() -> None:
    """What a client says without waiting for an answer has a row for each message as well, and nothing stays held."""

    async def listening(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] == "websocket.receive":
            current().charge({"model": "gpt-4o", "usage": USAGE})

    async def silent(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] == "websocket.receive":
            pass

    for app, each in ((listening, 8), (silent, 0)):
        made = rig(app)
        talk(made, says("a"), says("b"), says("c"), BYE)

        rows = made.rows()
        assert sorted(row.input_tokens for row in rows) == [0, each, each, each]
        assert made.core.health().open_reservations == 0


def test_a_refused_message_closes_with_the_reason() -> None:
    """The message that no limit has room for does not reach the app, which hears that the connection is closed."""
    made = rig(echoing, one=["3 requests/minute"])
    sent = talk(made, says("a"), says("b"), says("c"), says("d"), BYE)

    assert [message["type"].removeprefix("websocket.") for message in sent] == ["accept", "send", "send", "close"]
    assert (sent[-1]["code"], "requests-minute" in sent[-1]["reason"]) == (1008, True)
    assert sorted(row.decision for row in made.rows()) == ["admitted", "admitted", "admitted", "refused"]


def test_what_is_sent_after_a_refusal_fails_as_after_a_close() -> None:
    """An app that sends on gets the error that a server raises, and nothing goes out."""
    errors: list[type[Exception]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        assert (await receive())["type"] == "websocket.disconnect"
        try:
            await send({"type": "websocket.send", "text": "still there?"})
        except OSError as error:
            errors.append(type(error))

    made = Rig(app, routes=ROUTES, plans={"one": ["1 request/minute"]})
    sent = talk(made, says("a"))

    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.close"]
    assert len(errors) == 1


def test_messages_take_no_second_place() -> None:
    """A connection holds one place among the concurrent ones, and its messages none."""
    made = rig(echoing, one=["1 concurrent"])

    assert [message["type"] for message in talk(made, says("a"), BYE)] == ["websocket.accept", "websocket.send"]
    assert [message["type"] for message in talk(made, says("a"), BYE)] == ["websocket.accept", "websocket.send"]


def is_free(made: Rig) -> bool:
    """Whether another connection finds a place."""
    made.middleware = ASGIMiddleware(echoing, made.core)
    return [message["type"] for message in talk(made, BYE)] == ["websocket.accept"]


CHAT = json.dumps({"model": "gpt-4o", "max_tokens": 50, "messages": [{"role": "user", "content": "hello"}]})


async def answering(scope: Any, receive: Any, send: Any) -> None:
    """Answer each chat as a model streams, a message for each event."""
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] == "websocket.receive":
        word = {
            "object": "chat.completion.chunk",
            "model": "gpt-4o",
            "choices": [{"index": 0, "delta": {"content": "hi"}}],
        }
        await send({"type": "websocket.send", "text": json.dumps(word, indent=1)})
        await send({"type": "websocket.send", "bytes": json.dumps(word | {"choices": [], "usage": USAGE}).encode()})


def test_messages_of_a_format_are_read() -> None:
    """Where the route has a format, a message is the prompt and what the app sends is the answer, with its usage."""
    made = rig(answering)
    talk(made, says(CHAT), says(CHAT), BYE, path="/chat")

    rows = [row for row in made.rows() if row.request_model]
    assert [(row.input_tokens, row.output_tokens, row.usage_source) for row in rows] == [(8, 5, "provider")] * 2
    assert all(row.cost_pico > 0 for row in rows)


def test_a_message_is_refused_by_what_it_may_cost() -> None:
    """A message that may take more tokens than are left is refused, and takes none."""
    made = rig(answering, one=["100 tokens/minute"])
    sent = talk(made, says(CHAT), says(CHAT.replace("50", "99")), path="/chat")

    assert sent[-1]["type"] == "websocket.close"
    assert "tokens-minute" in sent[-1]["reason"]
    assert sum(row.output_tokens for row in made.rows()) == 5


@pytest.mark.parametrize(
    "text", ["no JSON", "[" * 5000, '{"model": "gpt-4o", "messages": [], "max_tokens": -3}', "\ud800"]
)
def test_a_message_that_makes_no_sense_closes(text: str) -> None:
    """What cannot be read is refused with the reason, before the app sees it: to the app, the client is gone."""
    made = rig(answering)
    sent = talk(made, says(text), path="/chat")

    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.close"]
    assert sent[1]["code"] == 1008
    assert sorted((row.decision, row.settle_reason) for row in made.rows()) == [
        ("admitted", "complete"),
        ("refused", "refused"),
    ]


def test_a_handler_charges_the_message_at_hand() -> None:
    """``current()`` is the call of the message that was received last, also in what the app starts to wait for it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        for tokens in (10, 20):
            await asyncio.wait_for(receive(), 5)  # a task of its own on Python 3.11
            current().tag(turn=str(tokens))
            current().charge({"usage": {"prompt_tokens": tokens, "completion_tokens": 1}, "model": "gpt-4o"})
        await receive()

    made = rig(app)
    talk(made, says("a"), says("b"), BYE)

    charged = [(row.input_tokens, row.tags) for row in made.rows() if row.input_tokens]
    assert charged == [(10, {"turn": "10"}), (20, {"turn": "20"})]


def test_a_reader_beside_its_writer_is_read_too() -> None:
    """An app that waits for the next message before it has answered does not end the call of the one at hand."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        waiting = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        await send({"type": "websocket.send", "text": json.dumps({"choices": [], "usage": USAGE, "model": "gpt-4o"})})
        waiting.cancel()
        await asyncio.wait([waiting])
        await send({"type": "websocket.close"})

    made = rig(app)
    talk(made, says(CHAT), path="/chat")

    (row,) = [row for row in made.rows() if row.request_model]
    assert (row.input_tokens, row.output_tokens, row.settle_reason) == (8, 5, "complete")


def test_t07_a_client_that_is_lost_leaves_nothing_held() -> None:
    """A client that vanishes before the answer is charged its prompt; the connection's place is free."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        assert (await receive())["type"] == "websocket.disconnect"

    made = rig(app)
    talk(made, says(CHAT), LOST, path="/chat")

    (row,) = [row for row in made.rows() if row.request_model]
    assert (row.settle_reason, row.input_tokens, row.output_tokens) == ("client_gone_early", 8, 0)
    assert is_free(made)


def test_t08_an_app_that_raises_is_settled() -> None:
    """An app that fails at a message is not charged for it; its error goes on as it was."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        raise RuntimeError("the app fails")

    made = rig(app)
    with pytest.raises(RuntimeError, match="the app fails"):
        talk(made, says(CHAT), path="/chat")

    (row,) = [row for row in made.rows() if row.request_model]
    assert (row.settle_reason, row.output_tokens) == ("app_error_late", 0)
    assert is_free(made)


def test_an_app_that_raises_at_a_goodbye_is_complete() -> None:
    """Frameworks raise where a handler waits for a message and the client closes as it should: that is no failure."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] == "websocket.receive":
            pass
        raise RuntimeError("disconnected")

    made = rig(app)
    with pytest.raises(RuntimeError, match="disconnected"):
        talk(made, says("a"), BYE, path="/open")

    assert [row.settle_reason for row in made.rows()] == ["complete"]


def test_t09_cancelled_conversations_hold_nothing() -> None:
    """A server that cancels a conversation at any step leaves no place taken and no tokens held."""

    async def cancelled(made: Rig, steps: int) -> bool:
        scope = {"asgi": {"version": "3.0"}, "type": "websocket", "path": "/chat", "scheme": "ws", "method": "GET"}
        task = asyncio.ensure_future(made.arun(CONNECT, says(CHAT), says(CHAT), **scope))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        async def slowly(message: Any) -> None:
            await asyncio.sleep(0)
            await send(message)

        await answering(scope, receive, slowly)

    made = rig(slow, one=["1 concurrent", "1G tokens/minute"])
    for steps in range(12):
        assert asyncio.run(cancelled(made, steps))

    assert is_free(made)


@pytest.mark.parametrize(
    ("doing", "row"),
    [
        ([{"type": "websocket.close"}], (403, "status_4xx")),
        (
            [
                {"type": "websocket.http.response.start", "status": 418, "headers": []},
                {"type": "websocket.http.response.body", "body": b"no"},
            ],
            (418, "status_4xx"),
        ),
    ],
)
def test_what_the_app_denies_is_booked_as_denied(doing: list[Message], row: tuple[int, str]) -> None:
    """An app that does not accept has a row with the status that the client gets."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        for message in doing:
            await send(message)

    made = rig(app)
    scope = {"asgi": {"version": "3.0"}, "scheme": "ws", "method": "GET", "extensions": {"websocket.http.response": {}}}
    made.run(CONNECT, type="websocket", path="/open", **scope)

    (found,) = made.rows()
    assert (found.status, found.settle_reason) == row


def test_a_refusal_after_the_end_is_the_apps_own_error() -> None:
    """A websocket that the app has closed is not closed a second time, whatever is refused to the app then."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close"})
        async with current().reserve(model="gpt-4o", prompt=5000, max_output=10):
            raise AssertionError

    made = rig(app)
    with pytest.raises(Exception, match="tokens-minute"):
        talk(made, path="/open")

    assert len(made.rows()) == 1


def test_a_get_route_covers_its_websocket() -> None:
    """A websocket begins as a GET, so a route of GET is not walked around by an upgrade."""
    made = Rig(echoing, routes=[{"path": "/open", "methods": ["GET"]}])
    sent = made.run(CONNECT, type="websocket", path="/open", subject=None)

    assert [message["type"] for message in sent] == ["websocket.close"]


@pytest.mark.parametrize(("late", "at"), [("admit", 1), ("settle", 0)], ids=["message", "leave"])
def test_an_app_that_waits_for_so_long_only_loses_nothing(late: str, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message, or the client's leave, that had come when the app stopped waiting is there when it waits again."""
    seen: list[str] = []

    async def impatient(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while seen[-1:] != ["disconnect"]:
            try:
                seen.append((await asyncio.wait_for(receive(), 0.05))["type"].removeprefix("websocket."))
            except TimeoutError:
                seen.append("waited")

    made = rig(impatient)
    guard, waits = made.core.async_guard, iter([0.5 if turn == at else 0.0 for turn in range(2)])
    usual = getattr(guard, late)

    async def slow(*arguments: Any) -> Any:
        await asyncio.sleep(next(waits, 0.0))
        return await usual(*arguments)

    monkeypatch.setattr(guard, late, slow)
    talk(made, says("a"), BYE)

    assert sorted(seen) == ["disconnect", "receive", "waited"]
    assert made.core.health().open_reservations == 0


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_an_answer_of_any_kind_of_bytes_is_read(kind: Any) -> None:
    """What an app sends as bytes may be a view of memory, as in a response."""

    async def answering(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "bytes": kind(json.dumps({"usage": USAGE}).encode())})

    made = Rig(answering, routes=ROUTES)
    talk(
        made, says(json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]})), BYE, path="/chat"
    )

    assert (8, 5) in {(row.input_tokens, row.output_tokens) for row in made.rows()}
