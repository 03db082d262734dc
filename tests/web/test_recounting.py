"""
Prompts, and reservations, that only their bound keeps out: counted exactly, once, and asked for again.
"""

from __future__ import annotations

import json
import threading
from typing import Any

import asgi_rig
import pytest
from asgi_rig import CHAT, status_of
from recounting_rig import (
    ASGI,
    HALVES,
    OUTPUT,
    SAMPLED,
    SMALL,
    WEIGHED,
    WORDS,
    WSGI,
    Kind,
    asgi_app,
    both,
    chat,
    recounts,
    sampled_low,
    with_left,
    wsgi_app,
)

from tokenbudget_mw.calls.call import current
from tokenbudget_mw.counting import sampling
from tokenbudget_mw.counting.tokenizers import Tokenizers
from tokenbudget_mw.values import Route


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
