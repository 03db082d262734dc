"""
An ASGI app under observation: whoever breaks the specification, the app or what serves it, is told so at once.

The counterpart of the standard library's `wsgiref.validate`, for ASGI 3 (message formats of specification 2.5, and the
extensions that it lists). Put it around an app, around a middleware, or on both sides of one::

    app = Conformant(Middleware(Conformant(app)))
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, Protocol

__all__ = ["ConformanceError", "Conformant"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class ConformanceError(AssertionError):
    """
    The specification is broken; the message says by whom, and how.
    """


class Conformant:
    """
    An ASGI app, and what serves it, held to the specification.

    Args:
        app: The app. Its own exceptions pass.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """
        Serve one connection. Scopes of a type that the specification does not know pass unobserved.

        Raises:
            ConformanceError: The specification is broken.
        """
        need(isinstance(scope.get("type"), str), "server", "a scope has a 'type'")
        kind = _WATCHES.get(scope["type"])
        if kind is None:
            await self._app(scope, receive, send)
            return
        watch = kind(scope)

        async def watched_receive() -> Message:
            message = await receive()
            _check_type(message, "server")
            watch.came(message)
            return message

        async def watched_send(message: Message) -> None:
            _check_type(message, "app")
            watch.said(message)
            await send(message)

        await self._app(scope, watched_receive, watched_send)
        watch.ended()


def need(is_so: bool, who: str, rule: str, found: object = "") -> None:
    """
    Raise a `ConformanceError` about *who* unless *is_so*.
    """
    if not is_so:
        raise ConformanceError(f"{who}: {rule}{f', not {found!r}' if found != '' else ''}")


class _Watch(Protocol):
    def came(self, message: Message) -> None: ...
    def said(self, message: Message) -> None: ...
    def ended(self) -> None: ...


# -- parts ---------------------------------------------------------------------------------------------------------------


def _check_type(message: Message, who: str) -> None:
    need(isinstance(message, MutableMapping), who, "a message is a dict", message)
    need(isinstance(message.get("type"), str), who, "a message has a 'type'", message)


def _check_headers(headers: Any, who: str, *, lower: bool = False) -> None:
    need(isinstance(headers, Iterable), who, "headers are an iterable of pairs", headers)
    need(not isinstance(headers, Mapping), who, "headers are no dict", headers)
    if not isinstance(headers, list | tuple):
        return  # a look at it could use it up
    for pair in headers:
        need(isinstance(pair, list | tuple) and len(pair) == 2, who, "a header is a pair", pair)
        need(all(isinstance(part, bytes) for part in pair), who, "names and values are bytes", pair)
        need(not lower or pair[0] == pair[0].lower(), who, "header names are lower case", pair[0])


def _check_field(message: Mapping[str, Any], name: str, kinds: type | tuple[type, ...], who: str) -> None:
    value = message.get(name)
    wanted = kinds if isinstance(kinds, tuple) else (kinds,)
    is_bool = isinstance(value, bool) and bool not in wanted
    need(name not in message or (isinstance(value, wanted) and not is_bool), who, f"'{name}' is {wanted}", value)


def _check_content(message: Mapping[str, Any], who: str) -> None:
    given = [name for name in ("bytes", "text") if message.get(name) is not None]
    need(len(given) == 1, who, "a websocket message has either 'bytes' or 'text'", message)
    _check_field(message, "bytes", (bytes, type(None)), who)
    _check_field(message, "text", (str, type(None)), who)


def _check_connection(scope: Mapping[str, Any]) -> None:
    """
    Check what scopes of requests and of websockets have in common.
    """
    who = "server"
    need(isinstance(scope.get("asgi", {}).get("version"), str), who, "'asgi' tells the version")
    for name in ("path", "scheme", "root_path", "http_version"):
        _check_field(scope, name, str, who)
    need("path" in scope, who, "a scope has a 'path'")
    _check_field(scope, "raw_path", (bytes, type(None)), who)
    _check_field(scope, "query_string", bytes, who)
    _check_field(scope, "extensions", (dict, type(None)), who)
    need("headers" in scope, who, "a scope has 'headers'")
    _check_headers(scope["headers"], who, lower=True)
    for name in ("client", "server"):
        address = scope.get(name)
        is_pair = isinstance(address, list | tuple) and len(address) == 2 and isinstance(address[0], str)
        need(address is None or is_pair, who, f"'{name}' is an address and a port", address)


def _extensions(scope: Mapping[str, Any]) -> Mapping[str, Any]:
    return scope.get("extensions") or {}


# -- http ----------------------------------------------------------------------------------------------------------------

ANY_TIME = {"http.response.early_hint", "http.response.push"}
FILES = {"http.response.pathsend", "http.response.zerocopysend"}


class _Response:
    """
    A response on its way: start, body, and trailers where they are announced.
    """

    def __init__(self, extensions: Mapping[str, Any], prefix: str = "http.response") -> None:
        self._extensions = extensions
        self._prefix = prefix
        self._trailers_follow = False
        self.state = "new"

    def said(self, message: Message) -> None:
        kind = message["type"].removeprefix(f"{self._prefix}.")
        if kind == "start":
            self._start(message)
        elif kind == "body" or message["type"] in FILES:
            self._body(kind, message)
        elif kind == "trailers":
            self._trailers(message)
        elif kind == "debug":
            self._extension(message["type"])
            need(self.state == "new", "app", "debug information comes before the start")
        elif message["type"] in ANY_TIME:
            self._extension(message["type"])
            need(self.state in ("new", "started"), "app", f"{kind} comes before the end")
        else:
            need(False, "app", "a message of a known type is sent", message["type"])

    def _start(self, message: Message) -> None:
        need(self.state == "new", "app", "a response starts once")
        status = message.get("status")
        is_status = isinstance(status, int) and not isinstance(status, bool)
        need(is_status, "app", "'status' is an int", status)
        _check_headers(message.get("headers", ()), "app")
        _check_field(message, "trailers", bool, "app")
        self._trailers_follow = bool(message.get("trailers"))
        if self._trailers_follow:
            self._extension("http.response.trailers")
        self.state = "started"

    def _body(self, kind: str, message: Message) -> None:
        need(self.state == "started", "app", f"a body follows a start and ends once; it is {self.state}")
        _check_field(message, "body", bytes, "app")
        _check_field(message, "more_body", bool, "app")
        if message["type"] in FILES:
            self._extension(message["type"])
        if kind == "pathsend":
            need(isinstance(message.get("path"), str), "app", "'path' is a str", message.get("path"))
        if kind == "zerocopysend":
            need("file" in message, "app", "zerocopysend has a 'file'")
        if kind == "pathsend" or not message.get("more_body", False):
            self.state = "trailing" if self._trailers_follow else "ended"

    def _trailers(self, message: Message) -> None:
        need(self.state == "trailing", "app", f"trailers are announced, and follow the body; it is {self.state}")
        _check_headers(message.get("headers", ()), "app")
        _check_field(message, "more_trailers", bool, "app")
        if not message.get("more_trailers", False):
            self.state = "ended"

    def _extension(self, name: str) -> None:
        need(name in self._extensions, "app", f"the server has announced {name}")


class _HTTP:
    def __init__(self, scope: Mapping[str, Any]) -> None:
        _check_connection(scope)
        method = scope.get("method")
        need(isinstance(method, str) and method == method.upper(), "server", "'method' is an upper-case str", method)
        self._response = _Response(_extensions(scope))
        self._body_ends = False
        self._is_gone = False

    def came(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.disconnect":
            self._is_gone = True
            return
        need(kind == "http.request", "server", "a request's message is received", kind)
        need(not self._is_gone, "server", "nothing follows a disconnect")
        need(not self._body_ends, "server", "nothing follows the end of the body")
        _check_field(message, "body", bytes, "server")
        _check_field(message, "more_body", bool, "server")
        self._body_ends = not message.get("more_body", False)

    def said(self, message: Message) -> None:
        need(message["type"].startswith("http."), "app", "a message of http is sent", message["type"])
        self._response.said(message)

    def ended(self) -> None:
        state = self._response.state
        need(self._is_gone or state == "ended", "app", f"it returns when its response has ended; it is {state}")


# -- websocket -----------------------------------------------------------------------------------------------------------


class _WebSocket:
    def __init__(self, scope: Mapping[str, Any]) -> None:
        _check_connection(scope)
        for name in scope.get("subprotocols", ()):
            need(isinstance(name, str), "server", "a subprotocol is a str", name)
        self._can_deny = "websocket.http.response" in _extensions(scope)
        self._denial = _Response(_extensions(scope), "websocket.http.response")
        self._asked = self._is_gone = False
        self._state = "new"

    def came(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.disconnect":
            need(not self._is_gone, "server", "a websocket is disconnected once")
            _check_field(message, "code", int, "server")
            _check_field(message, "reason", (str, type(None)), "server")
            self._is_gone = True
            return
        need(not self._is_gone, "server", "nothing follows a disconnect", kind)
        if kind == "websocket.connect":
            need(not self._asked, "server", "a websocket is connected once")
            self._asked = True
            return
        need(kind == "websocket.receive", "server", "a websocket's message is received", kind)
        need(self._state != "new", "server", "no message is received before the app accepts")
        _check_content(message, "server")

    def said(self, message: Message) -> None:
        kind = message["type"].removeprefix("websocket.")
        need(message["type"].startswith("websocket."), "app", "a message of websockets is sent", message["type"])
        need(self._state != "closed", "app", "nothing follows a close", kind)
        if kind.startswith("http.response."):
            need(self._can_deny, "app", "the server has announced websocket.http.response")
            need(self._state in ("new", "denying"), "app", "a response comes in the place of an accept")
            self._denial.said(message)
            self._state = "closed" if self._denial.state == "ended" else "denying"
            return
        need(self._state != "denying", "app", "a websocket that is denied gets a response", kind)
        if kind == "accept":
            need(self._state == "new", "app", "a websocket is accepted once")
            need(self._asked, "app", "a websocket is accepted when it was connected")
            _check_field(message, "subprotocol", (str, type(None)), "app")
            _check_headers(message.get("headers", ()), "app")
            self._state = "open"
        elif kind == "send":
            need(self._state == "open", "app", "a message is sent when the websocket was accepted")
            _check_content(message, "app")
        elif kind == "close":
            _check_field(message, "code", int, "app")
            _check_field(message, "reason", (str, type(None)), "app")
            self._state = "closed"
        else:
            need(False, "app", "a message of a known type is sent", message["type"])

    def ended(self) -> None:
        need(self._is_gone or self._state == "closed", "app", f"it returns when the websocket is closed; {self._state}")


# -- lifespan ------------------------------------------------------------------------------------------------------------


class _Lifespan:
    def __init__(self, scope: Mapping[str, Any]) -> None:
        need(isinstance(scope.get("asgi", {}).get("version"), str), "server", "'asgi' tells the version")
        _check_field(scope, "state", dict, "server")
        self._asked: list[str] = []
        self._answered: list[str] = []

    def came(self, message: Message) -> None:
        wanted = ["lifespan.startup", "lifespan.shutdown"][len(self._asked) :][:1]
        need([message["type"]] == wanted, "server", f"{wanted or 'nothing more'} is received", message["type"])
        need(len(self._answered) == len(self._asked), "app", "it answers the startup before it waits for the shutdown")
        self._asked.append(message["type"])

    def said(self, message: Message) -> None:
        _check_field(message, "message", str, "app")
        asked, _, word = message["type"].rpartition(".")
        need(word in ("complete", "failed"), "app", "a startup or shutdown is complete, or failed", message["type"])
        need(len(self._answered) < len(self._asked), "app", "it answers what was asked, once", message["type"])
        need(asked == self._asked[-1], "app", f"it answers {self._asked[-1]}", message["type"])
        self._answered.append(message["type"])

    def ended(self) -> None:
        need(len(self._answered) == len(self._asked), "app", "it answers before it returns", self._asked)


_WATCHES: Mapping[str, Callable[[Mapping[str, Any]], _Watch]] = {
    "http": _HTTP,
    "websocket": _WebSocket,
    "lifespan": _Lifespan,
}
