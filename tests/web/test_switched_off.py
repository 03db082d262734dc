"""Where the middleware is switched off, handlers that speak to it go on, and nothing comes of what they say."""

import asyncio
import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from typing import Any

import asgi_rig
import pytest
import wsgi_rig
from asgi_rig import status_of

from tokenbudget_mw import current
from tokenbudget_mw.errors import TokenBudgetError
from tokenbudget_mw.limiting import EndpointLimit
from tokenbudget_mw.tasks import hand_over, task
from tokenbudget_mw.wsgi import facts_of

USAGE = {"model": "gpt-4o", "usage": {"prompt_tokens": 8, "completion_tokens": 5}}
OFF: dict[str, Any] = {"enabled": False, "plans": {"one": ["1 token/minute", "1 request/minute"]}}


def spend() -> None:
    """What handlers do, far above every limit."""
    call = current()
    call.tag(feature="search")
    assert call.charge(USAGE).output_tokens == 5
    assert call.subject is not None
    assert call.subject.user is None
    with call.reserve(model="gpt-4o", prompt="hello " * 1000, max_output=500) as held:
        assert held.charge(USAGE).input_tokens == 8
    with call.reserve(model="gpt-4o", prompt=7):
        pass


async def aspend() -> None:
    """The same on an event loop."""
    spend()
    async with current().reserve(model="gpt-4o", prompt=[{"role": "user", "content": "hello"}]) as held:
        held.charge(USAGE)


@pytest.mark.parametrize("path", [asgi_rig.CHAT, "/other"])
def test_asgi(path: str) -> None:
    """A handler spends, in a thread and in a task, too; whether a route would cover its path does not matter."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await aspend()
        await asyncio.to_thread(spend)
        await asyncio.create_task(aspend())
        await send({"type": "http.response.start", "status": 200, "headers": []})

    rig = asgi_rig.Rig(app, **OFF)

    assert [status_of(rig.run(asgi_rig.chat(), path=path, subject=None)) for _ in range(3)] == [200] * 3
    assert rig.rows() == []


def test_what_an_event_loops_request_has_started_goes_on_after_it() -> None:
    """A task and a thread that work on with its context when the response is out spend as well; its own context is left."""

    async def run() -> None:
        is_over, late = asyncio.Event(), list[Any]()

        async def work() -> None:
            await is_over.wait()
            gc.collect()
            await aspend()
            await asyncio.to_thread(spend)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            late.append(asyncio.create_task(work()))
            await send({"type": "http.response.start", "status": 200, "headers": []})

        await asgi_rig.Rig(app, **OFF).arun(asgi_rig.chat(), subject=None)
        with pytest.raises(TokenBudgetError, match="No metered request"):
            current()
        is_over.set()
        await late[0]

    asyncio.run(run())


def test_wsgi() -> None:
    """A handler spends, and so does the generator of its body; when the request is gone nobody finds it any more."""

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        spend()
        start_response("200 OK", [])
        return (spend() or chunk for chunk in (b"a", b"b"))  # type: ignore[func-returns-value]

    rig = wsgi_rig.Rig(app, **OFF)

    for _ in range(3):
        environ = wsgi_rig.environ_of(subject=None)  # which servers keep until the body is sent
        assert b"".join(rig.open(environ)) == b"ab"
    del environ
    assert rig.rows() == []
    with pytest.raises(TokenBudgetError, match="No metered request"):
        current()


def test_what_a_thread_has_started_goes_on_after_its_request() -> None:
    """Another thread that works on with a handler's context spends when the request is gone, too; its own no longer can."""
    contexts: list[Context] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        contexts.append(copy_context())
        start_response("200 OK", [])
        return []

    wsgi_rig.Rig(app, **OFF).run(wsgi_rig.chat(), subject=None)
    gc.collect()

    with ThreadPoolExecutor(1) as threads:
        threads.submit(contexts[0].run, spend).result()
    with pytest.raises(TokenBudgetError, match="No metered request"):
        current()


def test_limits_of_endpoints_refuse_nobody() -> None:
    """A limit on a single endpoint is off as well, for threads and for event loops."""
    rig = wsgi_rig.Rig(lambda environ, start_response: [], **OFF)
    limit, facts = (
        EndpointLimit.parse(("1 request/minute",), name="search"),
        facts_of(wsgi_rig.environ_of(subject=None)),
    )

    for _ in range(3):
        limit.admit(rig.core, facts)
        asyncio.run(limit.aadmit(rig.core, facts))


def test_tasks() -> None:
    """A task takes what was handed over, and charges nobody."""
    handed: list[Any] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        handed.append(hand_over())
        start_response("200 OK", [])
        return []

    rig = wsgi_rig.Rig(app, **OFF)
    rig.run(wsgi_rig.chat(), subject=None)

    with task(rig.core, handed[0]):
        spend()
    assert rig.rows() == []
