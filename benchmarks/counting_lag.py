"""
How long an event loop stands still while eight clients send prompts of a megabyte.

The loop's longest step is measured in CPU time of its thread: what the middleware does between two awaits, without the
neighbours on a shared machine.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

from benchmarks.counting_corpus import windows
from benchmarks.harness import Result, Scale
from tokenbudget_mw.accounting.sinks import NullSink
from tokenbudget_mw.asgi import ASGIMiddleware
from tokenbudget_mw.wiring import wire

__all__ = ["count_lag"]

PATH = "/v1/chat/completions"
CLIENTS = 8
BODY = 1_000_000
CHUNK = 65_536


def count_lag(scale: Scale) -> Result:
    """
    The longest step of the loop, with prompts counted; the baseline is the same traffic with counting off.
    """
    bodies = _bodies()
    seen: dict[str, list[float]] = {"full": [], "off": []}
    apps = {count: _metered(count) for count in seen}
    for number in range(max(2, scale.rounds)):
        for count in sorted(seen, reverse=bool(number % 2)):
            seen[count].append(_longest_step(apps[count], bodies, scale.calls(30) // 10))
    for app in apps.values():
        app.core.close()
    longest = median(seen["full"])
    return Result(
        value=longest * 1e3,
        unit="ms CPU, longest step",
        baseline="counting off",
        baseline_value=median(seen["off"]) * 1e3,
        goal="<= 10 ms",
        met=longest <= 10e-3,
        details={"clients": CLIENTS, "body_bytes": BODY, "worst_round_ms": max(seen["full"]) * 1e3},
    )


def _bodies() -> list[bytes]:
    found = []
    for kind, text in windows(BODY, 1):
        if kind in ("en", "ko", "zh", "ru", "Python", "JSON", "base64", "mix") and len(found) < CLIENTS:
            body = {"model": "gpt-4o", "max_tokens": 9, "messages": [{"role": "user", "content": text}]}
            while len(data := json.dumps(body, ensure_ascii=False).encode()) > BODY:
                content = body["messages"][0]["content"]
                body["messages"][0]["content"] = content[: int(len(content) * BODY / len(data)) - 1]
            found.append(data)
    return found


def _metered(count: str) -> ASGIMiddleware:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    settings = {
        "identify": "ip",
        "routes": [{"path": PATH, "format": "openai.chat", "count": count}],
        "plans": {"all": ["1000000M tokens/minute"]},
    }
    return ASGIMiddleware(app, wire(settings, sink=NullSink()))


def _longest_step(app: ASGIMiddleware, bodies: list[bytes], turns: int) -> float:
    async def crowd() -> None:
        await asyncio.gather(*(_client(app, body, turns) for body in bodies))

    with _steps() as steps:
        asyncio.run(crowd())
    return max(steps)


async def _client(app: ASGIMiddleware, body: bytes, turns: int) -> None:
    scope = {"type": "http", "method": "POST", "path": PATH, "headers": [], "client": ("192.0.2.1", 9)}
    chunks = [body[at : at + CHUNK] for at in range(0, len(body), CHUNK)]
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages[-1]["more_body"] = False
    for _ in range(turns):
        waiting, statuses = iter(messages), []

        async def receive(waiting: Any = waiting) -> Any:
            await asyncio.sleep(0)
            return next(waiting)

        async def send(message: Any, statuses: Any = statuses) -> None:
            statuses.append(message.get("status"))

        await app(scope, receive, send)
        if statuses[0] != 200:
            raise RuntimeError(f"A request was answered with {statuses[0]}.")


@contextmanager
def _steps() -> Iterator[list[float]]:
    """
    Measure every step that event loops make meanwhile, in seconds of CPU.
    """
    spent: list[float] = []
    run = asyncio.events.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        start = time.thread_time()
        run(handle)
        spent.append(time.thread_time() - start)

    asyncio.events.Handle._run = timed
    try:
        yield spent
    finally:
        asyncio.events.Handle._run = run
