"""Apps in whose windows little is left, for prompts that only their bound keeps out."""

from __future__ import annotations

import json
import threading
from typing import Any

import asgi_rig
import pytest
import wsgi_rig
from asgi_rig import CHAT

from tokenbudget_mw.counting import sampling

HALVES = " ".join(f"{number * 104_729:x}" if number // 60 % 3 == 0 else "word" for number in range(9_000))
"""Dense and thin by turns, so that a sample of it leaves much in doubt."""

WORDS = "one two three four " * 50
OUTPUT = 100
SMALL = 9
"""Tokens of a chat that says hello, weighed (counted they are 8), which stand in the window before what is looked at."""

SAMPLED = [{"path": CHAT, "format": "openai.chat"}]
WEIGHED = [{"path": CHAT, "format": "openai.chat", "count": "sample:0"}]


class Gate:
    """A counter of words that waits until it may go on."""

    def __init__(self) -> None:
        self.calls = 0
        self.begun, self.go = threading.Event(), threading.Event()

    def count(self, text: str) -> int:
        self.calls += 1
        self.begun.set()
        assert self.go.wait(20)
        return len(text.split())


def chat(text: str = "hello", model: str = "gpt-4o", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": OUTPUT} | fields


async def asgi_app(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": b"{}"})


def wsgi_app(environ, start_response):
    environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [b"{}"]


class ASGI:
    """The middleware for ASGI, as these tests use it."""

    def __init__(self, app: Any = asgi_app, **settings: Any) -> None:
        self.rig = asgi_rig.Rig(app, **settings)

    def send(self, body: dict[str, Any]) -> tuple[int, dict[str, str]]:
        start = self.rig.run(asgi_rig.request(body))[0]
        return start["status"], {name.decode(): value.decode() for name, value in start["headers"]}


class WSGI:
    """The same for WSGI."""

    def __init__(self, app: Any = wsgi_app, **settings: Any) -> None:
        self.rig = wsgi_rig.Rig(app, **settings)

    def send(self, body: dict[str, Any]) -> tuple[int, dict[str, str]]:
        got = self.rig.run(body)
        return got.status, {name.lower(): value for name, value in got.headers}


Kind = type[ASGI] | type[WSGI]
both = pytest.mark.parametrize("kind", [ASGI, WSGI])


def with_left(kind: Kind, left: int, *more: str, **settings: Any) -> Any:
    """An app in whose window *left* tokens are left, after a request that has been charged."""
    side = kind(**{"plans": {"one": [f"{left + SMALL} tokens/minute", *more]}, "routes": WEIGHED} | settings)
    assert side.send(chat())[0] == 200
    assert SMALL - 1 <= side.rig.rows()[0].total_tokens <= SMALL
    return side


def recounts(side: Any) -> list[str]:
    """Note the threads in which bodies are counted again from now on."""
    threads: list[str] = []
    real = side.rig.core.meter.recount

    def recount(*args: Any, **kwargs: Any) -> Any:
        threads.append(threading.current_thread().name)
        return real(*args, **kwargs)

    side.rig.core.meter.recount = recount
    return threads


def ends_of_recounts(side: Any) -> threading.Event:
    """Tell when a body has been counted again, or has been given up."""
    ended, real = threading.Event(), side.rig.core.meter.recount

    def recount(*args: Any, **kwargs: Any) -> Any:
        try:
            return real(*args, **kwargs)
        finally:
            ended.set()

    side.rig.core.meter.recount = recount
    return ended


def sampled_low(side: Any, body: dict[str, Any]) -> tuple[int, int, int]:
    """Estimate, truth and bound of a prompt as the very next request samples it: one that does not err upwards."""
    route, data = side.rig.core.settings.routes[0], json.dumps(body).encode()
    truth = side.rig.core.meter.recount(route, data).estimate
    for seed in range(100):
        sampling._secret.seed(seed)
        found = side.rig.core.meter.read_prompt(route, data).input
        if found.estimate <= truth < found.upper:
            sampling._secret.seed(seed)
            return found.estimate, truth, found.upper
    raise AssertionError("every sample of this text errs upwards")
