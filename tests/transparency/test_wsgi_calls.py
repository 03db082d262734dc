"""
The same WSGI app with and without the middleware: the same starts, writes, chunks and closes, in the same order, and the
same errors. Apps and servers are drawn: apps that keep to PEP 3333 in every way, apps that break it, clients that leave.
"""

import os
from collections.abc import Callable
from typing import Any
from wsgiref.validate import validator

import pytest
from asgi_rig import subject_of
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from wsgi_programs import Program, Server, Trace, cleaned, environ_for, programs, servers, trace

from tokenbudget_mw import WSGIMiddleware
from tokenbudget_mw.accounting.sinks import CallableSink
from tokenbudget_mw.calls.call import running
from tokenbudget_mw.core import Core
from tokenbudget_mw.wiring import wire

IS_LONG = bool(os.environ.get("TOKENBUDGET_TEST_CHAOS"))
EXAMPLES = settings(max_examples=5000 if IS_LONG else 80)
CHAT = b'{"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 9}\n'
ROUTES: list[dict[str, Any]] = [
    {"path": "/v1/chat/completions", "format": "openai.chat"},
    {"path": "/auto", "format": "auto"},
    {"path": "/plain/*"},
]
PLANS = {"none": [], "many": ["1G requests/hour", "1000G tokens/hour", "1M concurrent"]}


def wired(plan: str) -> Core:
    """A core whose plan is *plan*."""
    given = {"identify": subject_of, "routes": ROUTES, "plans": PLANS, "default_plan": plan}
    return wire(given, sink=CallableSink(lambda _: None))


CORES = {plan: wired(plan) for plan in PLANS}


def around(core: Core) -> Callable[[Any], Any]:
    """What puts the middleware around an app."""
    return lambda app: WSGIMiddleware(app, core)


def bare(app: Any) -> Any:
    """Nothing."""
    return app


def assert_same(plan: str, program: Program, server: Server, environ: dict[str, Any]) -> None:
    """The same happens with and without the middleware, but for the headers of limits where there are limits."""
    without, through = trace(bare, program, server, environ), trace(around(CORES[plan]), program, server, environ)

    assert through.seen == without.seen
    assert through.ends == without.ends
    if plan == "none":
        assert through.got == without.got
    else:
        assert cleaned(through.got) == cleaned(without.got)
    assert running.get() is None


@pytest.mark.parametrize("plan", PLANS)
@given(program=programs(), server=servers(), path=st.sampled_from(["/plain/x", "/other"]))
@EXAMPLES
def test_requests_pass_as_they_are(plan: str, program: Program, server: Server, path: str) -> None:
    """Whatever app and server do, neither can tell that the middleware is there."""
    assert_same(plan, program, server, environ_for(path))


@pytest.mark.parametrize("plan", PLANS)
@given(program=programs(), server=servers(body=CHAT), path=st.sampled_from(["/v1/chat/completions", "/auto"]))
@EXAMPLES
def test_read_requests_pass_as_they_are(plan: str, program: Program, server: Server, path: str) -> None:
    """Nor where the body is read ahead, and the response on its way."""
    assert_same(plan, program, server, environ_for(path))


def validated(app: Any) -> Any:
    """An app under the standard library's observation."""
    return validator(app)


# the validator cannot be closed where `iter()` fails, and complains of that to nobody
@given(program=programs().filter(lambda program: program.kind != "lazy"), server=servers(body=CHAT))
@EXAMPLES
def test_the_validator_says_the_same(program: Program, server: Server) -> None:
    """The standard library's validator is as silent around the middleware as around the app, and inside of it."""
    environ = environ_for("/v1/chat/completions")
    core = CORES["none"]
    without = trace(validated, program, server, environ)
    outside = trace(lambda app: validator(WSGIMiddleware(app, core)), program, server, environ)
    inside = trace(lambda app: WSGIMiddleware(validator(app), core), program, server, environ)

    complaints = [end for end in without.ends if end[1] is AssertionError]
    assert [end for end in outside.ends if end[1] is AssertionError] == complaints
    assert [end for end in inside.ends if end[1] is AssertionError] == complaints
    assert environ["wsgi.errors"].getvalue() == ""


# -- that it can fail ----------------------------------------------------------------------------------------------------


def gathering(app: Any) -> Any:
    """A wrong middleware: holds the body back."""

    def wrong(environ: Any, start_response: Any) -> Any:
        result = app(environ, start_response)
        try:
            return [b"".join(result)]
        finally:
            if hasattr(result, "close"):
                result.close()

    return wrong


def leaking(app: Any) -> Any:
    """A wrong middleware: forgets ``close()``."""
    return lambda environ, start_response: iter(app(environ, start_response))


def deaf(app: Any) -> Any:
    """A wrong middleware: knows no ``exc_info``."""

    def wrong(environ: Any, start_response: Any) -> Any:
        return app(environ, lambda status, headers, exc_info=None: start_response(status, headers))

    return wrong


def eager(app: Any) -> Any:
    """A wrong middleware: asks for the first chunk before the server does."""

    def wrong(environ: Any, start_response: Any) -> Any:
        iterator = iter(app(environ, start_response))
        first = next(iterator, b"")
        return (chunk for part in ([first], iterator) for chunk in part)

    return wrong


@pytest.mark.parametrize("wrong", [gathering, leaking, deaf, eager])
def test_wrong_middlewares_are_found(wrong: Any) -> None:
    """The corpus finds each of the classical mistakes."""

    def both(drawn: tuple[Program, Server]) -> tuple[Trace, Trace]:
        environ = environ_for("/plain/x")
        return trace(bare, *drawn, environ), trace(wrong, *drawn, environ)

    def differs(drawn: tuple[Program, Server]) -> bool:
        without, through = both(drawn)
        return through != without

    found = find(
        st.tuples(programs(), servers()), differs, settings=settings(max_examples=2000, phases=[Phase.generate])
    )

    assert differs(found)
