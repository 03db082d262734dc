"""
While a prompt is counted exactly: off the loop, in bounded time, and stopped when the client goes.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import asgi_rig
import pytest
from asgi_rig import DISCONNECT, status_of
from recounting_rig import (
    ASGI,
    WORDS,
    WSGI,
    Gate,
    asgi_app,
    chat,
    ends_of_recounts,
    with_left,
)

from tokenbudget_mw import metering
from tokenbudget_mw.calls import recounting
from tokenbudget_mw.testing.talk import eventually


class TestWaiting:
    """On an event loop: what happens while the thread counts."""

    def doubtful(self, app: Any = asgi_app, left: int = 400) -> tuple[Gate, Any, dict[str, Any]]:
        """An app in which the words of a model of one's own are in doubt, and the gate that counts them."""
        gate = Gate()
        side = with_left(lambda **given: ASGI(app, **given), left, counters={"mine": gate}, unknown_price="flag")
        return gate, side, chat(WORDS, model="mine")

    def test_the_loop_goes_on_meanwhile(self):
        """Another request is served while the exact count of the first one is waited for."""
        gate, side, body = self.doubtful()

        async def both_requests():
            waiting = asyncio.create_task(side.rig.arun(asgi_rig.request(body)))
            await asyncio.to_thread(gate.begun.wait, 20)
            other = await side.rig.arun(asgi_rig.chat(), subject="k2")
            was_waiting = not waiting.done()
            gate.go.set()
            return await waiting, other, was_waiting

        first, other, was_waiting = asyncio.run(both_requests())

        assert (status_of(first), status_of(other), was_waiting) == (200, 200, True)

    def test_a_client_that_leaves_stops_the_count(self):
        """When the client goes, its request is given up: the app does not run, and no further slice is counted."""
        ran = []

        async def app(scope, receive, send):
            ran.append(scope)
            await asgi_app(scope, receive, send)

        gate, side, _ = self.doubtful(app, left=30_000)
        ended = ends_of_recounts(side)
        ran.clear()

        async def leaving():
            messages: asyncio.Queue[Any] = asyncio.Queue()
            sent: list[Any] = []

            async def send(message):
                sent.append(message)

            messages.put_nowait(asgi_rig.request(chat("word " * 20_000, model="mine")))
            waiting = asyncio.create_task(side.rig.middleware(asgi_rig.scope_of(), messages.get, send))
            await asyncio.to_thread(gate.begun.wait, 20)
            messages.put_nowait(DISCONNECT)
            await waiting
            gate.go.set()
            return sent

        sent = asyncio.run(leaving())

        assert ended.wait(20)
        assert gate.calls == 1
        assert (status_of(sent), ran) == (429, [])

    def test_a_client_that_left_before_is_not_counted_for(self):
        """Where the disconnect is there already, nothing is counted."""
        gate, side, body = self.doubtful()

        sent = side.rig.run(asgi_rig.request(body), DISCONNECT)

        assert (status_of(sent), gate.calls) == (429, 0)

    def test_a_cancelled_request_stops_the_count(self):
        """A server that cancels the request instead of telling of the disconnect stops the count as well."""
        gate, side, _ = self.doubtful(left=30_000)
        ended = ends_of_recounts(side)

        async def cancelled():
            message = asgi_rig.request(chat("word " * 20_000, model="mine"))
            waiting = asyncio.create_task(side.rig.arun(message))
            await asyncio.to_thread(gate.begun.wait, 20)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            gate.go.set()

        asyncio.run(cancelled())

        assert ended.wait(20)
        assert gate.calls == 1

    def test_what_the_client_sends_meanwhile_reaches_the_app(self):
        """The disconnect that comes after the count is told to the app, as ever."""
        told, running = [], threading.Event()

        async def app(scope, receive, send):
            told.append((await receive())["type"])
            running.set()
            told.append((await receive())["type"])
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"{}"})

        gate, side, body = self.doubtful()
        side.rig.middleware.app = app

        async def late_leave():
            messages: asyncio.Queue[Any] = asyncio.Queue()
            sent: list[Any] = []
            messages.put_nowait(asgi_rig.request(body))

            async def send(message):
                sent.append(message)

            waiting = asyncio.create_task(side.rig.middleware(asgi_rig.scope_of(), messages.get, send))
            await asyncio.to_thread(gate.begun.wait, 20)
            gate.go.set()
            await asyncio.to_thread(running.wait, 20)
            messages.put_nowait(DISCONNECT)
            await waiting

        asyncio.run(late_leave())

        assert told == ["http.request", "http.disconnect"]

    def test_a_receive_that_fails_is_a_client_that_left(self, caplog):
        """A server whose `receive` raises gets the refusal, and asyncio has nothing to complain of."""
        gate, side, body = self.doubtful()

        async def broken():
            waiting, sent = [asgi_rig.request(body)], []

            async def receive():
                return waiting.pop()

            async def send(message):
                sent.append(message)

            await side.rig.middleware(asgi_rig.scope_of(), receive, send)
            return sent

        sent = asyncio.run(broken())
        gate.go.set()

        assert status_of(sent) == 429
        assert caplog.records == []

    def test_patience_ends(self, monkeypatch):
        """A count that takes too long is given up, and the refusal stands."""
        monkeypatch.setattr(recounting, "PATIENCE", 0.01)
        gate, side, body = self.doubtful()
        ended = ends_of_recounts(side)

        status, _ = side.send(body)
        gate.go.set()

        assert status == 429
        assert not ended.is_set() or ended.wait(20)

    def test_of_too_many_the_refusals_stand(self, monkeypatch):
        """Where too many counts wait already, one more request is refused on its bound, at once."""
        monkeypatch.setattr(metering, "MOST_DECIDING", 1)
        gate, side, body = self.doubtful()

        async def crowd():
            first = asyncio.create_task(side.rig.arun(asgi_rig.request(body)))
            await asyncio.to_thread(gate.begun.wait, 20)
            second = asyncio.create_task(side.rig.arun(asgi_rig.request(body)))
            assert await asyncio.to_thread(eventually, side.rig.core.meter._deciding._waiting.qsize)
            third = await side.rig.arun(asgi_rig.request(body))
            gate.go.set()
            return [status_of(sent) for sent in (await first, await second, third)]

        # the second one is counted, and finds that the first one has taken what was left
        assert asyncio.run(crowd()) == [200, 429, 429]

    def test_a_counter_that_raises_is_the_apps_error(self):
        """What a counter of one's own raises is not taken for a refusal."""
        _, side, body = self.doubtful()

        class Broken:
            def count(self, text: str) -> int:
                raise ZeroDivisionError(len(text))

        side = with_left(ASGI, 400, counters={"mine": Broken()}, unknown_price="flag")

        with pytest.raises(ZeroDivisionError):
            side.send(body)


def test_wsgi_patience_ends():
    """A thread that counts gives up when its time is over, and the refusal stands."""
    gate = Gate()
    side = with_left(WSGI, 30_000, counters={"mine": gate}, unknown_price="flag")
    gate.go.set()
    real = gate.count

    def slow(text: str) -> int:
        side.rig.clock.advance(recounting.PATIENCE)
        return real(text)

    gate.count = slow  # type: ignore[method-assign]
    side = with_left(WSGI, 30_000, counters={"mine": gate}, unknown_price="flag")

    assert side.send(chat("word " * 20_000, model="mine"))[0] == 429
    assert gate.calls == 1
