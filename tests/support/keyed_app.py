"""
A metered app whose requests carry API keys, and one request to it by either protocol.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from asgi_rig import scope_of
from wsgi_rig import Got, environ_of

from tokenbudget_mw.asgi import ASGIMiddleware
from tokenbudget_mw.wsgi import WSGIMiddleware

if TYPE_CHECKING:
    from tokenbudget_mw.core import Core


def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]


async def aapp(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def settings_of(database: str, **changes: Any) -> dict[str, Any]:
    return {
        "database": database,
        "pepper": "pepper",
        "key_cache_ttl": 3600,
        "plans": {"free": ["100 requests/minute"]},
        "limits": ["1000 requests/minute per tenant"],
        "deadline": 5.0,
        "spool": "memory",
    } | changes


def serve(core: Core, key: str) -> tuple[int, str]:
    """
    Ask by WSGI: the status and the code of a refusal.
    """
    got = Got()
    environ = environ_of(subject=None) | {"HTTP_X_API_KEY": key}
    got.chunks.extend(WSGIMiddleware(app, core)(environ, got.start_response))
    return got.status, "" if got.status == 200 else got.json()["error"]["code"]


def aserve(core: Core, key: str) -> tuple[int, str]:
    """
    Ask by ASGI.
    """
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    asyncio.run(ASGIMiddleware(aapp, core)(scope_of(subject=None, headers={"x-api-key": key}), receive, send))
    status = sent[0]["status"]
    return status, "" if status == 200 else json.loads(sent[1]["body"])["error"]["code"]
