"""
Django's ASGI application with an end: usage that waits is written before the server goes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from django.core.asgi import get_asgi_application as django_application

from tokenbudget_mw_django.conf import forget

if TYPE_CHECKING:
    from tokenbudget_mw.asgi import ASGIApp, Receive, Scope, Send

__all__ = ["get_asgi_application"]


def get_asgi_application() -> ASGIApp:
    """
    Return what belongs into a project's ``asgi.py``, in the place of Django's function of that name.

    Django leaves the server's lifespan unanswered, and uvicorn ends its process by the signal itself, after which nothing
    of Python runs. So only the lifespan's shutdown can write the last quarter of a second of usage.
    """
    return _Draining(cast("ASGIApp", django_application()))


class _Draining:
    """
    Answers the lifespan, and passes everything else on.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        await self._answer(receive, send)

    async def _answer(self, receive: Receive, send: Send) -> None:
        kind: Any = None
        while kind != "lifespan.shutdown":
            kind = (await receive())["type"]
            if kind == "lifespan.shutdown":
                await _close()
            await send({"type": f"{kind}.complete"})


async def _close() -> None:
    core = forget()
    if core is not None:
        await asyncio.to_thread(core.close)
        await core.async_guard.backend.aclose()
