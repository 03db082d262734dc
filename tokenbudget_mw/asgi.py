"""
The middleware for ASGI apps (spec 2.5): one small object a request; nothing is buffered but the head of a metered body.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from tokenbudget_mw.calls.call import Call, running
from tokenbudget_mw.calls.contexts import forget_ended
from tokenbudget_mw.calls.recounting import arecount
from tokenbudget_mw.calls.refusing import RESPONSE_HEADERS
from tokenbudget_mw.calls.switched_off import standing_in
from tokenbudget_mw.errors import RefusedError, refusal_in
from tokenbudget_mw.rules.refusals import decision_of_error
from tokenbudget_mw.rules.routes import is_preflight, path_of
from tokenbudget_mw.rules.settlement import Ending, is_timeout
from tokenbudget_mw.values import LazyHeaders, ServedFacts
from tokenbudget_mw.web.bounding import BoundedApp
from tokenbudget_mw.web.lifespan import live
from tokenbudget_mw.web.passing import passing
from tokenbudget_mw.web.shielding import asettle_held
from tokenbudget_mw.web.websocket import MessagesApp, close_of, is_goodbye
from tokenbudget_mw.wiring import wire

if TYPE_CHECKING:
    from tokenbudget_mw.core import Core
    from tokenbudget_mw.rules.refusals import Refusal
    from tokenbudget_mw.settings import Settings
    from tokenbudget_mw.values import Facts, Route

__all__ = ["ASGIApp", "ASGIMiddleware", "Message", "Receive", "Scope", "Send"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

READ_HEADERS = {b"content-type": "content-type", b"content-encoding": "content-encoding"}
"""Headers of a response that say how it reads."""

NAMES = {name: name.encode() for name in RESPONSE_HEADERS}

TOGETHER = 1_024
"""Messages of a body that are kept as one: a client may send it byte by byte, and some servers pass on messages of no bytes."""

LONG_BODY = 2**18
"""Bytes of a body beyond which the event loop turns between reading its JSON and counting its tokens."""


class ASGIMiddleware:
    """
    Meters and limits an ASGI app: ``app = ASGIMiddleware(app, {...})``.

    Args:
        app: The app.

        settings: The settings, as a dict or checked; or a core that is wired already.
    """

    def __init__(self, app: ASGIApp, settings: Mapping[str, Any] | Settings | Core | None = None) -> None:
        self.app = app
        self.core = wire(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Pass one connection on, metered where a route covers it.
        """
        kind = scope["type"]
        if kind == "lifespan":
            await live(self.core, self.app, scope, receive, send)
        elif kind not in ("http", "websocket"):
            await self.app(scope, receive, send)
        elif self.core.settings.enabled:
            forget_ended()
            facts, root = facts_of(scope), scope.get("root_path") or ""
            route = None if is_preflight(facts) else self.core.routes.match(facts.method, scope["path"], root)
            if route is None:
                await self.app(scope, receive, send)
            else:
                await _Connection(self, scope, receive, send).run(facts, route)
        else:
            with standing_in(self.core):
                await self.app(scope, receive, send)


def facts_of(scope: Scope) -> Facts:
    """
    Read the facts of an ``http`` or ``websocket`` scope.
    """
    client, server = scope.get("client"), scope.get("server")
    return ServedFacts(
        method=scope["method"] if scope["type"] == "http" else "WEBSOCKET",
        path=path_of(scope["path"]),
        headers=ScopeHeaders(scope["headers"]),
        client=client[0] if client else None,
        query=scope.get("query_string", b"").decode("latin-1"),
        server=(server[0], _port(server[1])) if server else None,
        raw=scope,
    )


def _port(port: Any) -> int | None:
    # None is that of a Unix socket; granian 2.8 says it as a text
    return int(port) if isinstance(port, int) or (isinstance(port, str) and port.isdecimal()) else None


class ScopeHeaders(LazyHeaders):
    """
    The headers of an ASGI scope.

    Args:
        raw: Pairs of name and value, in latin-1.
    """

    __slots__ = ("_firsts", "_raw")

    def __init__(self, raw: Iterable[tuple[bytes, bytes]]) -> None:
        self._raw = raw if type(raw) is list else list(raw)
        # a loop in Python would cost more than all look-ups of a request
        self._firsts = dict(reversed(self._raw))
        if not b"".join(self._firsts).islower():  # most servers send names so
            self._firsts = {key.lower(): value for key, value in reversed(self._raw)}

    def first(self, name: str) -> str | None:
        """
        Return the first value of header *name* (lower case), or None.
        """
        value = self._firsts.get(name.encode("latin-1", "replace"))
        return None if value is None else value.decode("latin-1")

    def every(self, name: str) -> Sequence[str]:
        """
        Return all values of header *name* (lower case), in order.
        """
        value = self._firsts.get(name.encode("latin-1", "replace"))
        if value is None:
            return ()
        if len(self._firsts) == len(self._raw):  # none came twice
            return (value.decode("latin-1"),)
        return [each for key, each in self if key == name]

    def read(self) -> Iterable[tuple[str, str]]:
        """
        Decode all of them.
        """
        return [(key.decode("latin-1").lower(), value.decode("latin-1")) for key, value in self._raw]


def _join_last(seen: deque[Message], pieces: list[bytes]) -> None:
    """
    Make one of the last `TOGETHER` messages of a body, and of their *pieces*; nothing where these are empty.
    """
    body = b"".join(pieces[-TOGETHER:])
    del pieces[-TOGETHER:]
    for _ in range(TOGETHER):
        seen.pop()
    if body:
        pieces.append(body)
        seen.append({"type": "http.request", "body": body, "more_body": True})


class _Connection:
    """
    One metered connection.
    """

    _has_started = False
    _is_whole = False
    _is_client_gone = False
    _timed_out = False
    _is_cut_off = False
    _seen: deque[Message] | None = None

    def __init__(self, middleware: ASGIMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        self._app = middleware.app
        self._core = middleware.core
        self._scope = scope
        self._receive = receive
        self._send = send

    async def run(self, facts: Facts, route: Route) -> None:
        call = self._call = Call(self._core, facts, route)
        refusal = await self._admit()
        if refusal is not None:
            await self._refuse(refusal)
            return
        token = running.set(call)
        failed = True
        try:
            await self._metered(call)(self._scope, self.receive, self.send)
            failed = False
        except asyncio.CancelledError:
            self._is_client_gone = True
            raise
        except Exception as error:
            refused = refusal_in(error)
            if refused is None:
                self._timed_out = is_timeout(error)
                raise
            if self._is_whole or (self._has_started and self._scope["type"] != "websocket"):
                raise
            refusal = call.exceed(decision_of_error(refused))
            self._is_whole = True
            await self._end()
            await self._refuse(refusal)
        finally:
            try:
                await self._end(failed=failed)
            finally:
                running.reset(token)  # last: it fails where a closed loop's task ends, in another's context

    def _metered(self, call: Call) -> ASGIApp:
        route = call.route
        if self._scope["type"] == "websocket":
            return self._app if route.websocket == "connection" else MessagesApp(self._app, call)
        return self._app if route.on_budget_end == "pass" else BoundedApp(self._app, call)

    async def _admit(self) -> Refusal | None:
        call, core, body = self._call, self._core, b""
        try:
            call.subject = core.identifier.quick(call.facts) or await core.identifier.aresolve(call.facts)
            if call.wants_body and self._scope["type"] == "http":
                body, is_whole = await self._read_head()
                if is_whole and len(body) > LONG_BODY:
                    call.parse(body)
                    await asyncio.sleep(0)
                call.read(body, is_whole)
                if call.form is not None:
                    self._receive = passing(self._receive, call.form.feed)
            decision = await core.async_guard.admit(call.request())
            if not decision.admitted:
                decision = await arecount(call, body, decision, self._leave)
        except RefusedError as error:
            return call.refuse(decision_of_error(error))
        if not decision.admitted:
            return call.refuse(decision)
        call.hold(decision)
        return None

    async def _read_head(self) -> tuple[bytes, bool]:
        seen = self._seen = deque()
        pieces, length, kept, most = list[bytes](), 0, 0, self._core.settings.max_body
        while True:
            message = await self._receive()
            seen.append(message)
            if message["type"] != "http.request":
                self._is_cut_off = True
                return b"".join(pieces), False
            piece = message.get("body", b"")
            pieces.append(piece)
            length += len(piece)
            if length > most:
                return b"".join(pieces), False
            if not message.get("more_body", False):
                return b"".join(pieces), True
            kept += 1
            if kept == TOGETHER:
                kept = 0
                _join_last(seen, pieces)

    async def _leave(self) -> None:
        """
        Wait for what comes after the body: the client's leave. The app gets it, if it runs.
        """
        message = await self._receive()
        self._seen = self._seen or deque()
        self._seen.append(message)

    async def receive(self) -> Message:
        """
        Give the app what was read ahead, message by message, then what comes.
        """
        if self._seen:
            message = self._seen.popleft()
        else:
            message = await self._receive()
        kind = message["type"]
        if kind == "websocket.disconnect" and is_goodbye(message):
            self._is_whole = True
        elif kind in ("http.disconnect", "websocket.disconnect") and not self._is_whole:
            self._is_client_gone = True
        return message

    async def send(self, message: Message) -> None:
        """
        Pass a message of the app on, read on its way.
        """
        kind = message["type"]
        if kind == "http.response.body":
            if chunk := message.get("body"):
                tap = self._call.tap
                if tap is None or self._call.first_byte is None or type(chunk) is not bytes:
                    self._call.feed(chunk)
                else:  # as the call would feed it: of a stream's pieces there are thousands
                    tap.feed(chunk)
            if not message.get("more_body"):
                self._is_whole = True
                await self._end()
        elif kind == "http.response.start":
            self._has_started = True
            message = self._start(message)
        elif kind in ("http.response.pathsend", "http.response.zerocopysend") and not message.get("more_body", False):
            self._is_whole = True
            await self._end()
        elif kind.startswith("websocket."):
            self._say(kind, message)
        try:
            await self._send(message)
        except OSError:
            self._is_client_gone = True
            raise

    def _say(self, kind: str, message: Message) -> None:
        call = self._call
        if kind == "websocket.send":
            if call.first_byte is None:
                call.feed(b" ")  # nothing reads it: its moment counts
        elif kind == "websocket.accept":
            self._has_started = True
            call.status = HTTPStatus.SWITCHING_PROTOCOLS.value
        elif kind == "websocket.close":
            self._is_whole = True
            call.status = call.status or HTTPStatus.FORBIDDEN.value  # what servers answer to one that was not accepted
        elif kind == "websocket.http.response.start":
            call.status = int(message["status"])
        elif kind == "websocket.http.response.body" and not message.get("more_body", False):
            self._is_whole = True

    def _start(self, message: Message) -> Message:
        given = message.get("headers", ())
        headers = list(given)
        call, read = self._call, []
        for key, value in headers:
            name = key.lower()
            if name in READ_HEADERS:
                read.append((READ_HEADERS[name], value.decode("latin-1")))
        call.respond(message["status"], read)
        ours = call.limit_headers()
        if not ours:
            # headers may be given as an iterable that can be read once
            return message if isinstance(given, list | tuple) else {**message, "headers": headers}
        for name, value in ours:
            headers.append((NAMES[name], value.encode("latin-1")))
        return {**message, "headers": headers}

    async def _end(self, *, failed: bool = False) -> None:
        """
        Record and settle, once.
        """
        call = self._call
        if call.is_ended:
            return
        if self._is_cut_off and call.first_byte is None:
            call.prompt = None  # it left before its prompt was there, so no model was asked that
        await asettle_held(call, call.end(self._ending(failed=failed)))
        if call.unrecorded is not None:
            raise call.unrecorded

    def _ending(self, *, failed: bool) -> Ending:
        status = self._call.status
        return Ending(
            status,
            has_body=self._call.first_byte is not None,
            is_whole=self._is_whole or (status == HTTPStatus.SWITCHING_PROTOCOLS and not failed),
            failed=failed,
            client_gone=self._is_client_gone,
            timed_out=self._timed_out,
        )

    async def _refuse(self, refusal: Refusal) -> None:
        headers = [(name.encode(), value.encode("latin-1")) for name, value in refusal.headers]
        start = {"status": refusal.status, "headers": headers}
        if self._scope["type"] == "websocket":
            await self._refuse_websocket(start, refusal.body)
            return
        body = b"" if self._scope["method"] == "HEAD" else refusal.body
        await self._send({"type": "http.response.start", **start})
        # said though it is the default: Quart's test client asks for it
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _refuse_websocket(self, start: dict[str, Any], body: bytes) -> None:
        if not self._has_started and "websocket.http.response" in (self._scope.get("extensions") or {}):
            await self._send({"type": "websocket.http.response.start", **start})
            await self._send({"type": "websocket.http.response.body", "body": body})
        else:
            await self._send(close_of(self._call.decision.message if self._call.decision else ""))
