"""
The same app with and without the middleware behind real servers: the same bytes on the wire, for every program drawn.

A request says by its headers which program the app plays and whether it goes through the middleware; so both answers come
of one process. What differs from moment to moment (``Date``) is left out, and nothing else.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from typing import Any

import asgi_programs
import pytest
import wsgi_programs
from adapter_servers import Server, serving
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from raw_http import exchange, message, plain

CHAT = b'{"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 9}'
IS_LONG = bool(os.environ.get("TOKENBUDGET_TEST_CHAOS"))
EXAMPLES = settings(
    max_examples=500 if IS_LONG else 20,
    phases=[Phase.explicit, Phase.generate],  # each example takes a server's time
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
NAMES = itertools.count()
ROUNDS = 12
"""How often a request is made until the answers meet; nearly always once."""

ASGI = [
    ("uvicorn", "programs_asgi"),
    ("hypercorn", "programs_asgi"),
    ("granian", "programs_asgi"),
    ("gunicorn-uvicorn", "programs_asgi"),
]
WSGI = [
    ("gunicorn-sync", "programs_wsgi"),
    ("gunicorn", "programs_wsgi"),
    ("flask-run", "programs_flask"),
    ("django-runserver", "programs_django"),
    *([("granian-wsgi", "programs_wsgi"), ("uvicorn", "programs_django")] if IS_LONG else []),
]
REQUESTS = st.builds(
    lambda method, path, version, chunks: (method, path, version, chunks),
    st.sampled_from(["POST", "POST", "GET", "HEAD"]),
    st.sampled_from(["/read", "/plain/x"]),
    st.sampled_from(["1.1", "1.1", "1.0"]),
    st.sampled_from([0, 0, 3]),
)


def is_playable(step: Any) -> bool:
    """Whether a server outlives *step*."""
    return "base" not in repr(step) and "zerocopy" not in repr(step)


@pytest.fixture(scope="module", params=ASGI, ids="-".join)
def asgi_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that plays ASGI programs."""
    with serving(*request.param, tmp_path_factory.mktemp("programs")) as running:
        yield running


@pytest.fixture(scope="module", params=WSGI, ids="-".join)
def wsgi_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that plays WSGI programs."""
    with serving(
        *request.param,
        tmp_path_factory.mktemp("programs"),
        CONTRACT_ASYNC="1" if request.param[0] == "uvicorn" else "0",
    ) as running:
        yield running


def without_empty_length(said: bytes) -> bytes:
    """
    A response of granian without what it says of an empty body's length, where the body is one: whether that has ended before
    the head goes out is a race between its threads, and an app that is slower by some microseconds always loses it.
    """
    head, end, body = said.partition(b"\r\n\r\n")
    framing = {b"": rb"content-length: 0", b"0\r\n\r\n": rb"transfer-encoding: chunked"}.get(body)
    if b"\r\nserver: granian" not in head or framing is None:
        return said
    head, number = re.subn(rb"\r\n%b(?=\r\n|$)" % framing, b"", head)
    return head + end if number else said


def assert_same_bytes(server: Server, program: Any, request: tuple[str, str, str, int]) -> None:
    """Bare, metered without limits and metered with limits, the wire carries the same."""
    name = f"p{next(NAMES)}"
    (server.database.parent / f"{name}.program").write_text(repr(program))
    method, path, version, chunks = request
    body = CHAT if method == "POST" else b""
    chunks = chunks if version == "1.1" and body else 0

    def said(headers: dict[str, str]) -> bytes:
        raw = message(method, path, {"x-program": name} | headers, body, version=version, chunks=chunks)
        return without_empty_length(exchange(server.port, raw))

    bare, unlimited, limited = set[bytes](), set[bytes](), set[bytes]()
    # how much of a broken response goes out is a matter of moments
    for _ in range(ROUNDS):
        answer = said({})
        bare |= {plain(answer), plain(answer, ours=True)}
        unlimited.add(plain(said({"x-subject": "k1"}), ours=True))
        limited.add(plain(said({"x-subject": "k2:many"})))
        if unlimited & bare and limited & bare:
            return
    assert (unlimited, limited) == (bare, bare)


def steps_of(kind: str) -> Any:
    """The same small response as a program of either kind."""
    if kind == "asgi":
        start = {"type": "http.response.start", "status": 201, "headers": [(b"content-type", b"text/plain")]}
        return [("send", start), ("send", {"type": "http.response.body", "body": b"a word"})]
    start_wsgi = ("start", "201 Made", [("Content-Type", "text/plain")])
    return wsgi_programs.Program((start_wsgi,), "iterator", (b"a word",), "ok")


def assert_played(server: Server, kind: str) -> None:
    """A right program is played, bare and metered, and the limits show where there are limits."""
    (server.database.parent / "plain.program").write_text(repr(steps_of(kind)))

    for headers in ({}, {"x-subject": "k1"}, {"x-subject": "k2:many"}):
        said = exchange(server.port, message("POST", "/read", {"x-program": "plain"} | headers, CHAT))
        assert said.startswith(b"HTTP/1.1 201 ")
        assert b"a word" in said
        assert (b"ratelimit:" in said.lower()) == (headers.get("x-subject") == "k2:many")


def test_asgi_programs_are_played(asgi_server: Server) -> None:
    """The comparisons below compare something."""
    assert_played(asgi_server, "asgi")


def test_wsgi_programs_are_played(wsgi_server: Server) -> None:
    """So do those of WSGI."""
    assert_played(wsgi_server, "wsgi")


@given(
    program=st.one_of(asgi_programs.responses(), asgi_programs.responses(), asgi_programs.wild()).filter(is_playable),
    request=REQUESTS,
)
@EXAMPLES
def test_asgi_bytes_are_the_same(asgi_server: Server, program: Any, request: tuple[str, str, str, int]) -> None:
    """On every ASGI server a client gets the same bytes."""
    assert_same_bytes(asgi_server, program, request)


@given(program=wsgi_programs.programs().filter(is_playable), request=REQUESTS)
@EXAMPLES
def test_wsgi_bytes_are_the_same(wsgi_server: Server, program: Any, request: tuple[str, str, str, int]) -> None:
    """So does it on every WSGI server, and on those of Django and Flask."""
    assert_same_bytes(wsgi_server, program, request)
