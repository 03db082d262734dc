"""
What the official SDKs are to see, do and wait: one table for all of them, and the servers that it is tried on.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from private_servers import free_port

from tokenbudget_mw.accounting.sinks import CallableSink
from tokenbudget_mw.asgi import ASGIMiddleware
from tokenbudget_mw.cli.demonstration.app import OUTPUT_TOKENS, make_app, make_settings
from tokenbudget_mw.cli.demonstration.server import serve
from tokenbudget_mw.cli.replaying.books import open_books
from tokenbudget_mw.errors import CredentialError
from tokenbudget_mw.settings import Settings
from tokenbudget_mw.testing.provider import FakeProvider, Script
from tokenbudget_mw.values import Facts, Subject
from tokenbudget_mw.wiring import open_keys, wire

RETRIES = 2
"""What every client is told to try again, which is what they all do untold."""

PLANS = {
    "roomy": ["1000 requests/minute", "1M tokens/minute"],
    "seconds": ["1 request/2 seconds"],
    "hour": ["1 request/hour"],
    "spent": ["$0.0001/month"],
}


@dataclass(frozen=True)
class Case:
    """
    A call, after some plain ones where there are several.

    Attributes:
        app: Name of the server, as in `SdkServers`.

        plan: Of the key, on the demonstration's server.

        style: How it is called.

        calls: How many calls are made.

        model: The model; None takes one with a price.

        most: Most output tokens that are asked for.

        status: Of the last answer that the client gets.

        code: OpenAI's code of the error.

        attempts: Requests that reach the server in all.

        seen: What a call that is answered gives.

        message: What stands in the error.
    """

    app: str = "demo"
    plan: str = "roomy"
    style: str = "unary"
    calls: int = 1
    model: str | None = None
    most: int | None = OUTPUT_TOKENS
    status: int = 200
    code: str | None = None
    attempts: int = 1
    seen: Mapping[str, Any] = field(default_factory=dict)
    message: str = ""


WAITING = {"plan": "seconds", "calls": 2, "attempts": 3}
"""The second call is refused, waits as it is told, and is answered."""

HOPELESS = {"plan": "hour", "calls": 2, "attempts": 2, "status": 429, "code": "rate_limit_exceeded"}
"""The second call is refused for an hour, and is not tried again."""

CASES: dict[str, Case] = {
    "answered": Case(seen={"output": OUTPUT_TOKENS}),
    "answered, stream": Case(style="stream", seen={"output": OUTPUT_TOKENS}),
    "answered, raw": Case(style="raw", seen={"output": OUTPUT_TOKENS}),
    "waits two seconds": Case(**WAITING, seen={"output": OUTPUT_TOKENS}),  # type: ignore[arg-type]
    "waits two seconds, stream": Case(**WAITING, style="stream", seen={"output": OUTPUT_TOKENS}),  # type: ignore[arg-type]
    "an hour": Case(**HOPELESS, message="requests-hour"),  # type: ignore[arg-type]
    "an hour, stream": Case(**HOPELESS, style="stream", message="requests-hour"),  # type: ignore[arg-type]
    "an hour, raw": Case(**HOPELESS, style="raw", message="requests-hour"),  # type: ignore[arg-type]
    "money": Case(plan="spent", calls=2, attempts=2, status=429, code="budget_exceeded", message="money-month"),
    "credits": Case(app="broke", status=402, code="insufficient_quota", message="no credits"),
    "revoked key": Case(plan="", status=401, code="revoked_api_key", message="revoked"),
    "unpriced": Case(model="no-such-model", status=400, code="unpriced_model", message="No price is known"),
    "backend away": Case(app="away", status=503, code="backend", attempts=1 + RETRIES, message="cannot be checked"),
    "budget ends": Case(app="finish", style="stream", most=None, seen={"finish": ("length", "max_tokens")}),
    "budget ends in an error": Case(app="error", style="stream", most=None, status=0, message="tokens-minute"),
}
"""Name -> what is tried."""

ERRORS: dict[int, set[str]] = {
    # an error within a stream of status 200; the oldest of Anthropic's in JavaScript takes it for a lost connection
    0: {"APIError", "APIStatusError", "RateLimitError", "APIConnectionError"},
    400: {"BadRequestError"},
    401: {"AuthenticationError"},
    402: {"PaymentRequiredError", "APIStatusError", "APIError"},  # Anthropic's newest have an error of their own
    429: {"RateLimitError"},
    503: {"InternalServerError", "ServiceUnavailableError", "OverloadedError"},
}
"""Status -> names of the SDKs' exceptions."""

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}
"""Status -> type of the error in the body, as both vendors' SDKs read it."""


@dataclass
class Attempt:
    """
    One request that reached a server: when, when the answer began, its status and headers.
    """

    arrived: float
    answered: float = 0.0
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)


class Recorder:
    """
    Notes what reaches an app and what goes out, by the header ``x-case``.
    """

    def __init__(self, app: Any, seen: dict[str, list[Attempt]]) -> None:
        self._app = app
        self._seen = seen

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """
        Pass one connection on.
        """
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        attempt = Attempt(time.monotonic())
        self._seen[dict(scope["headers"])[b"x-case"].decode()].append(attempt)

        async def noting(message: Any) -> None:
            if message["type"] == "http.response.start":
                attempt.answered, attempt.status = time.monotonic(), message["status"]
                attempt.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            await send(message)

        await self._app(scope, receive, noting)


class SdkServers:
    """
    The demonstration's app and some that refuse, each on a port of its own.

    Attributes:
        seen: Id of a case -> the requests that reached a server for it.
    """

    def __init__(self, ports: Mapping[str, int], keys: Any, seen: dict[str, list[Attempt]]) -> None:
        self._ports = ports
        self._keys = keys
        self.seen = seen

    def jobs(self, *libraries: str) -> list[dict[str, Any]]:
        """
        All cases for each of *libraries*, ready to be called: each has a key of its own.
        """
        return [self._job(library, name, case) for library in libraries for name, case in CASES.items()]

    def _job(self, library: str, name: str, case: Case) -> dict[str, Any]:
        flavor = library.partition("-")[0]
        # without a plan it is a key that was revoked
        key = self._keys.create(name=name, plan=case.plan or None)
        if not case.plan:
            self._keys.revoke(key.row.kid)
        return {
            "id": f"{library}: {name}",
            "library": library,
            "base": f"http://127.0.0.1:{self._ports[case.app]}",
            "key": key.text,
            "style": case.style,
            "calls": case.calls,
            "model": case.model or {"openai": "gpt-4o", "anthropic": "claude-opus-5"}[flavor],
            "max": case.most,
        }


@contextmanager
def sdk_servers() -> Iterator[SdkServers]:
    """
    Run the servers.
    """
    seen: dict[str, list[Attempt]] = defaultdict(list)
    with open_books(None) as engine:
        given = make_settings(str(engine.url), "of a test") | {"plans": PLANS, "unknown_price": "deny"}
        core = wire(Settings.from_mapping(given | {"default_plan": "roomy"}), engine=engine)
        apps = {"demo": ASGIMiddleware(make_app(), core)} | {name: _refusing(name) for name in OTHERS}
        with serve([(Recorder(app, seen), 0) for app in apps.values()]) as ports:
            yield SdkServers(dict(zip(apps, ports, strict=True)), open_keys(core.settings, engine), seen)


def _broke(facts: Facts) -> Subject:
    del facts
    raise CredentialError("There are no credits left.", status=402, code="credits")


def _case_of(facts: Facts) -> Subject:
    return Subject(key=facts.header("x-case"))


def _ends(how: str) -> dict[str, Any]:
    formats = {"/v1/chat/completions": "openai.chat", "/v1/messages": "anthropic.messages"}
    return {
        "identify": _case_of,
        "routes": [{"path": path, "format": name, "on_budget_end": how} for path, name in formats.items()],
        "plans": {"one": ["100 tokens/minute"]},
        "output_reserve": 32,
    }


OTHERS: dict[str, dict[str, Any]] = {
    "broke": {"identify": _broke, "plans": {"one": ["1000 requests/minute"]}},
    "away": {
        "identify": _case_of,
        "plans": {"one": ["1000 requests/minute"]},
        "backend": f"redis://127.0.0.1:{free_port()}/0",
        "on_backend_error": "deny",
    },
    "finish": _ends("finish"),
    "error": _ends("error"),
}
"""Name of a server -> the settings that make it refuse."""


def _refusing(name: str) -> ASGIMiddleware:
    routes = [
        {"path": "/v1/chat/completions", "format": "openai.chat"},
        {"path": "/v1/messages", "format": "anthropic.messages"},
    ]
    given = {"routes": routes, "default_plan": "one", "database": "sqlite://", "spool": "memory"} | OTHERS[name]
    core = wire(Settings.from_mapping(given, {}), sink=CallableSink(lambda _: None))
    return ASGIMiddleware(chatty, core)


async def chatty(scope: Any, receive: Any, send: Any) -> None:
    """
    A provider of 1,000 words, whatever maximum the request names.
    """
    if scope["type"] == "lifespan":
        await FakeProvider().asgi(scope, receive, send)
        return
    pieces, more = [], True
    while more:
        message = await receive()
        pieces.append(message.get("body", b""))
        more = message.get("more_body", False)
    body = json.loads(b"".join(pieces))
    body.pop("max_tokens", None)
    waiting = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def given() -> Any:
        return waiting.pop() if waiting else await receive()

    await FakeProvider(Script(output_tokens=1000)).asgi(scope, given, send)
