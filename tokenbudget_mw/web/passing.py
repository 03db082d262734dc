"""
An ASGI request's body that is read on its way to the app.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

__all__ = ["passing"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]


def passing(receive: Receive, watch: Callable[[bytes], object]) -> Receive:
    """
    Return what receives the same as *receive*, and has *watch* called with each piece of the body.
    """

    async def receive_watched() -> Message:
        message = await receive()
        if message["type"] == "http.request":
            watch(message.get("body", b""))
        return message

    return receive_watched
