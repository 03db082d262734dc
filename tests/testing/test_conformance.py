"""The observer of ASGI apps: silent on right ones, loud on every wrong one, and it says who is wrong."""

import asyncio
import re
from typing import Any

import pytest

from tokenbudget_mw.testing.conformance import ConformanceError, Conformant

EXTENSIONS: dict[str, Any] = {
    "http.response.trailers": {},
    "http.response.pathsend": {},
    "http.response.zerocopysend": {},
    "http.response.early_hint": {},
    "http.response.debug": {},
}
START: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]}
BODY: dict[str, Any] = {"type": "http.response.body", "body": b"x"}
MORE: dict[str, Any] = {**BODY, "more_body": True}
TRAILERS: dict[str, Any] = {"type": "http.response.trailers", "headers": [(b"a", b"b")]}
HINT: dict[str, Any] = {"type": "http.response.early_hint", "links": [b"</a.css>"]}
PATH: dict[str, Any] = {"type": "http.response.pathsend", "path": "/a"}
ACCEPT: dict[str, Any] = {"type": "websocket.accept"}
SAY: dict[str, Any] = {"type": "websocket.send", "text": "x"}
CLOSE: dict[str, Any] = {"type": "websocket.close"}
DENY: dict[str, Any] = {"type": "websocket.http.response.start", "status": 403}
CONNECT: dict[str, Any] = {"type": "websocket.connect"}
HEARD: dict[str, Any] = {"type": "websocket.receive", "text": "x", "bytes": None}
LEFT: dict[str, Any] = {"type": "websocket.disconnect", "code": 1000}
REQUEST: dict[str, Any] = {"type": "http.request", "body": b"", "more_body": False}
GONE: dict[str, Any] = {"type": "http.disconnect"}
RECEIVE = "receive"
STARTUP: dict[str, Any] = {"type": "lifespan.startup"}
SHUTDOWN: dict[str, Any] = {"type": "lifespan.shutdown"}


def scope(kind: str, **changes: Any) -> dict[str, Any]:
    """A scope as the specification has it."""
    asgi = {"version": "3.0", "spec_version": "2.5"}
    if kind == "lifespan":
        return {"type": kind, "asgi": asgi} | changes
    own = {"method": "GET"} if kind == "http" else {"subprotocols": []}
    return {
        "type": kind,
        "asgi": asgi,
        "http_version": "1.1",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"test")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "extensions": EXTENSIONS,
        **own,
    } | changes


def serve(kind: str, doing: list[Any], incoming: list[dict[str, Any]], **changes: Any) -> list[Any]:
    """Let an app do what is listed, each a message to send or a `RECEIVE`, observed; return what was sent."""
    sent: list[Any] = []
    left = list(incoming)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for step in doing:
            if step == RECEIVE:
                await receive()
            else:
                await send(step)

    async def receive() -> Any:
        return left.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Conformant(app)(scope(kind, **changes), receive, send))
    return sent


RIGHT: list[tuple[str, list[Any], list[Any]]] = [
    ("http", [RECEIVE, START, BODY], [REQUEST]),
    ("http", [START, MORE, MORE, {"type": "http.response.body"}], []),
    ("http", [HINT, HINT, START, BODY], []),
    ("http", [{**START, "trailers": True}, BODY, {**TRAILERS, "more_trailers": True}, TRAILERS], []),
    ("http", [START, PATH], []),
    ("http", [START, {"type": "http.response.zerocopysend", "file": 3, "more_body": True}, BODY], []),
    ("http", [{"type": "http.response.debug", "info": {}}, START, BODY], []),
    ("http", [RECEIVE, RECEIVE, RECEIVE], [REQUEST, GONE, GONE]),
    ("http", [START, RECEIVE, RECEIVE, MORE], [REQUEST, GONE]),
    ("http", [{**START, "headers": iter([(b"a", b"b")])}, BODY], []),
    ("websocket", [RECEIVE, ACCEPT, RECEIVE, SAY, CLOSE], [CONNECT, HEARD]),
    ("websocket", [RECEIVE, ACCEPT, RECEIVE], [CONNECT, LEFT]),
    ("websocket", [RECEIVE, CLOSE], [CONNECT]),
    ("lifespan", [RECEIVE, {"type": "lifespan.startup.complete"}], [STARTUP]),
    ("lifespan", [RECEIVE, {"type": "lifespan.startup.failed", "message": "no"}], [STARTUP]),
    ("tomorrow", [{"no": "type"}], []),
]


@pytest.mark.parametrize(("kind", "doing", "incoming"), RIGHT)
def test_right_apps_pass_as_they_are(kind: str, doing: list[Any], incoming: list[Any]) -> None:
    """What keeps to the specification is neither stopped nor changed."""
    assert serve(kind, doing, incoming) == [step for step in doing if step != RECEIVE]


WRONG_APPS: list[tuple[str, list[Any], list[Any], str]] = [
    ("http", [BODY], [], "a body follows a start"),
    ("http", [START, START], [], "starts once"),
    ("http", [START], [], "returns when its response has ended; it is started"),
    ("http", [], [], "it is new"),
    ("http", [START, MORE], [], "it is started"),
    ("http", [START, BODY, BODY], [], "ends once"),
    ("http", [START, BODY, TRAILERS], [], "trailers are announced"),
    ("http", [{**START, "trailers": True}, BODY], [], "it is trailing"),
    ("http", [{**START, "trailers": True}, TRAILERS], [], "trailers are announced, and follow the body"),
    ("http", [START, PATH, BODY], [], "ends once"),
    ("http", [START, {"type": "http.response.pathsend", "path": b"/a"}], [], "'path' is a str"),
    ("http", [START, {"type": "http.response.zerocopysend"}], [], "has a 'file'"),
    ("http", [START, {"type": "http.response.debug"}], [], "before the start"),
    ("http", [START, BODY, HINT], [], "before the end"),
    ("http", [START, {"type": "http.response.tomorrow"}], [], "known type"),
    ("http", [{"type": "websocket.accept"}], [], "message of http"),
    ("http", [{"status": 200}], [], "has a 'type'"),
    ("http", ["http.response.start"], [], "is a dict"),
    ("http", [{**START, "status": "200"}], [], "'status' is an int"),
    ("http", [{**START, "status": True}], [], "'status' is an int"),
    ("http", [{**START, "headers": {b"a": b"b"}}], [], "headers are no dict"),
    ("http", [{**START, "headers": [("a", "b")]}], [], "are bytes"),
    ("http", [{**START, "headers": [(b"a",)]}], [], "is a pair"),
    ("http", [START, {**BODY, "body": "x"}], [], "'body' is"),
    ("http", [START, {**BODY, "more_body": 1}], [], "'more_body' is"),
    ("websocket", [ACCEPT], [], "accepted when it was connected"),
    ("websocket", [RECEIVE, SAY], [CONNECT], "sent when the websocket was accepted"),
    ("websocket", [RECEIVE, ACCEPT, ACCEPT], [CONNECT], "accepted once"),
    ("websocket", [RECEIVE, CLOSE, CLOSE], [CONNECT], "nothing follows a close"),
    ("websocket", [RECEIVE, ACCEPT], [CONNECT], "returns when the websocket is closed"),
    ("websocket", [RECEIVE, ACCEPT, {**SAY, "bytes": b"x"}], [CONNECT], "either 'bytes' or 'text'"),
    ("websocket", [RECEIVE, DENY], [CONNECT], "announced websocket.http.response"),
    ("websocket", [RECEIVE, ACCEPT, {**CLOSE, "code": "1000"}], [CONNECT], "'code' is"),
    ("websocket", [RECEIVE, {"type": "websocket.ping"}], [CONNECT], "known type"),
    ("lifespan", [{"type": "lifespan.startup.complete"}], [], "what was asked"),
    ("lifespan", [RECEIVE, {"type": "lifespan.shutdown.complete"}], [STARTUP], "answers lifespan.startup"),
    ("lifespan", [RECEIVE], [STARTUP], "answers before it returns"),
    ("lifespan", [RECEIVE, {"type": "lifespan.startup.done"}], [STARTUP], "complete, or failed"),
    ("lifespan", [RECEIVE, RECEIVE], [STARTUP, SHUTDOWN], "before it waits for the shutdown"),
]


@pytest.mark.parametrize(("kind", "doing", "incoming", "rule"), WRONG_APPS)
def test_wrong_apps_are_told(kind: str, doing: list[Any], incoming: list[Any], rule: str) -> None:
    """Each way to break the specification is named, as the app's."""
    with pytest.raises(ConformanceError, match=f"^app: .*{re.escape(rule)}"):
        serve(kind, doing, incoming)


@pytest.mark.parametrize("extension", sorted(EXTENSIONS))
def test_extensions_need_the_servers_word(extension: str) -> None:
    """What the server has not announced may not be sent."""
    doing: dict[str, list[Any]] = {
        "http.response.trailers": [{**START, "trailers": True}],
        "http.response.pathsend": [START, PATH],
        "http.response.zerocopysend": [START, {"type": "http.response.zerocopysend", "file": 3}],
        "http.response.early_hint": [HINT],
        "http.response.debug": [{"type": "http.response.debug"}],
    }
    with pytest.raises(ConformanceError, match=f"announced {re.escape(extension)}"):
        serve("http", doing[extension], [], extensions=None)


@pytest.mark.parametrize(
    ("kind", "changes", "incoming", "rule"),
    [
        ("http", {"method": "get"}, [], "upper-case"),
        ("http", {"headers": [(b"Host", b"x")]}, [], "lower case"),
        ("http", {"headers": [("host", "x")]}, [], "bytes"),
        ("http", {"path": b"/"}, [], "'path' is"),
        ("http", {"query_string": ""}, [], "'query_string' is"),
        ("http", {"client": "127.0.0.1"}, [], "'client' is"),
        ("http", {"asgi": {}}, [], "version"),
        ("http", {"type": None}, [], "has a 'type'"),
        ("http", {}, [REQUEST, REQUEST], "end of the body"),
        ("http", {}, [GONE, REQUEST], "nothing follows a disconnect"),
        ("http", {}, [CONNECT], "a request's message"),
        ("http", {}, [{"type": "http.request", "body": "x"}], "'body' is"),
        ("websocket", {}, [CONNECT, CONNECT], "connected once"),
        ("websocket", {}, [CONNECT, LEFT, LEFT], "disconnected once"),
        ("websocket", {}, [CONNECT, LEFT, HEARD], "nothing follows"),
        ("websocket", {}, [CONNECT, HEARD], "before the app accepts"),
        ("websocket", {"subprotocols": [b"x"]}, [], "subprotocol"),
        ("lifespan", {}, [SHUTDOWN], "is received"),
        ("lifespan", {"state": []}, [], "'state' is"),
    ],
)
def test_wrong_servers_are_told(kind: str, changes: dict[str, Any], incoming: list[Any], rule: str) -> None:
    """So is each by what serves the app: a server, or a middleware."""
    with pytest.raises(ConformanceError, match=f"^server: .*{re.escape(rule)}"):
        serve(kind, [RECEIVE] * len(incoming), incoming, **changes)


def test_the_apps_own_error_passes() -> None:
    """An app that raises is none of the observer's business."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("the app fails")

    with pytest.raises(RuntimeError, match="the app fails"):
        asyncio.run(Conformant(app)(scope("http"), None, None))  # type: ignore[arg-type]
