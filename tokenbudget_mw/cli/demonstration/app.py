"""
The demonstration's app: FastAPI in front of a fake LLM, and the settings of the middleware before it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse

from tokenbudget_mw.testing.provider import FakeProvider, Script

__all__ = ["CHAT", "MESSAGES", "PLANS", "make_app", "make_settings"]

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"

CHUNK_SECONDS = 0.004
"""How long the fake LLM takes for a chunk of a stream."""

OUTPUT_TOKENS = 40

PLANS: dict[str, list[Any]] = {
    "pro": [
        "2000 requests/minute",
        "1M tokens/minute",
        "16 concurrent",
        {"limit": "60 requests/minute", "mode": "shadow", "name": "shadow-requests-minute"},
    ],
    "free": ["20 requests/minute", "2k tokens/minute", "2 concurrent"],
    "tiny": ["$0.005/month"],
}
"""The three plans; each gets a key."""


def make_settings(database: str, pepper: str) -> dict[str, Any]:
    """
    Return the demonstration's settings, as a user would write them.
    """
    return {
        "backend": "memory://",
        "database": database,
        "spool": "memory",  # the books are temporary, and so is what waits for them
        "identify": "api_key",
        "pepper": pepper,
        "routes": [
            {"path": CHAT, "format": "openai.chat"},
            {"path": MESSAGES, "format": "anthropic.messages"},
        ],
        "plans": PLANS,
        "limits": ["$10/month per tenant"],
        "default_plan": "free",
    }


def make_app() -> FastAPI:
    """
    Make the app, without any middleware.
    """
    provider = FakeProvider(Script(output_tokens=OUTPUT_TOKENS))
    app = FastAPI(title="tokenbudget-mw demonstration: a FAKE LLM, no network, no model")

    @app.post(CHAT)
    @app.post(MESSAGES)
    async def complete(request: Request) -> Response:
        answer = provider.answer(request.scope["path"], await request.body())
        headers = dict(answer.headers)
        if headers["content-type"] == "text/event-stream":
            return StreamingResponse(answer.aiterate(_think), answer.status, headers)
        return Response(b"".join(answer.iterate()), answer.status, headers)

    return app


async def _think(number: int) -> None:
    del number
    await asyncio.sleep(CHUNK_SECONDS)
