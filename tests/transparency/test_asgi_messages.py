"""
The same ASGI app with and without the middleware: the same messages in the same order, the same errors, the same objects.

Apps and clients are drawn: every shape of response that the specification has, apps that break it, clients that leave and
servers that cancel at every message.
"""

import os
from collections.abc import Callable
from typing import Any

import pytest
from asgi_programs import (
    CHAT,
    Client,
    Program,
    Trace,
    cleaned,
    clients,
    conversations,
    responses,
    scope_for,
    trace,
    wild,
)
from asgi_rig import subject_of
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from tokenbudget_mw import ASGIMiddleware
from tokenbudget_mw.accounting.sinks import CallableSink
from tokenbudget_mw.asgi import ASGIApp
from tokenbudget_mw.core import Core
from tokenbudget_mw.testing.conformance import Conformant
from tokenbudget_mw.wiring import wire

IS_LONG = bool(os.environ.get("TOKENBUDGET_TEST_CHAOS"))
EXAMPLES = settings(max_examples=5000 if IS_LONG else 80)
ROUTES: list[dict[str, Any]] = [
    {"path": "/v1/chat/completions", "format": "openai.chat"},
    {"path": "/auto", "format": "auto"},
    {"path": "/plain/*"},
    {"path": "/talk", "websocket": "message"},
]
PLANS = {"none": [], "many": ["1G requests/hour", "1000G tokens/hour", "1M concurrent"]}


def wired(plan: str, **changes: Any) -> Core:
    """A core whose plan is *plan*."""
    given = {"identify": subject_of, "routes": ROUTES, "plans": PLANS, "default_plan": plan} | changes
    return wire(given, sink=CallableSink(lambda _: None))


CORES = {plan: wired(plan) for plan in PLANS}


def around(core: Core) -> Callable[[Any], Any]:
    """What puts the middleware around an app."""
    return lambda app: ASGIMiddleware(app, core)


def bare(app: ASGIApp) -> ASGIApp:
    """Nothing."""
    return app


def compare(core: Core, program: Program, client: Client, scope: dict[str, Any]) -> tuple[Trace, Trace]:
    """What happens without the middleware and with it."""
    return trace(bare, program, client, scope), trace(around(core), program, client, scope)


def assert_same(plan: str, through: Trace, without: Trace) -> None:
    """Both traces are the same, but for the headers of limits where there are limits."""
    assert through.seen == without.seen
    assert through.order == without.order
    assert through.end == without.end
    assert through.is_own is without.is_own
    if plan == "none":
        assert through.got == without.got
    else:
        assert cleaned(through.got) == cleaned(without.got)


@pytest.mark.parametrize("plan", PLANS)
@given(program=st.one_of(responses(), wild()), client=clients(), path=st.sampled_from(["/plain/x", "/other"]))
@EXAMPLES
def test_requests_pass_as_they_are(plan: str, program: Program, client: Client, path: str) -> None:
    """Whatever app and client do: same messages to either side, and the very error that was raised."""
    without, through = compare(CORES[plan], program, client, scope_for("http", path))

    assert_same(plan, through, without)


@pytest.mark.parametrize("plan", PLANS)
@given(
    program=st.one_of(responses(), wild()),
    client=clients(body=CHAT),
    path=st.sampled_from(["/v1/chat/completions", "/auto"]),
)
@EXAMPLES
def test_read_requests_pass_as_they_are(plan: str, program: Program, client: Client, path: str) -> None:
    """So do requests whose body is read ahead and whose response is read on its way."""
    without, through = compare(CORES[plan], program, client, scope_for("http", path))

    assert_same(plan, through, without)


@pytest.mark.parametrize("path", ["/plain/x", "/talk"])
@given(conversation=conversations())
@EXAMPLES
def test_websockets_pass_as_they_are(path: str, conversation: tuple[Program, Client]) -> None:
    """A websocket is what it was, message by message, whether the connection is metered or each message."""
    program, client = conversation
    without, through = compare(CORES["many"], program, client, scope_for("websocket", path))

    assert (through.seen, through.order, through.end, through.is_own) == (
        without.seen,
        without.order,
        without.end,
        without.is_own,
    )
    assert through.got == without.got


@given(program=responses(), client=clients(body=CHAT))
@EXAMPLES
def test_both_sides_keep_to_the_specification(program: Program, client: Client) -> None:
    """What the middleware gives to the app, and what it sends to the server, is what the specification allows."""
    core = CORES["many"]
    scope = scope_for("http", "/v1/chat/completions")
    without = trace(Conformant, program, client, scope)
    through = trace(lambda app: Conformant(ASGIMiddleware(Conformant(app), core)), program, client, scope)

    assert through.end == without.end
    assert through.seen == without.seen


# -- what the middleware says itself -------------------------------------------------------------------------------------

REFUSED: list[tuple[str, str, dict[str, Any], list[dict[str, Any]]]] = [
    ("http", "/plain/x", {"headers": []}, []),
    ("http", "/plain/x", {"headers": [], "method": "HEAD"}, []),
    (
        "http",
        "/v1/chat/completions",
        {},
        [{"type": "http.request", "body": b"[", "more_body": True}, {"type": "http.request"}],
    ),
    ("http", "/v1/chat/completions", {"headers": [(b"x-subject", b"k1"), (b"content-encoding", b"gzip")]}, []),
    ("http", "/plain/x", {"headers": [(b"x-subject", b"k1:spent")]}, []),
    ("websocket", "/plain/x", {"headers": []}, [{"type": "websocket.connect"}]),
    ("websocket", "/plain/x", {"headers": [], "extensions": None}, [{"type": "websocket.connect"}]),
]


@pytest.mark.parametrize(("kind", "path", "changes", "messages"), REFUSED)
def test_refusals_keep_to_the_specification(
    kind: str, path: str, changes: dict[str, Any], messages: list[dict[str, Any]]
) -> None:
    """What the middleware answers in the app's place is a proper response, too, and the app never runs."""
    core = wired("many", plans=PLANS | {"spent": ["0 requests/hour"]})
    client = Client((*messages, {"type": f"{kind}.disconnect"}))
    found = trace(
        lambda app: Conformant(ASGIMiddleware(app, core)),
        [("raise", "error")],
        client,
        scope_for(kind, path, **changes),
    )

    assert found.end[0] == "returned"
    assert found.seen == []
    assert found.got


@pytest.mark.parametrize("known", [True, False])
def test_lifespans_keep_to_the_specification(known: bool) -> None:
    """The lifespan is proper on both sides, whether or not the app has one."""
    words: Program = []
    for word in ("startup", "shutdown"):
        words += [("receive",), ("send", {"type": f"lifespan.{word}.complete"})]
    core = wired("many")
    client = Client(({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}))
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}, "headers": []}
    program = words if known else [("raise", "error")]

    found = trace(lambda app: Conformant(ASGIMiddleware(Conformant(app), core)), program, client, scope)

    assert found.end[0] == "returned"
    assert [message["type"] for message in found.got] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


# -- that it can fail ----------------------------------------------------------------------------------------------------


def gathering(app: Any) -> Any:
    """A wrong middleware: holds the body back."""

    async def wrong(scope: Any, receive: Any, send: Any) -> None:
        held = b""

        async def gather(message: Any) -> None:
            nonlocal held
            if message["type"] == "http.response.body":
                held += message.get("body", b"")
                if message.get("more_body"):
                    return
                message = {**message, "body": held}
            await send(message)

        await app(scope, receive, gather)

    return wrong


def delaying(app: Any) -> Any:
    """A wrong middleware: sends each message when the next one comes."""

    async def wrong(scope: Any, receive: Any, send: Any) -> None:
        held: list[Any] = []

        async def later(message: Any) -> None:
            held.append(message)
            if len(held) > 1:
                await send(held.pop(0))

        try:
            await app(scope, receive, later)
        finally:
            for message in held:
                await send(message)

    return wrong


def forging(app: Any) -> Any:
    """A wrong middleware: ends a response that broke off."""

    async def wrong(scope: Any, receive: Any, send: Any) -> None:
        is_whole = False

        async def watch(message: Any) -> None:
            nonlocal is_whole
            is_whole = is_whole or (message["type"] == "http.response.body" and not message.get("more_body"))
            await send(message)

        try:
            await app(scope, receive, watch)
        finally:
            if not is_whole:
                await send({"type": "http.response.body", "body": b""})

    return wrong


def hiding(app: Any) -> Any:
    """A wrong middleware: makes an error of its own of the app's."""

    async def wrong(scope: Any, receive: Any, send: Any) -> None:
        try:
            await app(scope, receive, send)
        except Exception as error:
            raise type(error)(*error.args) from None

    return wrong


def inventing(app: Any) -> Any:
    """A wrong middleware: gives the body to the app in one piece."""

    async def wrong(scope: Any, receive: Any, send: Any) -> None:
        async def whole() -> Any:
            message = await receive()
            body = message.get("body", b"")
            while message.get("more_body"):
                message = await receive()
                body += message.get("body", b"")
            return {**message, "body": body} if message["type"] == "http.request" else message

        await app(scope, whole, send)

    return wrong


def choosing(app: Any) -> Any:
    """A wrong middleware: passes on only what it knows."""

    async def wrong(scope: Any, receive: Any, send: Any) -> None:
        async def known(message: Any) -> None:
            if message["type"] in ("http.response.start", "http.response.body"):
                await send(message)

        await app(scope, receive, known)

    return wrong


@pytest.mark.parametrize("wrong", [gathering, delaying, forging, hiding, inventing, choosing])
def test_wrong_middlewares_are_found(wrong: Any) -> None:
    """The corpus finds each of the classical mistakes."""

    def differs(drawn: tuple[Program, Client]) -> bool:
        scope = scope_for("http", "/plain/x")
        without, through = trace(bare, *drawn, scope), trace(wrong, *drawn, scope)
        return (through.seen, through.got, through.order, through.end, through.is_own) != (
            without.seen,
            without.got,
            without.order,
            without.end,
            without.is_own,
        )

    program, client = find(
        st.tuples(responses(), clients()), differs, settings=settings(max_examples=2000, phases=[Phase.generate])
    )

    assert differs((program, client))


def test_a_message_that_comes_late_is_found_by_the_order_alone() -> None:
    """Where nobody leaves and nothing fails, whose turn it was tells of a delay, and nothing else does."""
    start = {"type": "http.response.start", "status": 200, "headers": []}
    chunks = [{"type": "http.response.body", "body": b"a", "more_body": more} for more in (True, True, False)]
    program: Program = [("send", message) for message in (start, *chunks)]

    without, through = [trace(make, program, Client(), scope_for("http", "/plain/x")) for make in (bare, delaying)]

    assert (through.seen, through.got, through.end) == (without.seen, without.got, without.end)
    assert through.order != without.order
