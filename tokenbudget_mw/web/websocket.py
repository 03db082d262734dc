"""
Websockets whose messages are metered (a route's ``websocket: message``): each message of the client is a call of its own.

Stands between the app and the middleware, which has admitted the connection and holds its place among the concurrent ones.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from tokenbudget_mw.calls.call import Call
from tokenbudget_mw.calls.recounting import arecount
from tokenbudget_mw.calls.reserving import take_at_endpoints
from tokenbudget_mw.errors import RefusedError
from tokenbudget_mw.rules.admission import ALL_UNITS
from tokenbudget_mw.rules.refusals import decision_of_error
from tokenbudget_mw.rules.settlement import Ending, is_timeout
from tokenbudget_mw.web.shielding import asettle_held

if TYPE_CHECKING:
    from tokenbudget_mw.rules.admission import Request

__all__ = ["GOING", "POLICY_VIOLATION", "MessagesApp", "close_of", "is_goodbye"]

Message = MutableMapping[str, Any]

POLICY_VIOLATION = 1008
"""Websocket close code of RFC 6455, section 7.4.1."""

GOING = frozenset({1000, 1001, 1005})
"""Codes of a client that closes as it should: done, going away, and no code at all."""

MOST_REASON = 123
"""Most bytes of a close's reason (RFC 6455, section 5.5)."""

UNITS = ALL_UNITS - {"concurrent"}
"""What a message takes. The connection is the one that is there at the same time as others."""

LINES = [("content-type", "application/x-ndjson")]
"""How the app's messages read: each is a line of a stream."""


class SocketClosedError(OSError):
    """
    The websocket was closed for a refusal, and the app sends on: what a server raises where the client has gone.
    """


class MessagesApp:
    """
    An ASGI app whose websocket's messages are metered.

    A message's call begins when the app receives it, and ends when the app asks for the next after it has answered, when
    the next comes, or with the connection. One that is refused closes the websocket, with the reason.

    Args:
        app: The app.

        connection: The call of the connection.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], connection: Call) -> None:
        self._app = app
        self._connection = connection
        self._is_closed = False
        self._come: Message | None = None  # what the server gave, and the app does not have yet

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """
        Run the app.
        """

        async def metered_receive() -> Message:
            if self._has_answered():
                await self._end(is_whole=True)
            if self._is_closed:
                return {"type": "websocket.disconnect", "code": POLICY_VIOLATION}
            message = self._come = self._come or await receive()
            if message["type"] == "websocket.disconnect":
                await self._end(client_gone=True)
            elif message["type"] == "websocket.receive":
                await self._end(is_whole=True)
                reason = await self._begin(message)
                if reason is not None:
                    self._is_closed = True
                    await send(close_of(reason))
                    return {"type": "websocket.disconnect", "code": POLICY_VIOLATION}
            self._come = None  # not before: an app that waits for so long only is cancelled above, and asks again
            return message

        async def metered_send(message: Message) -> None:
            if self._is_closed:
                raise SocketClosedError
            part = self._connection.part
            if part is not None and message["type"] == "websocket.send":
                part.feed(_line(message))
            await send(message)

        try:
            await self._app(scope, metered_receive, metered_send)
        except Exception as error:
            await self._end(failed=True, timed_out=is_timeout(error))
            raise
        except BaseException:
            await self._end(client_gone=True)
            raise
        await self._end(is_whole=True)

    def _has_answered(self) -> bool:
        part = self._connection.part
        return isinstance(part, _MessageCall) and part.has_answered()

    async def _begin(self, message: Message) -> str | None:
        """
        Admit the call of a *message*; return why not.
        """
        connection = self._connection
        core = connection.core
        call = _MessageCall(core, connection.facts, connection.route)
        call.subject = connection.subject
        body = _body(message)
        try:
            if call.wants_body:
                call.read(body, len(body) <= core.settings.max_body)
            decision = await core.async_guard.admit(call.request())
            if not decision.admitted:
                decision = await arecount(call, body, decision)
        except RefusedError as error:
            decision = decision_of_error(error)
        if not decision.admitted:
            call.refuse(decision)
            return decision.message
        call.hold(decision)
        call.endpoints = connection.endpoints
        call.respond(HTTPStatus.SWITCHING_PROTOCOLS, LINES)
        connection.part = call
        return None

    async def _end(self, **how: bool) -> None:
        call, self._connection.part = self._connection.part, None
        if call is None:
            return
        actual = call.end(Ending(call.status, has_body=call.first_byte is not None, **how))
        take_at_endpoints(call, actual, call.model_name)  # none of which it holds: the connection does
        await asettle_held(call, actual)
        if call.unrecorded is not None:
            raise call.unrecorded


class _MessageCall(Call):
    """
    The call of one message.
    """

    def has_answered(self) -> bool:
        return self.first_byte is not None or bool(self._charges)

    def request(self) -> Request:
        return replace(super().request(), units=UNITS)


def close_of(reason: str) -> Message:
    """
    Return the message that closes a websocket for a refusal, as much of its *reason* as fits.
    """
    bounded = reason.encode()[:MOST_REASON].decode(errors="ignore")
    return {"type": "websocket.close", "code": POLICY_VIOLATION, "reason": bounded}


def is_goodbye(message: Message) -> bool:
    """
    Tell whether a disconnect is that of a client that closes as it should.
    """
    return message.get("code", 1005) in GOING


def _body(message: Message) -> bytes:
    text: str | None = message.get("text")
    return text.encode(errors="replace") if text is not None else bytes(message.get("bytes") or b"")


def _line(message: Message) -> bytes:
    # between the tokens of JSON a newline is a space
    return _body(message).replace(b"\n", b" ") + b"\n"
