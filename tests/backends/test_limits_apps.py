"""
An app behind a storage of the ``limits`` package: admitted, settled, refused, under ASGI and WSGI.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import wsgi_rig
from asgi_rig import Rig, chat, status_of

pytest.importorskip("limits")


USAGE = {"prompt_tokens": 15, "completion_tokens": 5, "total_tokens": 20}
ANSWER = json.dumps({"object": "chat.completion", "model": "gpt-4o", "choices": [], "usage": USAGE}).encode()


async def answering(scope: Any, receive: Any, send: Any) -> None:
    """
    A model that uses 20 tokens, whatever it is asked.
    """
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": ANSWER})


def answering_sync(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """
    The same, for WSGI.
    """
    environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [ANSWER]


PLAN: dict[str, Any] = {"plans": {"one": ["3 requests/minute", "150 tokens/minute", "$1/month", "1 concurrent"]}}


@pytest.mark.parametrize("storage_name", ["memory", "redis", "memcached"])
def test_requests_on_a_loop_hold_their_estimate_and_pay_their_use(storage: str) -> None:
    """
    Each holds above 100 of 150 tokens while it runs and 20 afterwards, so that three pass, and the fourth is one too many.
    """
    rig = Rig(answering, backend=storage, deadline=5.0, **PLAN)

    async def talk() -> list[int]:
        statuses = [status_of(await rig.arun(chat())) for _ in range(4)]
        rig.clock.advance(75)
        statuses.append(status_of(await rig.arun(chat())))
        await rig.core.async_guard.backend.aclose()
        return statuses

    statuses = asyncio.run(talk())
    rig.core.close()

    assert statuses == [200, 200, 200, 429, 200]


@pytest.mark.parametrize("storage_name", ["memory", "redis", "memcached"])
def test_requests_in_threads_hold_their_estimate_and_pay_their_use(storage: str) -> None:
    """
    As on a loop.
    """
    rig = wsgi_rig.Rig(answering_sync, backend=storage, deadline=5.0, **PLAN)
    body = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 100})
    statuses = [rig.run(body.encode()).status for _ in range(4)]
    rig.clock.advance(75)
    statuses.append(rig.run(body.encode()).status)
    rig.core.close()

    assert statuses == [200, 200, 200, 429, 200]
