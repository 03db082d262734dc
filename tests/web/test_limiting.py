"""Limits on single endpoints, inside a metered request and outside of any."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import asgi_rig
import pytest
from wsgi_rig import Got, Rig, environ_of

from tokenbudget_mw import current
from tokenbudget_mw.asgi import facts_of as asgi_facts_of
from tokenbudget_mw.calls.call import running
from tokenbudget_mw.errors import BudgetExceeded, ConfigurationError, CredentialError, UnpricedModelError
from tokenbudget_mw.limiting import EndpointLimit, refusal_of
from tokenbudget_mw.wsgi import WSGIMiddleware, facts_of

WIDE = {"plans": {"one": ["1000 requests/minute"]}}


def limited(rig: Rig, *texts: str, name: str = "search") -> Any:
    """Put an app behind *rig* whose one endpoint has limits of its own."""
    limit = EndpointLimit.parse(texts, name=name)

    def app(environ: Any, start_response: Any) -> list[bytes]:
        limit.admit(rig.core, facts_of(environ))
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"found"]

    rig.middleware = WSGIMiddleware(app, rig.core)
    return app


def asked(rig: Rig, times: int, *, path: str = "/plain/search", subject: str = "k1") -> list[int]:
    """The statuses of *times* requests."""
    return [rig.run(b"", PATH_INFO=path, subject=subject).status for _ in range(times)]


@pytest.mark.parametrize("texts", [(), ("5 tokes/minute",), ("10 requests/minute per",)])
def test_nonsense_fails_where_it_is_written(texts: tuple[str, ...]) -> None:
    """A limit that makes no sense fails at the decorator, not at the first request."""
    with pytest.raises(ConfigurationError, match=r"limit\(\)"):
        EndpointLimit.parse(texts, name="x")


def test_endpoint_has_a_counter_of_its_own() -> None:
    """A limit on an endpoint counts each caller there, beside the plan's limits."""
    rig = Rig(lambda environ, start: [], **WIDE)
    limited(rig, "2 requests/minute")

    assert asked(rig, 3) == [200, 200, 429]
    assert asked(rig, 1, subject="k2") == [200]


def test_window_of_an_endpoint_moves_on() -> None:
    """After the window the endpoint answers again."""
    rig = Rig(lambda environ, start: [], **WIDE)
    limited(rig, "1 request/minute")
    before = asked(rig, 2)
    rig.clock.advance(62.0)

    assert before == [200, 429]
    assert asked(rig, 1) == [200]


def test_endpoints_of_one_name_share_a_counter() -> None:
    """Two endpoints of one name are one to the counters, and of two names they are two."""
    rig = Rig(lambda environ, start: [], **WIDE)
    limited(rig, "2 requests/minute", name="shared")
    first = asked(rig, 1)
    limited(rig, "2 requests/minute", name="shared")
    shared = asked(rig, 2)
    limited(rig, "2 requests/minute", name="other")

    assert first + shared == [200, 200, 429]
    assert asked(rig, 1) == [200]


def test_refusal_names_the_limit() -> None:
    """The refusal of an endpoint is the middleware's own, with the limit's name, and is booked as one."""
    rig = Rig(lambda environ, start: [], **WIDE)
    limited(rig, "1 request/minute")
    asked(rig, 1)
    refused = rig.run(b"", PATH_INFO="/plain/search")

    row = rig.rows()[-1]
    assert "requests-minute-endpoint" in refused.json()["error"]["message"]
    assert int(dict(refused.headers)["Retry-After"]) <= 61
    assert (row.decision, row.limit_name, row.status) == ("refused", "requests-minute-endpoint", 429)


def test_headers_tell_of_both() -> None:
    """The limits of the endpoint stand in the headers beside those of the plan."""
    rig = Rig(lambda environ, start: [], **WIDE)
    limited(rig, "5 requests/minute")
    headers = dict(rig.run(b"", PATH_INFO="/plain/search").headers)

    assert '"requests-minute";r=999' in headers["RateLimit"]
    assert '"requests-minute-endpoint";r=4' in headers["RateLimit"]


def test_concurrency_of_an_endpoint_ends_with_the_request() -> None:
    """A slot of an endpoint is held while the response is under way, and free when it is closed."""
    rig = Rig(lambda environ, start: [], **WIDE)
    limit = EndpointLimit.parse(("1 concurrent",), name="stream")

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        limit.admit(rig.core, facts_of(environ))
        start_response("200 OK", [("Content-Type", "text/plain")])
        return iter([b"a", b"b"])

    rig.middleware = WSGIMiddleware(app, rig.core)
    held: Any = rig.middleware(environ_of(b"", PATH_INFO="/plain/stream"), Got().start_response)
    running.set(None)  # the next request runs in a thread of its own
    during = asked(rig, 1)
    held.close()

    assert during == [429]
    assert asked(rig, 2) == [200, 200]


def test_tokens_of_an_endpoint_are_settled_with_the_request() -> None:
    """A limit on tokens at an endpoint counts what the request has used in the end."""
    rig = Rig(lambda environ, start: [], **WIDE)
    limit = EndpointLimit.parse(("100 tokens/minute",), name="ask")

    def app(environ: Any, start_response: Any) -> list[bytes]:
        limit.admit(rig.core, facts_of(environ))
        current().charge({"model": "gpt-4o", "usage": {"prompt_tokens": 60, "completion_tokens": 50}})
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"x"]

    rig.middleware = WSGIMiddleware(app, rig.core)

    assert asked(rig, 2) == [200, 429]


def test_refused_endpoint_takes_nothing_from_the_plan_but_its_request() -> None:
    """What an endpoint refuses has held no tokens and no slot of the plan afterwards."""
    rig = Rig(lambda environ, start: [], plans={"one": ["1 concurrent", "1000 tokens/minute"]})
    limited(rig, "1 request/minute")

    assert asked(rig, 4) == [200, 429, 429, 429]
    limited(rig, "100 requests/minute", name="elsewhere")
    assert asked(rig, 1) == [200]


# -- outside of metered requests --------------------------------------------------------------------------------------


def test_endpoint_outside_of_routes() -> None:
    """Where no route meters the path, the endpoint's limit holds all the same, and its caller must be known."""
    rig = Rig(lambda environ, start: [], **WIDE)
    app = limited(rig, "2 requests/minute")

    passed = [app(environ_of(b"", PATH_INFO="/free"), Got().start_response) for _ in range(2)]
    with pytest.raises(BudgetExceeded) as caught:
        app(environ_of(b"", PATH_INFO="/free"), Got().start_response)
    with pytest.raises(CredentialError):
        app(environ_of(b"", PATH_INFO="/free", subject=None), Got().start_response)

    assert passed == [[b"found"], [b"found"]]
    assert caught.value.decision.refused_by == ("requests-minute-endpoint",)
    assert rig.rows() == []


def test_refusal_outside_of_routes_is_as_the_settings_want_it() -> None:
    """What no route covers is refused in the settings' shape and words, readable for their origins, and is counted."""
    rig = Rig(
        lambda environ, start: [],
        **WIDE,
        refusals="openai",
        messages={"limit": "Slower, please."},
        cors_origins=["https://app.example.com"],
    )
    app = limited(rig, "1 request/minute")
    environ = environ_of(b"", PATH_INFO="/free", HTTP_ORIGIN="https://app.example.com")
    app({**environ}, Got().start_response)
    with pytest.raises(BudgetExceeded) as spent:
        app({**environ}, Got().start_response)
    with pytest.raises(CredentialError) as unknown:
        app(environ_of(b"", PATH_INFO="/free", subject=None), Got().start_response)

    refusal, headers = refusal_of(spent.value), dict(refusal_of(spent.value).headers)
    error = json.loads(refusal.body)["error"]
    assert (set(json.loads(refusal.body)), error["message"]) == ({"error"}, "Slower, please.")
    assert headers["access-control-allow-origin"] == "https://app.example.com"
    assert set(json.loads(refusal_of(unknown.value).body)) == {"error"}
    assert sum(rig.core.outcomes.refused().values()) == 2


def test_limit_that_holds_nobody_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """A limit on tokens counts nothing where no route covers the request; the log says so, once for each endpoint."""
    rig = Rig(lambda environ, start: [], **WIDE)
    app = limited(rig, "5 requests/minute", "100 tokens/minute")
    for _ in range(2):
        app(environ_of(b"", PATH_INFO="/free"), Got().start_response)

    told = [record.getMessage() for record in caplog.records if "holds nobody" in record.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("limit('100 tokens/minute') on search")


def test_call_that_has_ended_holds_nothing_more() -> None:
    """A background task of a request that has ended is limited like one outside of any, and leaves nothing held."""
    rig = Rig(lambda environ, start: [], **WIDE)
    app = limited(rig, "1000 requests/minute")
    rig.run(b"", PATH_INFO="/plain/search")
    calls = []

    def streaming(environ: Any, start_response: Any) -> Iterator[bytes]:
        calls.append(current())
        return iter(app(environ, start_response))

    rig.middleware.app = streaming
    exchange: Any = rig.middleware(environ_of(b"", PATH_INFO="/plain/search"), Got().start_response)
    exchange.close()
    (call,) = calls
    held = len(call.held)
    token = running.set(call)
    app(environ_of(b"", PATH_INFO="/plain/search"), Got().start_response)
    running.reset(token)

    assert len(call.held) == held


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (CredentialError("No key.", code="missing_api_key"), 401, "missing_api_key"),
        (UnpricedModelError("gpt-99"), 400, None),
    ],
)
def test_refusal_of_an_error_without_a_call(error: Any, status: int, code: str | None) -> None:
    """An error of admission outside of a metered request becomes the same kind of response."""
    refusal = refusal_of(error)

    body = json.loads(refusal.body)
    assert refusal.status == status
    assert str(error) in body["error"]["message"]
    assert code is None or body["error"]["code"] == code


# -- on a loop --------------------------------------------------------------------------------------------------------


def test_async_twin_counts_the_same() -> None:
    """On an event loop the limit holds inside and outside of metered requests, in the same counter."""
    limit = EndpointLimit.parse(("2 requests/minute",), name="search")
    outside: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await limit.aadmit(rig.core, asgi_facts_of(scope))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"found"})

    rig = asgi_rig.Rig(app, **WIDE)

    async def three() -> list[int]:
        inside = [
            asgi_rig.status_of(await rig.arun(asgi_rig.request(b""), path="/plain/search")),
            asgi_rig.status_of(await rig.arun(asgi_rig.request(b""), path="/free")),
        ]
        try:
            await limit.aadmit(rig.core, asgi_facts_of(asgi_rig.scope_of(path="/free")))
        except BudgetExceeded:
            outside.append(429)
        return inside

    assert asyncio.run(three()) == [200, 200]
    assert outside == [429]
