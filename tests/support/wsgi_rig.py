"""A metered WSGI app on a workbench: no server, no socket, a clock that stands still, records in a list."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any
from wsgiref.util import setup_testing_defaults

from asgi_rig import CHAT, subject_of

from tokenbudget_mw.accounting.sinks import CallableSink
from tokenbudget_mw.database.fitting import new_rows
from tokenbudget_mw.testing.clock import FakeClock
from tokenbudget_mw.values import UsageRecord
from tokenbudget_mw.wiring import wire
from tokenbudget_mw.wsgi import WSGIMiddleware

App = Callable[[dict[str, Any], Any], Iterable[bytes]]


@dataclass
class Got:
    """What a server got: everything that was written or yielded, and the last start of a response."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)
    starts: int = 0

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(self.chunks)

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """Take the start of the response; with *exc_info* after the first byte, raise it (PEP 3333)."""
        if exc_info and self.chunks:
            raise exc_info[1].with_traceback(exc_info[2])
        self.starts += 1
        self.status, self.headers = int(status[:3]), headers
        return self.chunks.append


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
        self.middleware = WSGIMiddleware(app, self.core)

    def rows(self) -> list[UsageRecord]:
        """What was recorded so far; every record is one that a database takes."""
        assert self.core.flush()
        assert len(new_rows(self.records, "of the rig")) == len(self.records)
        return self.records

    def open(self, environ: dict[str, Any], got: Got | None = None) -> Iterable[bytes]:
        """Call the middleware and return its iterable, as a server does before it iterates."""
        return self.middleware(environ, (got or Got()).start_response)

    def run(self, body: bytes | dict[str, Any] = b"", **changes: Any) -> Got:
        """Serve one request to its end."""
        got = Got()
        iterable = self.open(environ_of(body, **changes), got)
        try:
            got.chunks.extend(iterable)
        finally:
            if hasattr(iterable, "close"):
                iterable.close()
        return got


def environ_of(body: bytes | dict[str, Any] = b"", *, subject: str | None = "k1", **changes: Any) -> dict[str, Any]:
    """The environment of a chat request, with *changes*; a change to None leaves the variable out."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": CHAT,
        "QUERY_STRING": "",
        "CONTENT_LENGTH": str(len(data)),
        "REMOTE_ADDR": "203.0.113.7",
        "wsgi.input": BytesIO(data),
    }
    setup_testing_defaults(environ)
    if subject is not None:
        environ["HTTP_X_SUBJECT"] = subject
    environ |= changes
    return {name: value for name, value in environ.items() if value is not None}


def chat(**changes: Any) -> dict[str, Any]:
    """The body of a small chat request."""
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 100} | changes
