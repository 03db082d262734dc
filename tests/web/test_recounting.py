"""
Prompts that only their bound keeps out: counted exactly off the loop, once, in bounded time, and asked for again.
"""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import asgi_rig
import pytest
import wsgi_rig
from asgi_rig import CHAT, DISCONNECT, status_of

from tokenbudget_mw import metering, recounting
from tokenbudget_mw.call import current
from tokenbudget_mw.counting import sampling
from tokenbudget_mw.counting.tokenizers import Tokenizers
from tokenbudget_mw.testing.talk import eventually
from tokenbudget_mw.values import Route

HALVES = " ".join(f"{number * 104_729:x}" if number // 60 % 3 == 0 else "word" for number in range(9_000))
"""Dense and thin by turns, so that a sample of it leaves much in doubt."""

WORDS = "one two three four " * 50
OUTPUT = 100
SMALL = 9
"""Tokens of a chat that says hello, weighed (counted they are 8), which stand in the window before what is looked at."""

SAMPLED = [{"path": CHAT, "format": "openai.chat"}]
WEIGHED = [{"path": CHAT, "format": "openai.chat", "count": "sample:0"}]


class Gate:
    """A counter of words that waits until it may go on."""

    def __init__(self) -> None:
        self.calls = 0
        self.begun, self.go = threading.Event(), threading.Event()

    def count(self, text: str) -> int:
        self.calls += 1
        self.begun.set()
        assert self.go.wait(20)
        return len(text.split())


def chat(text: str = "hello", model: str = "gpt-4o", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": OUTPUT} | fields


async def asgi_app(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": b"{}"})


def wsgi_app(environ, start_response):
    environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [b"{}"]


class ASGI:
    """The middleware for ASGI, as these tests use it."""

    def __init__(self, app: Any = asgi_app, **settings: Any) -> None:
        self.rig = asgi_rig.Rig(app, **settings)

    def send(self, body: dict[str, Any]) -> tuple[int, dict[str, str]]:
        start = self.rig.run(asgi_rig.request(body))[0]
        return start["status"], {name.decode(): value.decode() for name, value in start["headers"]}


class WSGI:
    """The same for WSGI."""

    def __init__(self, app: Any = wsgi_app, **settings: Any) -> None:
        self.rig = wsgi_rig.Rig(app, **settings)

    def send(self, body: dict[str, Any]) -> tuple[int, dict[str, str]]:
        got = self.rig.run(body)
        return got.status, {name.lower(): value for name, value in got.headers}


Kind = type[ASGI] | type[WSGI]
both = pytest.mark.parametrize("kind", [ASGI, WSGI])


def with_left(kind: Kind, left: int, *more: str, **settings: Any) -> Any:
    """An app in whose window *left* tokens are left, after a request that has been charged."""
    side = kind(**{"plans": {"one": [f"{left + SMALL} tokens/minute", *more]}, "routes": WEIGHED} | settings)
    assert side.send(chat())[0] == 200
    assert SMALL - 1 <= side.rig.rows()[0].total_tokens <= SMALL
    return side


def recounts(side: Any) -> list[str]:
    """Note the threads in which bodies are counted again from now on."""
    threads: list[str] = []
    real = side.rig.core.meter.recount

    def recount(*args: Any, **kwargs: Any) -> Any:
        threads.append(threading.current_thread().name)
        return real(*args, **kwargs)

    side.rig.core.meter.recount = recount
    return threads


def ends_of_recounts(side: Any) -> threading.Event:
    """Tell when a body has been counted again, or has been given up."""
    ended, real = threading.Event(), side.rig.core.meter.recount

    def recount(*args: Any, **kwargs: Any) -> Any:
        try:
            return real(*args, **kwargs)
        finally:
            ended.set()

    side.rig.core.meter.recount = recount
    return ended


def sampled_low(side: Any, body: dict[str, Any]) -> tuple[int, int, int]:
    """Estimate, truth and bound of a prompt as the very next request samples it: one that does not err upwards."""
    route, data = side.rig.core.settings.routes[0], json.dumps(body).encode()
    truth = side.rig.core.meter.recount(route, data).estimate
    for seed in range(100):
        sampling._secret.seed(seed)
        found = side.rig.core.meter.read_prompt(route, data).input
        if found.estimate <= truth < found.upper:
            sampling._secret.seed(seed)
            return found.estimate, truth, found.upper
    raise AssertionError("every sample of this text errs upwards")


@both
class TestInDoubt:
    def test_a_long_prompt_is_admitted_where_its_bound_does_not_fit(self, kind: Kind):
        """A sampled prompt whose estimate fits and whose bound does not is counted exactly and admitted."""
        body = chat(HALVES)
        estimate, truth, upper = sampled_low(kind(routes=SAMPLED), body)
        left = truth + OUTPUT + 1
        assert estimate + OUTPUT <= left < upper + OUTPUT
        side = with_left(kind, left, routes=SAMPLED)
        threads = recounts(side)

        status, headers = side.send(body)

        assert status == 200
        assert threads == ["tokenbudget-deciding" if kind is ASGI else threading.current_thread().name]
        assert headers["ratelimit"].partition("r=")[2][:1] in ("1", "2")  # the truth is held, not the bound

    def test_an_exact_count_that_does_not_fit_is_refused(self, kind: Kind):
        """Where the exact count does not fit either, the request is refused, after one count, and nothing is charged."""
        body = chat(HALVES)
        estimate, truth, _ = sampled_low(kind(routes=SAMPLED), body)
        side = with_left(kind, (estimate + truth) // 2 + OUTPUT, routes=SAMPLED)
        threads = recounts(side)
        assert estimate < truth - 1

        status, _ = side.send(body)

        assert status == 429
        assert len(threads) == 1
        assert side.send(chat())[0] == 200

    def test_money_is_in_doubt_like_tokens(self, kind: Kind):
        """A limit on money that has room for the estimate's price leads to an exact count, too."""
        settings = {"tariffs": [{"model": "gpt-4o", "input": "1", "output": "1", "per": "1 tokens"}]}
        body = chat(WORDS)
        side = kind(plans={"one": [f"${400 + SMALL}/minute"]}, routes=WEIGHED, **settings)
        assert side.send(chat())[0] == 200
        threads = recounts(side)

        assert side.send(body)[0] == 200
        assert len(threads) == 1


@both
class TestNotInDoubt:
    def test_what_fits_is_not_counted_again(self, kind: Kind):
        """A bound that fits needs no exact count."""
        side = with_left(kind, 10_000)
        threads = recounts(side)

        assert side.send(chat(WORDS))[0] == 200
        assert threads == []

    def test_an_estimate_that_does_not_fit_is_refused_at_once(self, kind: Kind):
        """Where not even the estimate fits, nothing is counted."""
        side = with_left(kind, OUTPUT + 10)
        threads = recounts(side)

        assert side.send(chat(WORDS))[0] == 429
        assert threads == []

    def test_another_limit_that_refuses_is_not_in_doubt(self, kind: Kind):
        """A request that its number of requests keeps out is not counted, however doubtful its tokens are."""
        side = with_left(kind, 400, "1 requests/minute")
        threads = recounts(side)

        assert side.send(chat(WORDS))[0] == 429
        assert threads == []

    def test_exact_counts_are_not_made_twice(self, kind: Kind):
        """A prompt that was counted exactly, and whose output does not fit, is refused at once."""
        side = with_left(kind, OUTPUT, routes=SAMPLED)
        threads = recounts(side)

        assert side.send(chat("one two three"))[0] == 429
        assert threads == []

    @pytest.mark.parametrize("count", ["off", "async"])
    def test_routes_that_do_not_count_are_left_alone(self, kind: Kind, count: str):
        """`off` never tokenises, and `async` decides on the estimate: neither waits for an exact count."""
        side = with_left(kind, 350, routes=[{"path": CHAT, "format": "openai.chat", "count": count}])
        threads = recounts(side)

        status, _ = side.send(chat(WORDS))

        assert status == (429 if count == "off" else 200)
        assert "tokenbudget-deciding" not in threads
        assert threading.current_thread().name not in threads

    def test_a_body_that_was_not_read_whole_cannot_be_counted(self, kind: Kind):
        """A body beyond `max_body` has its length for a bound, and that stands."""
        side = with_left(kind, 400, max_body=500)
        threads = recounts(side)

        assert side.send(chat(WORDS))[0] == 429
        assert threads == []


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


class TestReservations:
    """A handler's reservation of a long prompt is counted again as a request's is."""

    def reserving(self, prompt: Any, left: int, **settings: Any) -> tuple[Any, list[str], int]:
        """Reserve *prompt* in a handler, with *left* tokens left, under WSGI; return what was held, or the status."""
        held: list[Any] = []

        def app(environ, start_response):
            with current().reserve(model="gpt-4o", prompt=prompt, max_output=OUTPUT) as reserved:
                held.append(reserved.decision.reservation.cost)
                reserved.charge({"usage": {"prompt_tokens": 1, "completion_tokens": 1}})
            return wsgi_app(environ, start_response)

        side = with_left(WSGI, left, **settings)
        side.rig.middleware.app = app
        threads = recounts(side)
        return held, threads, side.rig.run(b"", PATH_INFO="/plain/x").status

    @pytest.mark.parametrize("as_messages", [False, True])
    def test_a_doubtful_reservation_is_counted_exactly(self, as_messages: bool):
        """A long text, or messages, that only the sample's bound keeps out, are counted and held as they are."""
        prompt: Any = [{"role": "user", "content": HALVES}] if as_messages else HALVES
        truth, low = self.low_sample(prompt)

        held, threads, status = self.reserving(prompt, truth + OUTPUT + 1, routes=[*SAMPLED, {"path": "/plain/*"}])

        assert low < truth
        assert status == 200
        assert held[0].input_tokens == truth
        assert threads == [threading.current_thread().name]

    def test_a_number_of_tokens_is_taken_at_its_word(self):
        """A reservation of so many tokens that they do not fit is refused, and nothing is counted."""
        held, threads, status = self.reserving(1_000, 500, routes=[*SAMPLED, {"path": "/plain/*"}])

        assert (held, threads, status) == ([], [], 429)

    def test_async_reservations_are_counted_in_the_thread(self):
        """Under ASGI the count of a reservation keeps off the loop."""
        truth, _ = self.low_sample(HALVES)
        held: list[Any] = []

        async def app(scope, receive, send):
            async with current().reserve(model="gpt-4o", prompt=HALVES, max_output=OUTPUT) as reserved:
                held.append(reserved.decision.reservation.cost)
                reserved.charge({"usage": {"prompt_tokens": 1, "completion_tokens": 1}})
            await asgi_app(scope, receive, send)

        side = with_left(ASGI, truth + OUTPUT + 1, routes=[*SAMPLED, {"path": "/plain/*"}])
        side.rig.middleware.app = app
        threads = recounts(side)

        sent = side.rig.run(asgi_rig.request(b""), path="/plain/x")

        assert status_of(sent) == 200
        assert held[0].input_tokens == truth
        assert threads == ["tokenbudget-deciding"]

    def low_sample(self, prompt: Any) -> tuple[int, int]:
        """Truth and estimate of a reservation's prompt as the very next sample finds it."""
        meter = WSGI().rig.core.meter
        data = json.dumps({"model": "gpt-4o", "messages": prompt} if isinstance(prompt, list) else {}).encode()
        route = Route("*", format="openai.chat")
        exact = (
            meter.recount(route, data).estimate
            if isinstance(prompt, list)
            else Tokenizers().exactly().count(prompt, "gpt-4o").estimate
        )
        for seed in range(100):
            sampling._secret.seed(seed)
            found = meter.read_prompt(route, data).input if isinstance(prompt, list) else meter.count(prompt, "gpt-4o")
            if found.estimate < exact < found.upper - 10:
                sampling._secret.seed(seed)
                return exact, found.estimate
        raise AssertionError("every sample of this text errs upwards")
