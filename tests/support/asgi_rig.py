"""A metered ASGI app on a workbench: no server, no socket, a clock that stands still, records in a list."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from tokenbudget_mw.accounting.sinks import CallableSink
from tokenbudget_mw.asgi import ASGIMiddleware
from tokenbudget_mw.database.fitting import new_rows
from tokenbudget_mw.testing.clock import FakeClock
from tokenbudget_mw.values import Facts, Subject, UsageRecord
from tokenbudget_mw.wiring import wire

Message = MutableMapping[str, Any]
App = Callable[[Any, Any, Any], Awaitable[None]]
CHAT = "/v1/chat/completions"


def subject_of(facts: Facts) -> Subject | None:
    """The subject in ``x-subject``: a key, and after a colon its plan."""
    header = facts.header("x-subject")
    if header is None:
        return None
    key, _, plan = header.partition(":")
    return Subject(key=key, plan=plan or None)


class Rig:
    """The app under test, with its core, clock and records."""

    def __init__(self, app: App, **settings: Any) -> None:
        self.clock = FakeClock()
        self.records: list[UsageRecord] = []
        given = {
            "identify": subject_of,
            "routes": [{"path": CHAT, "format": "openai.chat"}, {"path": "/plain/*"}],
            "plans": {"one": ["1 concurrent", "1000 tokens/minute"]},
            "default_plan": "one",
        } | settings
        self.core = wire(given, clock=self.clock, sink=CallableSink(self.records.extend))
        self.middleware = ASGIMiddleware(app, self.core)

    def rows(self) -> list[UsageRecord]:
        """What was recorded so far; every record is one that a database takes."""
        assert self.core.flush()
        assert len(new_rows(self.records, "of the rig")) == len(self.records)
        return self.records

    def run(self, *messages: Message, **scope: Any) -> list[Message]:
        """Send one connection through the middleware, and return what it sent."""
        return asyncio.run(self.arun(*messages, **scope))

    async def arun(self, *messages: Message, sent: list[Message] | None = None, **scope: Any) -> list[Message]:
        """Send one connection through, on the running loop."""
        incoming, outgoing = deque(messages), [] if sent is None else sent

        async def receive() -> Message:
            if incoming:
                return incoming.popleft()
            return await asyncio.get_running_loop().create_future()

        async def send(message: Message) -> None:
            outgoing.append(message)

        await self.middleware(scope_of(**scope), receive, send)
        return outgoing


def scope_of(**changes: Any) -> dict[str, Any]:
    """The scope of a chat request, with *changes*; ``subject`` and ``headers`` (a dict) become its headers."""
    subject = changes.pop("subject", "k1")
    headers = changes.pop("headers", {}) | ({"x-subject": subject} if subject else {})
    return {
        "type": "http",
        "method": "POST",
        "path": CHAT,
        "query_string": b"",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
        "client": ("203.0.113.7", 1234),
        "server": ("127.0.0.1", 80),
    } | changes


def request(body: bytes | dict[str, Any]) -> Message:
    """The message of a whole request body."""
    return {"type": "http.request", "body": body if isinstance(body, bytes) else json.dumps(body).encode()}


def chat(**changes: Any) -> Message:
    """The message of a small chat request."""
    return request({"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 100} | changes)


DISCONNECT: Message = {"type": "http.disconnect"}


def status_of(sent: list[Message]) -> int:
    """The status that was sent."""
    status: int = sent[0]["status"]
    return status
