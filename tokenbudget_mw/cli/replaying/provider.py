"""
The app behind the middleware in a replay: answers like OpenAI, with the trace's figures, when the drive says so.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

import msgspec

from tokenbudget_mw.calls.call import current
from tokenbudget_mw.cli.replaying.drive import FLIGHT

if TYPE_CHECKING:
    from tokenbudget_mw.cli.replaying.drive import App, Flight, Receive, Send
    from tokenbudget_mw.cli.replaying.history import History

__all__ = ["bare", "witnessed"]


async def bare(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
    """
    Answer one request.
    """
    flight: Flight = scope[FLIGHT]
    await receive()
    flight.land()
    await flight.answer
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": _response(flight), "more_body": False})


def witnessed(history: History) -> App:
    """
    Return the same app, which tells *history* of every request that the middleware has let through.
    """

    async def app(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        flight: Flight = scope[FLIGHT]
        call = current()
        if call.decision is not None:
            flight.is_degraded = call.decision.degraded
            flight.would_refuse = call.decision.would_refuse
            flight.entries = history.admit(flight.traced.at, call.decision.tallies, call.payer, flight.model)
        await bare(scope, receive, send)
        history.settle(flight.entries, flight.usage)

    return app


def _response(flight: Flight) -> bytes:
    usage = flight.usage
    message = {"role": "assistant", "content": ""}
    return msgspec.json.encode(
        {
            "id": "chatcmpl-replay",
            "object": "chat.completion",
            "created": int(flight.traced.at),
            "model": flight.model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {
                "prompt_tokens": usage.input_tokens,
                "completion_tokens": usage.output_tokens,
                "total_tokens": usage.input_tokens + usage.output_tokens,
            },
        }
    )
