"""
Everything a request gets, through the real ASGI middleware: key, three limits, reserve, count, tap, settle, record.

The app behind it answers from memory and is called directly, without a server, so that the difference between the app with
and without the middleware is the middleware. Records end in a sink that keeps nothing: writing them is `flush_python`.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.counting import chat_body
from benchmarks.harness import Contender, Result, Scale, compare
from tokenbudget_mw.accounting.sinks import NullSink
from tokenbudget_mw.asgi import ASGIMiddleware
from tokenbudget_mw.database import tables
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.keys import KeyStore
from tokenbudget_mw.wiring import wire

__all__ = ["full_request", "full_stream"]

PATH = "/v1/chat/completions"
PEPPER = "a pepper of a benchmark, thirty-two bytes or more"
LIMITS = ["100M requests/minute", "1000000M tokens/minute", "$1M/month"]
CHUNKS = 100


def full_request(scale: Scale) -> Result:
    """
    A unary chat of about 400 tokens. Every message is new; in the details five of six are remembered, or none counted.
    """
    app = _answering(_completion())
    with _driver(scale.calls(300)) as driver:
        counted, off = driver.metered(app, count="full"), driver.metered(app, count="off")
        seen = compare(
            {
                "bare": driver.contender(app),
                "counted": driver.contender(counted),
                "turn": driver.contender(counted, fresh=1),
                "off": driver.contender(off),
            },
            scale,
            calls=300,
        )
    added = {name: value - seen["bare"] for name, value in seen.items() if name != "bare"}
    return Result(
        value=added["counted"],
        unit="us CPU added",
        baseline="the bare app",
        baseline_value=seen["bare"],
        goal="<= 180 us with counting, <= 100 us without",
        met=added["counted"] <= 180 and added["off"] <= 100,
        details={"added_without_counting_us": added["off"], "added_to_a_known_conversation_us": added["turn"]},
    )


def full_stream(scale: Scale) -> Result:
    """
    A stream of 100 events, prompt not counted; in the details with counting, and what is held of it and of longer ones.
    """
    app = _answering(_stream(CHUNKS), b"text/event-stream")
    with _driver(scale.calls(200)) as driver:
        off, counted = driver.metered(app, count="off"), driver.metered(app, count="full")
        seen = compare(
            {
                "bare": driver.contender(app, stream=True),
                "off": driver.contender(off, stream=True),
                "counted": driver.contender(counted, stream=True),
            },
            scale,
            calls=200,
        )
        held = {f"{events} events": driver.peak(events) for events in (CHUNKS, 15_000, 30_000)}
    added = seen["off"] - seen["bare"]
    return Result(
        value=added,
        unit="us CPU added",
        baseline="the bare app",
        baseline_value=seen["bare"],
        goal="<= 150 us, constant memory",
        met=added <= 150 and held["30000 events"] <= held["15000 events"] * 1.1,
        details={"added_with_counting_us": seen["counted"] - seen["bare"], "held_bytes": held},
    )


# -- the app ----------------------------------------------------------------------------------------------------------


def _answering(chunks: list[bytes], content_type: bytes = b"application/json") -> Callable[..., Any]:
    messages = [{"type": "http.response.body", "body": chunk, "more_body": True} for chunk in chunks]
    messages[-1] = {**messages[-1], "more_body": False}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", content_type)]})
        for message in messages:
            await send(message)

    return app


_USAGE = {"prompt_tokens": 418, "completion_tokens": CHUNKS, "total_tokens": 418 + CHUNKS}
_HEAD = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": "gpt-4o-2024-08-06"}


def _completion() -> list[bytes]:
    message = {"role": "assistant", "content": "A replacement leaves our warehouse tomorrow before noon. " * 10}
    choices = [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}]
    return [json.dumps({**_HEAD, "object": "chat.completion", "choices": choices, "usage": _USAGE}).encode()]


def _stream(chunks: int) -> list[bytes]:
    head = {**_HEAD, "object": "chat.completion.chunk"}
    event = {**head, "choices": [{"index": 0, "delta": {"content": " word"}, "finish_reason": None}], "usage": None}
    last = {**head, "choices": [], "usage": _USAGE}
    return [_event(event)] * (chunks - 2) + [_event(last), b"data: [DONE]\n\n"]


def _event(fields: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(fields, separators=(",", ":")).encode() + b"\n\n"


# -- the client -------------------------------------------------------------------------------------------------------


@contextmanager
def _driver(size: int) -> Iterator[_Driver]:
    with tempfile.TemporaryDirectory() as folder:
        driver = _Driver(Path(folder), size)
        try:
            yield driver
        finally:
            driver.close()


class _Driver:
    """
    Sends requests straight into ASGI apps, and makes sure at the end that each one was metered.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._engine = open_engine(f"sqlite:///{folder / 'keys.db'}")
        tables.metadata.create_all(self._engine)
        self._key = KeyStore(self._engine, PEPPER).create(name="benchmark", tenant="acme", user="u1").text
        self._size = size
        self._cores: list[Any] = []
        self._sent: dict[int, int] = {}

    def metered(self, app: Callable[..., Any], *, count: str) -> ASGIMiddleware:
        core = wire(
            {
                "backend": "memory://",
                "identify": "api_key",
                "pepper": PEPPER,
                "routes": [{"path": PATH, "format": "openai.chat", "count": count}],
                "plans": {"pro": LIMITS},
                "default_plan": "pro",
            },
            engine=self._engine,
            sink=NullSink(),
        )
        self._cores.append(core)
        return ASGIMiddleware(app, core)

    def contender(self, app: Callable[..., Any], *, fresh: int = 6, stream: bool = False) -> Contender:
        pool = _Bodies(self._size, fresh, stream=stream)
        return Contender(lambda calls: self._loop.run_until_complete(self._send(app, pool.take(calls))), pool.fill)

    def peak(self, events: int) -> int:
        """
        Return the most bytes that the middleware held at one time while a stream of *events* passed.
        """
        app = _answering(_stream(events), b"text/event-stream")
        return self._peak(self.metered(app, count="off")) - self._peak(app)

    def _peak(self, app: Callable[..., Any]) -> int:
        bodies = _Bodies(2, 6, stream=True).take(2)
        self._loop.run_until_complete(self._send(app, bodies[:1]))
        tracemalloc.start()
        try:
            self._loop.run_until_complete(self._send(app, bodies[1:]))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    async def _send(self, app: Callable[..., Any], bodies: list[bytes]) -> None:
        for body in bodies:
            await self._request(app, body)
        if isinstance(app, ASGIMiddleware):
            self._sent[id(app.core)] = self._sent.get(id(app.core), 0) + len(bodies)

    async def _request(self, app: Callable[..., Any], body: bytes) -> None:
        arrived = {"type": "http.request", "body": body, "more_body": False}

        async def receive() -> dict[str, Any]:
            return arrived

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start" and message["status"] != 200:
                raise AssertionError(f"status {message['status']}")

        await app(self._scope(body), receive, send)

    def _scope(self, body: bytes) -> dict[str, Any]:
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "path": PATH,
            "raw_path": PATH.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "headers": [
                (b"host", b"api.example.com"),
                (b"user-agent", b"OpenAI/Python 1.109.1"),
                (b"accept", b"application/json"),
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"authorization", b"Bearer " + self._key.encode()),
                (b"x-stainless-lang", b"python"),
            ],
            "client": ("203.0.113.7", 50_000),
            "server": ("127.0.0.1", 8_000),
        }

    def close(self) -> None:
        """
        Raises:
            AssertionError: A request left no record: what was measured is not the real path.
        """
        for core in self._cores:
            core.flush(60)
            recorded, sent = core.flusher.stats().flushed, self._sent.get(id(core), 0)
            assert recorded == sent, f"{sent} requests left {recorded} records"
            core.close()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
        self._engine.dispose()


class _Bodies:
    """
    Request bodies, made while nobody looks at the clock.
    """

    def __init__(self, size: int, fresh: int, *, stream: bool) -> None:
        self._size = size
        self._fresh = fresh
        self._fields = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        self.fill()

    def fill(self) -> None:
        self._ready = [chat_body(self._fresh, **self._fields) for _ in range(self._size)]

    def take(self, number: int) -> list[bytes]:
        return self._ready[:number]
