"""The lifespan: passed on to an app that has one, answered for one that has none."""

import asyncio
from typing import Any

import pytest
from asgi_rig import App, Rig

STARTUP, SHUTDOWN = {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}


def lived(app: App) -> tuple[list[str], list[str]]:
    """What the server hears of an app's lifespan, and what became of the core."""
    rig, ends = Rig(app), []
    rig.core.closers.append(lambda: ends.append("closed"))
    sent = rig.run(dict(STARTUP), dict(SHUTDOWN), type="lifespan")
    return [message["type"] for message in sent], ends


async def knowing(scope: Any, receive: Any, send: Any) -> None:
    """An app with a lifespan."""
    for word in ("startup", "shutdown"):
        assert (await receive())["type"] == f"lifespan.{word}"
        await send({"type": f"lifespan.{word}.complete"})


async def raising(scope: Any, receive: Any, send: Any) -> None:
    """An app that knows http only, and says so."""
    raise ValueError("only http")


async def leaving(scope: Any, receive: Any, send: Any) -> None:
    """An app that knows http only, and goes."""


async def failing(scope: Any, receive: Any, send: Any) -> None:
    """An app whose startup fails, and says so as the specification has it."""
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})


async def breaking(scope: Any, receive: Any, send: Any) -> None:
    """An app whose startup breaks."""
    await receive()
    raise RuntimeError("no database")


@pytest.mark.parametrize("app", [knowing, raising, leaving])
def test_t12_lifespan_ends_with_everything_written(app: App) -> None:
    """Whether or not the app has a lifespan, its end is seen, and closes the core once before it is confirmed."""
    assert lived(app) == (["lifespan.startup.complete", "lifespan.shutdown.complete"], ["closed"])


def test_failed_startup_is_the_apps_word() -> None:
    """A startup that fails reaches the server as it is, and nothing is answered in its place."""
    assert lived(failing) == (["lifespan.startup.failed"], [])


def test_a_loop_that_is_not_asyncios_is_told_at_start() -> None:
    """Under trio no request could wait for its counters, so the server does not start; an exception it would pass over."""
    sent: list[Any] = []

    async def receive() -> Any:
        return dict(STARTUP)

    async def send(message: Any) -> None:
        sent.append(message)

    with pytest.raises(StopIteration):
        Rig(knowing).middleware({"type": "lifespan"}, receive, send).send(None)

    assert [message["type"] for message in sent] == ["lifespan.startup.failed"]
    assert "asyncio" in sent[0]["message"]


def test_broken_startup_is_not_hidden() -> None:
    """An app that breaks after it took the lifespan up is not mistaken for one without."""
    with pytest.raises(RuntimeError, match="no database"):
        lived(breaking)


def test_cancelled_lifespan_stays_cancelled() -> None:
    """A server that cancels the lifespan is obeyed."""

    async def cancelled() -> str:
        task = asyncio.create_task(Rig(raising).arun(dict(STARTUP), type="lifespan"))
        await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return "cancelled"
        return "went on"

    assert asyncio.run(cancelled()) == "cancelled"
