"""
Refusals as the settings want them: headers of vendors, other origins, words of one's own; in ASGI and WSGI.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import asgi_rig
import pytest
import wsgi_rig

from tokenbudget_mw.errors import ConfigurationError
from tokenbudget_mw.rules.refusals import Refusal
from tokenbudget_mw.wiring import wire

CHAT, MESSAGES = asgi_rig.CHAT, "/v1/messages"
ORIGIN = "https://app.example.com"
BODY = {"model": "claude-sonnet-4-5", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}


@dataclass
class Got:
    """What a client got."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


def given(settings: dict[str, Any]) -> dict[str, Any]:
    routes = [{"path": CHAT, "format": "openai.chat"}, {"path": MESSAGES, "format": "anthropic.messages"}, "/plain"]
    return {"routes": routes, "plans": {"one": ["1 request/minute", "1000 tokens/minute"]}} | settings


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": b"{}"})


def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("content-type", "application/json")])
    return [b"{}"]


def asgi(settings: dict[str, Any], *, path: str = CHAT, method: str = "POST", **headers: str) -> list[Got]:
    """Two requests, of which the second is refused."""
    rig = asgi_rig.Rig(asgi_app, **given(settings))
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    found = []
    for _ in range(2):
        start, *rest = rig.run(asgi_rig.request(BODY), path=path, method=method, headers=dict(named))
        found.append(
            Got(
                start["status"],
                {name.decode().lower(): value.decode() for name, value in start["headers"]},
                b"".join(message["body"] for message in rest),
            )
        )
    return found


def wsgi(settings: dict[str, Any], *, path: str = CHAT, method: str = "POST", **headers: str) -> list[Got]:
    """Two requests, of which the second is refused."""
    rig = wsgi_rig.Rig(wsgi_app, **given(settings))
    named = {f"HTTP_{name.upper()}": value for name, value in headers.items()}
    found = []
    for _ in range(2):
        got = rig.run(BODY, PATH_INFO=path, REQUEST_METHOD=method, **named)
        found.append(Got(got.status, {name.lower(): value for name, value in got.headers}, got.body))
    return found


BOTH = pytest.mark.parametrize("protocol", [asgi, wsgi])


@BOTH
class TestLimitHeaders:
    def test_usual(self, protocol: Any) -> None:
        """By default, limits are told as the IETF's draft has it."""
        for got in protocol({}):
            assert "ratelimit" in got.headers
            assert not [name for name in got.headers if name.startswith(("x-ratelimit", "anthropic"))]

    def test_vendors(self, protocol: Any) -> None:
        """Several styles stand side by side, on what is admitted and on what is refused."""
        admitted, refused = protocol({"limit_headers": ["ietf", "openai", "anthropic"]})

        assert (admitted.status, refused.status) == (200, 429)
        assert admitted.headers["x-ratelimit-remaining-requests"] == "0"
        assert refused.headers["x-ratelimit-limit-tokens"] == "1000"
        assert refused.headers["anthropic-ratelimit-requests-limit"] == "1"
        assert refused.headers["anthropic-ratelimit-requests-reset"].endswith("Z")
        assert "ratelimit-policy" in refused.headers

    @pytest.mark.parametrize(
        ("path", "prefix"), [(CHAT, "x-ratelimit-"), (MESSAGES, "anthropic-ratelimit-"), ("/plain", "-")]
    )
    def test_auto(self, protocol: Any, path: str, prefix: str) -> None:
        """``auto`` speaks as the route's provider does, and of a route without one not at all."""
        for got in protocol({"limit_headers": ["auto"]}, path=path):
            told = [name for name in got.headers if "ratelimit" in name]
            assert all(name.startswith(prefix) for name in told)
            assert bool(told) == (path != "/plain")

    def test_none(self, protocol: Any) -> None:
        """An empty list tells nothing of limits; the wait is still told."""
        _, refused = protocol({"limit_headers": []})

        assert not [name for name in refused.headers if "ratelimit" in name]
        assert int(refused.headers["retry-after"]) > 0


@BOTH
class TestOrigins:
    def test_usual(self, protocol: Any) -> None:
        """By default, origins are the business of the app's own middleware."""
        for got in protocol({}, origin=ORIGIN):
            assert not [name for name in got.headers if name.startswith("access-control")]

    def test_scripts_may_read_a_refusal(self, protocol: Any) -> None:
        """A refusal to a script of a named origin can be read by it, with its headers, and caches tell origins apart."""
        admitted, refused = protocol({"cors_origins": [ORIGIN.upper()]}, origin=ORIGIN)

        assert refused.headers["access-control-allow-origin"] == ORIGIN
        assert refused.headers["access-control-allow-credentials"] == "true"
        assert refused.headers["vary"] == "Origin"
        exposed = refused.headers["access-control-expose-headers"].split(", ")
        assert {"retry-after", "retry-after-ms", "ratelimit", "ratelimit-policy", "x-request-id"} <= set(exposed)
        assert "content-type" not in exposed
        assert admitted.headers["access-control-expose-headers"] == "ratelimit-policy, ratelimit"
        assert "access-control-allow-origin" not in admitted.headers

    @pytest.mark.parametrize("origin", ["https://evil.example.com", "null", f"{ORIGIN}.evil.com", ""])
    def test_other_origins_may_not(self, protocol: Any, origin: str) -> None:
        """What is not named learns nothing."""
        for got in protocol({"cors_origins": [ORIGIN]}, origin=origin):
            assert not [name for name in got.headers if name.startswith("access-control")]

    def test_any_origin(self, protocol: Any) -> None:
        """``*`` is any; the answer is the same for all."""
        _, refused = protocol({"cors_origins": "*"}, origin="https://anywhere.example")

        assert refused.headers["access-control-allow-origin"] == "*"
        assert not {"vary", "access-control-allow-credentials"} & set(refused.headers)

    @pytest.mark.parametrize("credential", ["authorization", "x_api_key", "api_key", "cookie"])
    def test_a_preflight_has_no_credentials(self, protocol: Any, credential: str) -> None:
        """What looks like a preflight and brings credentials or a body is none, and is metered."""
        preflight = {"method": "OPTIONS", "origin": ORIGIN, "access_control_request_method": "POST"}

        _, refused = protocol({"routes": ["/plain"]}, path="/plain", **preflight, **{credential: "x"})

        assert refused.status == 429


@BOTH
class TestMethods:
    @pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "GET", "PURGE"])
    def test_refusals_of_any_method(self, protocol: Any, method: str) -> None:
        """Every method is refused alike, not to be stored, and only HEAD without a body."""
        _, refused = protocol({"routes": ["/plain"]}, path="/plain", method=method)

        assert (refused.status, refused.headers["cache-control"]) == (429, "no-store")
        assert int(refused.headers["content-length"]) > 0
        assert len(refused.body) == (0 if method == "HEAD" else int(refused.headers["content-length"]))


@BOTH
class TestMessages:
    def test_own_words(self, protocol: Any) -> None:
        """A template takes the place of the message, in every shape of the body."""
        _, refused = protocol({"messages": {"limit": "Langsam! {limits}: {retry_after} s"}})

        body = refused.json()
        assert body["error"]["message"] == body["detail"]
        assert body["detail"].startswith("Langsam! requests-minute: ")
        assert "content-language" not in refused.headers

    def test_own_languages(self, protocol: Any) -> None:
        """The client's language is spoken, and named."""
        messages = {"de": {"limit": "Genug für jetzt."}, "*": {"limit": "Enough for now."}}

        _, german = protocol({"messages": messages}, accept_language="de-AT, en;q=0.5")
        _, other = protocol({"messages": messages}, accept_language="it")

        assert (german.json()["detail"], german.headers["content-language"]) == ("Genug für jetzt.", "de")
        assert other.json()["detail"] == "Enough for now."

    def test_unknown_callers_are_told_in_own_words(self, protocol: Any) -> None:
        """What ends a request before its limits has its own reason."""
        found = protocol({"messages": {"unauthenticated": "Who are you?"}, "identify": lambda facts: None})

        assert [got.json()["detail"] for got in found] == ["Who are you?", "Who are you?"]


def own(refusal: Refusal, decision: Any, facts: Any) -> Refusal:
    """A refusal as the host has it."""
    body = json.dumps({"fault": decision.code, "path": facts.path}).encode()
    return replace(refusal, status=430, body=body, headers=(*refusal.headers, ("x-own", "1")))


def broken(refusal: Refusal, decision: Any, facts: Any) -> Refusal:
    """A host's mistake."""
    raise LookupError


@BOTH
class TestOwnRendering:
    def test_own_body(self, protocol: Any) -> None:
        """A function of the host's has the last word; its body's length is told right."""
        _, refused = protocol({"render_refusal": own})

        assert (refused.status, refused.json()) == (430, {"fault": "limit", "path": CHAT})
        assert refused.headers["content-length"] == str(len(refused.body))
        assert refused.headers["x-own"] == "1"
        assert "retry-after" in refused.headers

    def test_by_dotted_path(self, protocol: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """It may be named."""
        monkeypatch.setattr(asgi_rig, "own", own, raising=False)

        assert protocol({"render_refusal": "asgi_rig.own"})[1].status == 430

    @pytest.mark.parametrize("function", [broken, lambda *_: None, lambda *_: "no refusal"])
    def test_the_usual_one_otherwise(self, protocol: Any, function: Any, caplog: pytest.LogCaptureFixture) -> None:
        """One that fails, or has nothing to say, leaves the usual refusal; a mistake is logged."""
        _, refused = protocol({"render_refusal": function})

        assert (refused.status, refused.json()["status"]) == (429, 429)
        logged = [record for record in caplog.records if "render_refusal" in record.getMessage()]
        assert bool(logged) == (function("", "", "") is not None if function is not broken else True)


@BOTH
@pytest.mark.parametrize(
    "wrong",
    [
        {"body": "a text"},
        {"body": None},
        {"body": 7},
        {"status": "no"},
        {"status": 103},
        {"headers": None},
        {"headers": {"x-own": "1"}},
        {"headers": (("x-own", 1),)},
        {"headers": (("x-own", "€"),)},
        {"headers": (("x-own", "1\r\nset-cookie: a=b"),)},
        {"headers": (("x ö", "1"),)},
    ],
    ids=str,
)
def test_a_rendering_that_no_server_sends_leaves_the_usual_one(
    protocol: Any, wrong: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Bodies that are no bytes, statuses and headers that are none: the mistake is logged, and the client is refused as usual."""
    _, refused = protocol({"render_refusal": lambda refusal, *_: replace(refusal, **wrong)})

    assert (refused.status, refused.json()["status"]) == (429, 429)
    assert "set-cookie" not in refused.headers
    assert any("render_refusal" in record.getMessage() for record in caplog.records)


def test_rows_have_the_status_that_was_sent() -> None:
    """The books say what the client got."""
    rig = asgi_rig.Rig(asgi_app, **given({"render_refusal": own}))
    for _ in range(2):
        rig.run(asgi_rig.request(BODY))

    assert [row.status for row in rig.rows()] == [200, 430]


def test_a_rendering_that_cannot_be_found_fails_at_start() -> None:
    """A misspelt path is told at start."""
    with pytest.raises(ConfigurationError, match="at `render_refusal`: cannot import"):
        wire({"render_refusal": "asgi_rig.missing"})


def test_an_accepted_websocket_is_closed_with_the_reason() -> None:
    """A handler's refused reservation closes its websocket for policy, and says why."""
    from tokenbudget_mw.calls.call import current

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        async with current().reserve(model="gpt-4o", prompt=5000):
            raise AssertionError

    rig = asgi_rig.Rig(app, **given({"routes": ["/plain"]}))
    accepted, closed = rig.run(type="websocket", path="/plain")

    assert (accepted["type"], closed["type"], closed["code"]) == ("websocket.accept", "websocket.close", 1008)
    assert closed["reason"].startswith("Limit 'tokens-minute' allows 1000 tokens")
    assert len(closed["reason"].encode()) <= 123


@pytest.mark.parametrize("ask", [asgi, wsgi])
def test_two_credentials_are_nobodys(ask: Any) -> None:
    """A request with a second credential is refused as such, whichever of the two is somebody's."""
    settings = {"identify": "api_key", "database": "sqlite://", "pepper": "pepper"}

    found = ask(settings, authorization="Bearer one", x_api_key="two")

    assert [(got.status, got.json()["error"]["code"]) for got in found] == [(400, "multiple_credentials")] * 2
