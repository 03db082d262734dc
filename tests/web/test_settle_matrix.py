"""
Every way in which a call can end, under every rule that a route can set, in ASGI and WSGI.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asgi_rig
import pytest
import wsgi_rig

from tokenbudget_mw.rules.settlement import DEFAULT_SETTLE, SETTLE_RULES
from tokenbudget_mw.testing.clock import FakeClock
from tokenbudget_mw.values import UsageRecord

INPUT, MOST = 8, 100
"""Tokens of the prompt that the rigs send, and the most output it allows."""

SAID = (11, 3)
"""Tokens that the provider's figures name: apart from every count, so that a rule cannot pass for another."""


def sse(**fields: object) -> bytes:
    return b"data: " + json.dumps({"model": "gpt-4o", **fields}).encode() + b"\n\n"


def text(content: str, finish: str | None = None) -> bytes:
    return sse(choices=[{"index": 0, "delta": {"content": content}, "finish_reason": finish}])


FIGURES = sse(choices=[], usage={"prompt_tokens": SAID[0], "completion_tokens": SAID[1], "total_tokens": 14})
NOTHING = sse(choices=[], usage={"prompt_tokens": SAID[0], "completion_tokens": 0, "total_tokens": 11})
DONE = b"data: [DONE]\n\n"
WORDS = (text(" one"), text(" two"), text(" three"))
"""Three chunks, each of one token."""


class APITimeoutError(Exception):
    """As clients of providers name theirs."""


@dataclass(frozen=True)
class Way:
    """
    A way to end.

    Attributes:
        outcome: Its name on the row.

        actual: Tokens that `actual` and `partial` charge: input, output.

        chunks: What the app sends of its body; None where it does not begin to answer.

        error: What the app raises then.

        status: Of the response.

        leaves_after: After how many chunks the client goes away; None where it stays.

        encoding: The response's content encoding.
    """

    outcome: str
    actual: tuple[int, int]
    chunks: tuple[bytes, ...] | None = ()
    error: Exception | None = None
    status: int = 200
    leaves_after: int | None = None
    encoding: str = ""


WAYS = {
    "complete": Way("complete", SAID, (*WORDS, FIGURES, DONE)),
    "client gone before the first byte": Way("client_gone_early", (INPUT, 0), (*WORDS, FIGURES, DONE), leaves_after=0),
    "client gone at the first chunk": Way("client_gone", (INPUT, 1), (*WORDS, FIGURES, DONE), leaves_after=1),
    "client gone at the third chunk": Way("client_gone", (INPUT, 3), (*WORDS, FIGURES, DONE), leaves_after=3),
    "client gone after the end": Way("complete", SAID, (*WORDS, FIGURES, DONE), leaves_after=99),
    "app raised before": Way("app_error", (INPUT, MOST), None, RuntimeError("before")),
    "app raised during": Way("app_error_late", (INPUT, 3), WORDS, RuntimeError("during")),
    "a redirection": Way("redirected", (INPUT, 0), (), status=307),
    "upstream 4xx": Way("status_4xx", (INPUT, 0), (b'{"error": {"message": "no"}}',), status=429),
    "upstream 5xx": Way("status_5xx", (INPUT, 0), (b'{"error": {"message": "no"}}',), status=500),
    "timeout raised": Way("timeout", (INPUT, MOST), None, TimeoutError()),
    "timeout of a client's library": Way("timeout", (INPUT, MOST), None, APITimeoutError()),
    "timeout answered": Way("timeout", (INPUT, 0), (b'{"error": {"message": "late"}}',), status=504),
    "timeout during": Way("app_error_late", (INPUT, 3), WORDS, TimeoutError()),
    "no usage": Way("no_usage", (INPUT, 3), (*WORDS, DONE)),
    "nothing can read it": Way("no_usage", (INPUT, MOST), WORDS, encoding="compress"),
    "empty completion": Way("empty", (SAID[0], 0), (text("", "stop"), NOTHING, DONE)),
    "empty completion without usage": Way("empty", (INPUT, 0), (text("", "stop"), DONE)),
    "truncated": Way("truncated", (INPUT, 3), WORDS),
}

RULES = {
    "actual": lambda way: way.actual,
    "partial": lambda way: way.actual,
    "input": lambda way: (INPUT, 0),
    "reserved": lambda way: (INPUT, MOST),
    "refund": lambda way: (0, 0),
}


def headers_of(way: Way) -> list[tuple[str, str]]:
    kind = "application/json" if way.status != 200 else "text/event-stream"
    return [("content-type", kind), *([("content-encoding", way.encoding)] if way.encoding else [])]


def run_asgi(way: Way, settings: dict[str, Any]) -> asgi_rig.Rig:
    """Let the call end that way under ASGI."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if way.chunks is not None:
            headers = [(name.encode(), value.encode()) for name, value in headers_of(way)]
            await send({"type": "http.response.start", "status": way.status, "headers": headers})
        for number, chunk in enumerate(way.chunks or ()):
            if number == way.leaves_after:
                assert (await receive())["type"] == "http.disconnect"
                return
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if way.error is not None:
            raise way.error
        await send({"type": "http.response.body"})
        if way.leaves_after is not None:
            assert (await receive())["type"] == "http.disconnect"

    rig = asgi_rig.Rig(app, **settings)
    try:
        asyncio.run(rig.arun(asgi_rig.chat(max_tokens=MOST, stream=True), asgi_rig.DISCONNECT))
    except Exception as error:
        assert error is way.error  # noqa: PT017 - most ways raise nothing
    return rig


def run_wsgi(way: Way, settings: dict[str, Any]) -> wsgi_rig.Rig:
    """Let the call end that way under WSGI."""

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        if way.chunks is not None:
            start_response(f"{way.status} X", headers_of(way))
        yield from way.chunks or ()
        if way.error is not None:
            raise way.error

    rig = wsgi_rig.Rig(app, **settings)
    iterable: Any = rig.open(wsgi_rig.environ_of(wsgi_rig.chat(max_tokens=MOST, stream=True)))
    try:
        for number, _ in enumerate(iterable, 1):
            if number == way.leaves_after:
                break
    except Exception as error:
        assert error is way.error  # noqa: PT017 - most ways raise nothing
    finally:
        iterable.close()
    return rig


def leave_early(way: Way, settings: dict[str, Any]) -> wsgi_rig.Rig:
    """A client that is gone before a WSGI server draws the first chunk."""

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", headers_of(way))
        return iter(way.chunks or ())

    rig = wsgi_rig.Rig(app, **settings)
    rig.open(wsgi_rig.environ_of(wsgi_rig.chat(max_tokens=MOST, stream=True))).close()  # type: ignore[attr-defined]
    return rig


def asgi(way: Way, **settings: Any) -> Any:
    return run_asgi(way, settings)


def wsgi(way: Way, **settings: Any) -> Any:
    return leave_early(way, settings) if way.leaves_after == 0 else run_wsgi(way, settings)


def row_of(rig: Any) -> UsageRecord:
    (row,) = rig.rows()
    return row  # type: ignore[no-any-return]


@pytest.mark.parametrize("rule", sorted(SETTLE_RULES))
@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
@pytest.mark.parametrize("protocol", [asgi, wsgi])
def test_t08_every_end_under_every_rule(protocol: Callable[..., Any], way: Way, rule: str) -> None:
    """The row names the outcome and has what the rule says; counters hold the same, and no slot is taken."""
    route = {"path": asgi_rig.CHAT, "format": "openai.chat", "settle": {way.outcome: rule}}

    rig = protocol(way, routes=[route])

    row, (input_tokens, output_tokens) = row_of(rig), RULES[rule](way)
    assert (row.settle_reason, row.input_tokens, row.output_tokens) == (way.outcome, input_tokens, output_tokens)
    left = {line.limit.unit: line.remaining for line in rig.core.explain(asgi_rig.subject_of(FACTS)).limits}
    assert left == {"concurrent": 1, "tokens": 1000 - input_tokens - output_tokens}
    assert isinstance(rig.clock, FakeClock)


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
@pytest.mark.parametrize("protocol", [asgi, wsgi])
def test_t08_the_default_is_the_documented_one(protocol: Callable[..., Any], way: Way) -> None:
    """Without a setting, each outcome is charged by the rule that the page on settling names for it."""
    page = (Path(__file__).parents[2] / "docs" / "settling.md").read_text()
    (line,) = [line for line in page.splitlines() if line.startswith(f"| `{way.outcome}` |")]
    rule = line.split("|")[3].strip(" `")

    row = row_of(protocol(way))

    assert rule == DEFAULT_SETTLE[way.outcome]
    assert (row.input_tokens, row.output_tokens) == RULES[rule](way)


def test_the_matrix_has_every_outcome_and_every_rule() -> None:
    """An outcome that is added without a row here is missing, unless tests of its own have it (streams, killed processes)."""
    assert {way.outcome for way in WAYS.values()} == set(DEFAULT_SETTLE) - {"budget_end", "orphaned"}
    assert set(RULES) == set(SETTLE_RULES)


FACTS: Any = asgi_rig.Facts("POST", asgi_rig.CHAT, (("x-subject", "k1"),))
