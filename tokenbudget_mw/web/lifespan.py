"""
The lifespan of an ASGI app, whose end is when usage is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from tokenbudget_mw.web.shielding import keep

if TYPE_CHECKING:
    from tokenbudget_mw.core import Core

__all__ = ["live"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

LAST_WORDS = frozenset({"lifespan.shutdown.complete", "lifespan.shutdown.failed"})

NOT_ASYNCIO = "tokenbudget-mw runs on asyncio or uvloop, and this event loop is another: hypercorn wants `-k asyncio`."


async def live(core: Core, app: App, scope: Message, receive: Receive, send: Send) -> None:
    """
    Pass the lifespan on to *app*, unless no request could be metered on this event loop.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        # an exception would say that there is no lifespan, and servers go on then
        await receive()
        await send({"type": "lifespan.startup.failed", "message": NOT_ASYNCIO})
    else:
        await _pass(app, scope, receive, _living(core, send))


async def _pass(app: App, scope: Message, receive: Receive, send: Send) -> None:
    """
    Pass the lifespan on; answer it in the place of an app that has none.
    """
    is_known = False

    async def asking() -> Message:
        nonlocal is_known
        is_known = True
        return await receive()

    async def saying(message: Message) -> None:
        nonlocal is_known
        is_known = True
        await send(message)

    try:
        await app(scope, asking, saying)
    except Exception:
        # an app that knows no lifespan says so by an exception, before anything else (ASGI, "Lifespan Protocol")
        if is_known:
            raise
    kind = "lifespan.shutdown" if is_known else ""
    while kind != "lifespan.shutdown":
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})


def _living(core: Core, send: Send) -> Send:
    async def living(message: Message) -> None:
        if message["type"] == "lifespan.startup.complete":
            core.flusher.wake()  # what dead processes left on the spool need not wait for the first request
            core.tariffs.warm()
            keep(asyncio.ensure_future(core.async_guard.warm()))
        elif message["type"] in LAST_WORDS:
            await asyncio.to_thread(core.close)
            await core.async_guard.backend.aclose()
        await send(message)

    return living
