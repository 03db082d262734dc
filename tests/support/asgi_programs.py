"""
ASGI apps from programs, and a server that plays with them: what the app saw, what the server got, and how it ended.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from programs import BODIES, CHUNKS, ERRORS, HEADERS, STATUSES, error_of, without

__all__ = ["Client", "Trace", "clients", "conversations", "play", "playing", "responses", "scope_for", "trace", "wild"]

Program = list[tuple[Any, ...]]
App = Callable[[Any, Any, Any], Awaitable[None]]
EXTENSIONS = (
    "http.response.trailers",
    "http.response.pathsend",
    "http.response.zerocopysend",
    "http.response.early_hint",
    "http.response.debug",
    "http.response.push",
    "websocket.http.response",
)
OUR_HEADERS = frozenset({"ratelimit", "ratelimit-policy"})
CHAT = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 9}).encode()


# -- the app -------------------------------------------------------------------------------------------------------------


async def play(program: Program, receive: Any, send: Any, note: Callable[[Any], None]) -> None:
    """Do what *program* says."""
    for word, *rest in program:
        match word:
            case "send":
                await send(dict(rest[0]))
                note(("sent",))
            case "start":  # headers that can be read once, as the specification allows
                await send({**rest[0], "headers": iter(rest[0]["headers"])})
            case "receive":
                note(("received", await receive()))
            case "drain":
                while (message := await receive()).get("more_body"):
                    note(("received", message))
                note(("received", message))
            case "raise":
                error = error_of(rest[0])
                note(error)
                raise error
            case "yield":
                await asyncio.sleep(0)
            case "try":
                try:
                    await play(rest[0], receive, send, note)
                except Exception as error:
                    note(("caught", type(error), error.args))
                    await play(rest[1], receive, send, note)
            case "listen":
                listening = asyncio.ensure_future(receive())
                try:
                    await play(rest[0], receive, send, note)
                finally:
                    listening.cancel()
                    await asyncio.wait([listening])
                    note(("heard", None if listening.cancelled() else listening.exception() or listening.result()))


def playing(program: Program, note: Callable[[Any], None] = lambda _: None) -> App:
    """An app that plays *program* for whatever comes."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        note(("scope", {name: value for name, value in scope.items() if name != "headers"}, list(scope["headers"])))
        await play(program, receive, send, note)

    return app


# -- the server ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Client:
    """
    What the other side does.

    Attributes:
        messages: What it sends, before it leaves.

        fails_at: The message at which the server notices that it has gone, and raises.

        cancels_at: The message at which the server cancels the app instead.

        cancels_receive_at: The same for what the app waits for.
    """

    messages: tuple[dict[str, Any], ...] = ()
    fails_at: int | None = None
    cancels_at: int | None = None
    cancels_receive_at: int | None = None


@dataclass
class Trace:
    """
    What happened.

    Attributes:
        seen: What the app saw, and the errors that it raised.

        got: What the server got.

        order: Whose turn it was: the app's, each time that it saw something, or the server's, with each message.

        end: How it ended: the type of what came out, its words, and what it came of.

        is_own: Whether what came out is the very object that the app, or the server, has raised.
    """

    seen: list[Any] = field(default_factory=list)
    got: list[dict[str, Any]] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    end: tuple[Any, ...] = ()
    is_own: bool = True


async def _cancelled() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


def trace(make: Callable[[App], App], program: Program, client: Client, scope: dict[str, Any]) -> Trace:
    """Let the app of *program* serve *client*, inside of what *make* puts around it."""
    found = Trace()
    raised: list[BaseException] = []

    def note(event: Any) -> None:
        if isinstance(event, BaseException):
            raised.append(event)
        else:
            found.seen.append(event)
            found.order.append("app")

    async def run() -> None:
        incoming = list(client.messages)
        received = 0
        gone = {"websocket": {"type": "websocket.disconnect", "code": 1006}}.get(
            scope["type"], {"type": "http.disconnect"}
        )

        async def receive() -> dict[str, Any]:
            nonlocal received
            received += 1
            if received - 1 == client.cancels_receive_at:
                await _cancelled()
            return incoming.pop(0) if incoming else dict(gone)

        async def send(message: dict[str, Any]) -> None:
            at = len(found.got)
            if at == client.fails_at:
                error = OSError("the client has gone")
                raised.append(error)
                raise error
            if at == client.cancels_at:
                await _cancelled()
            found.order.append("server")
            found.got.append(
                {**message, "headers": list(message["headers"])} if "headers" in message else dict(message)
            )

        await make(playing(program, note))(dict(scope), receive, send)

    try:
        asyncio.run(run())
        found.end = ("returned",)
    except (Exception, asyncio.CancelledError, *ERRORS.values()) as error:
        found.end = (type(error), str(error), type(error.__cause__), type(error.__context__))
        found.is_own = isinstance(error, asyncio.CancelledError) or any(error is one for one in raised)
    return found


def scope_for(kind: str, path: str, **changes: Any) -> dict[str, Any]:
    """A whole scope of a connection to *path*."""
    own = {"method": "POST"} if kind == "http" else {"subprotocols": ["chat"]}
    return {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"a=1",
        "root_path": "",
        "headers": [(b"host", b"test"), (b"x-subject", b"k1"), (b"x-subject-too", b"")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "extensions": {name: {} for name in EXTENSIONS},
        "state": {"of": "the lifespan"},
        **own,
    } | changes


def cleaned(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages without the headers that the middleware adds; a start without headers is one with none."""
    starts = [each["type"] == "http.response.start" for each in messages]
    return [
        {**each, "headers": without(each.get("headers", []), OUR_HEADERS)} if is_start else each
        for each, is_start in zip(messages, starts, strict=True)
    ]


# -- what hypothesis draws -----------------------------------------------------------------------------------------------

_MORE = st.sampled_from([{"more_body": True}])
_LAST = st.sampled_from([{}, {"more_body": False}])


def _start(draw: st.DrawFn, *, trailers: bool = False) -> tuple[Any, ...]:
    message: dict[str, Any] = {"type": "http.response.start", "status": draw(STATUSES), "headers": draw(HEADERS)}
    if trailers:
        message["trailers"] = True
    return (draw(st.sampled_from(["send", "send", "start"])), message)


@st.composite
def responses(draw: st.DrawFn) -> Program:
    """A response as the specification has it, in every shape that it has; it may break off, or go on after its end."""
    steps: Program = [("drain",)] if draw(st.booleans()) else []
    steps += draw(st.lists(st.just(("send", {"type": "http.response.early_hint", "links": [b"</a.css>"]})), max_size=2))
    ending = draw(st.sampled_from(["body", "body", "body", "trailers", "path", "zerocopy"]))
    steps.append(_start(draw, trailers=ending == "trailers"))
    for chunk in draw(BODIES):
        steps.append(("send", {"type": "http.response.body", "body": chunk, "more_body": True}))
        steps += draw(st.lists(st.sampled_from([("yield",), ("receive",)]), max_size=1))
    if ending == "path":
        steps = [step for step in steps if step[0] != "send" or step[1]["type"] != "http.response.body"]
        steps.append(("send", {"type": "http.response.pathsend", "path": "/nowhere"}))
    elif ending == "zerocopy":
        steps.append(
            ("send", {"type": "http.response.zerocopysend", "file": 3, "offset": 1, "count": 2, "more_body": True})
        )
        steps.append(("send", {"type": "http.response.zerocopysend", "file": 3}))
    else:
        last = draw(st.sampled_from([{}, {"body": b""}, {"body": draw(CHUNKS)}]))
        steps.append(("send", {"type": "http.response.body", **last, **draw(_LAST)}))
    if ending == "trailers":
        steps.append(("send", {"type": "http.response.trailers", "headers": [(b"x-sum", b"1")], "more_trailers": True}))
        steps.append(("send", {"type": "http.response.trailers", "headers": [(b"x-sum", b"2")]}))
    return _disturbed(draw, steps)


def _disturbed(draw: st.DrawFn, steps: Program) -> Program:
    how = draw(st.sampled_from(["", "", "", "raise", "stop", "background", "listen", "recover"]))
    at = draw(st.integers(0, len(steps)))
    if how == "raise":
        return [*steps[:at], ("raise", draw(st.sampled_from(sorted(ERRORS))))]
    if how == "stop":
        return steps[:at]
    if how == "background":
        failing = draw(st.lists(st.just(("raise", "error")), max_size=1))
        return [*steps, ("yield",), ("receive",), *failing]
    if how == "listen":
        return [*steps[:at], ("listen", steps[at:])]
    if how == "recover":
        said = {"type": "http.response.start", "status": 500, "headers": [(b"content-type", b"text/plain")]}
        sorry: Program = [("send", said), ("send", {"type": "http.response.body", "body": b"sorry"})]
        return [("try", [*steps[:at], ("raise", "error")], sorry if at == 0 else [("yield",)])]
    return steps


WILD_MESSAGES = st.one_of(
    st.builds(lambda status, headers: {"type": "http.response.start", "status": status, "headers": headers}, STATUSES, HEADERS),
    st.builds(lambda status: {"type": "http.response.start", "status": status}, STATUSES),
    st.builds(lambda body, more: {"type": "http.response.body", "body": body, **more}, CHUNKS, st.one_of(_MORE, _LAST)),
    st.sampled_from([
        {"type": "http.response.body"},
        {"type": "http.response.trailers", "headers": []},
        {"type": "http.response.push", "path": "/a", "headers": []},
        {"type": "http.response.debug", "info": {"a": 1}},
        {"type": "http.response.tomorrow", "body": b"x"},
        {"type": "tomorrow"},
        {"type": "websocket.accept"},
        {"type": "websocket.send", "text": "x"},
        {"type": "websocket.close", "code": 1000},
    ]),
)  # fmt: skip


@st.composite
def wild(draw: st.DrawFn) -> Program:
    """Anything at all, in any order: the middleware judges nothing."""
    step = st.one_of(
        st.builds(lambda message: ("send", message), WILD_MESSAGES),
        st.sampled_from([("receive",), ("yield",), ("drain",)]),
        st.builds(lambda name: ("raise", name), st.sampled_from(sorted(ERRORS))),
    )
    return draw(st.lists(step, max_size=9))


@st.composite
def clients(draw: st.DrawFn, *, body: bytes | None = None) -> Client:
    """A client with a body in pieces (*body*, or any), that may leave or be cancelled at any message."""
    whole = draw(st.binary(max_size=50)) if body is None else body
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=3)))
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": each, "more_body": True} for each in pieces]
    last = messages[-1]
    last["more_body"] = False
    if draw(st.booleans()):
        del last["more_body"]
    how = draw(st.sampled_from(["", "", "", "fails_at", "cancels_at", "cancels_receive_at"]))
    # what the middleware reads ahead cannot be cancelled at the app's own wait
    at = draw(st.integers(len(messages) if how == "cancels_receive_at" else 0, len(messages) + 6))
    return Client(tuple(messages), **({how: at} if how else {}))


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Program, Client]:
    """A websocket: what the app does, and what the client says."""
    words: list[dict[str, Any]] = draw(
        st.lists(
            st.sampled_from([
                {"type": "websocket.receive", "text": "hello", "bytes": None},
                {"type": "websocket.receive", "bytes": b"\x00\xff"},
                {"type": "websocket.receive", "text": ""},
            ]),
            max_size=4,
        )
    )  # fmt: skip
    gone = {"type": "websocket.disconnect", "code": draw(st.sampled_from([1000, 1001, 1005, 1006])), "reason": "bye"}
    sends = st.sampled_from([
        ("send", {"type": "websocket.send", "text": "a word"}),
        ("send", {"type": "websocket.send", "bytes": b"\x00"}),
        ("receive",),
        ("yield",),
    ])  # fmt: skip
    accept: dict[str, Any] = {"type": "websocket.accept", "subprotocol": None, "headers": draw(HEADERS)}
    close = ("send", {"type": "websocket.close", "code": 1000, "reason": "done"})
    denial: Program = [
        ("send", {"type": "websocket.http.response.start", "status": 403, "headers": draw(HEADERS)}),
        ("send", {"type": "websocket.http.response.body", "body": b"no", "more_body": True}),
        ("send", {"type": "websocket.http.response.body"}),
    ]
    talk: Program = [("send", accept), *draw(st.lists(sends, max_size=6)), *draw(st.lists(st.just(close), max_size=1))]
    steps: Program = [("receive",), *draw(st.sampled_from([talk, talk, talk, denial, [close]]))]
    if draw(st.booleans()):
        steps = [*steps[: draw(st.integers(0, len(steps)))], ("raise", draw(st.sampled_from(sorted(ERRORS))))]
    how = draw(st.sampled_from(["", "", "fails_at", "cancels_at", "cancels_receive_at"]))
    at = {how: draw(st.integers(0, 5))} if how else {}
    return steps, Client(({"type": "websocket.connect"}, *words, gone), **at)
