"""
Counts that nobody waits for: a bounded queue, one thread, and what it teaches.
"""

from __future__ import annotations

import json
import logging
import os
import threading

import pytest

from tokenbudget_mw.counting.aside import Aside
from tokenbudget_mw.counting.encoders import CountCancelledError
from tokenbudget_mw.counting.tokenizers import Tokenizers
from tokenbudget_mw.errors import PayloadError
from tokenbudget_mw.metering import TokenMeter
from tokenbudget_mw.values import Route

TEXT = "0123456789 " * 200
ASYNC = Route("/chat", format="openai.chat", count="async")


def body(text: str = TEXT) -> bytes:
    return json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": text}]}).encode()


@pytest.fixture
def meter():
    meter = TokenMeter(Tokenizers())
    yield meter
    meter.close()


@pytest.fixture
def aside():
    aside = Aside(most=2)
    yield aside
    aside.close()


class TestAside:
    def test_work_is_done_in_a_thread_of_its_own(self, aside):
        """Submitted work runs, in order, and not in the caller's thread."""
        done = []

        for number in range(2):
            assert aside.submit(lambda number=number: done.append((number, threading.current_thread().name)))
            aside.join()

        assert done == [(0, "tokenbudget-counting"), (1, "tokenbudget-counting")]

    def test_what_is_too_much_is_turned_away(self, aside):
        """While the thread is busy, no more than the limit waits; the caller is told and goes on."""
        begun, go = threading.Event(), threading.Event()
        aside.submit(lambda: (begun.set(), go.wait()))
        begun.wait()

        taken = [aside.submit(lambda: None) for _ in range(4)]
        go.set()

        assert taken == [True, True, False, False]

    def test_a_failure_is_logged_and_the_next_work_done(self, aside, caplog):
        """Work that raises is told in the log, and does not end the thread."""
        done = []

        with caplog.at_level(logging.ERROR, logger="tokenbudget_mw"):
            aside.submit(lambda: 1 / 0)
            aside.submit(lambda: done.append(1))
            aside.join()

        assert done == [1]
        assert [record.getMessage() for record in caplog.records] == [
            "Counting aside failed; the request is not affected."
        ]

    def test_it_can_be_used_again_after_closing(self, aside):
        """Closing ends the thread; later work starts another."""
        first, second = threading.Event(), threading.Event()
        aside.submit(first.set)
        aside.close()
        aside.submit(second.set)

        assert first.wait(10)
        assert second.wait(10)

    def test_closing_what_never_worked_is_nothing(self):
        """Closing without work, or twice, does nothing."""
        unused = Aside()

        unused.close()
        unused.join()
        unused.close()

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
    def test_a_child_process_starts_a_thread_of_its_own(self, aside):
        """The parent's thread is not in the child, so the child starts one."""
        aside.submit(lambda: None)
        aside.join()

        child = os.fork()
        if child == 0:
            done = []
            aside.submit(lambda: done.append(1))
            aside.join()
            os._exit(0 if done else 1)

        assert os.waitpid(child, 0)[1] == 0


class TestAsyncRoutes:
    def test_a_prompt_is_estimated_at_once(self, meter):
        """An async route's prompt is not tokenised before it is admitted, and holds its estimate."""
        found = meter.read_prompt(ASYNC, body()).input

        assert found.method == "learned"
        assert found.upper == found.estimate

    def test_counting_aside_teaches_the_estimate(self, meter):
        """After some prompts the estimate of an async route is near the truth."""
        truth = Tokenizers().count(TEXT, "gpt-4o").estimate
        first = meter.read_prompt(ASYNC, body()).input.estimate
        for _ in range(40):
            meter.recount_aside(ASYNC, body()).result(20)

        assert abs(first - truth) > 0.2 * truth
        assert meter.read_prompt(ASYNC, body()).input.estimate == pytest.approx(truth, rel=0.1)

    def test_reading_counts_nothing_aside(self, meter):
        """Reading a prompt starts no thread, whatever the route."""
        for count in ("full", "sample", "async", "off"):
            meter.read_prompt(Route("/x", format="openai.chat", count=count), body())

        assert (meter._aside._process, meter._deciding._process) == (0, 0)

    def test_who_waits_does_not_wait_behind_those_who_do_not(self, meter):
        """Counts that decide something have a thread of their own, beside that of async routes."""
        begun, go = threading.Event(), threading.Event()
        meter._aside.submit(lambda: (begun.set(), go.wait(20)))
        begun.wait(20)

        found = meter.recount_aside(Route("/x", format="openai.chat"), body())

        assert found.result(20).exact
        go.set()

    def test_a_count_that_is_cancelled_before_its_turn_is_not_made(self, meter):
        """A future that was cancelled while it waited costs nothing."""
        begun, go = threading.Event(), threading.Event()
        meter._deciding.submit(lambda: (begun.set(), go.wait(20)))
        begun.wait(20)
        found = meter.recount_aside(Route("/x", format="openai.chat"), b"no JSON")

        assert found.cancel()
        go.set()
        meter._deciding.join()
        assert found.cancelled()

    def test_an_error_is_told_to_whoever_asked(self, meter):
        """What cannot be read raises where the result is asked for, and the thread goes on."""
        route = Route("/x", format="openai.chat")

        with pytest.raises(PayloadError):
            meter.recount_aside(route, b"no JSON").result(20)

        assert meter.recount_aside(route, body()).result(20).exact


class TestRecount:
    def test_a_body_is_counted_exactly_whatever_its_length(self, meter):
        """What was sampled first can be counted exactly, in a thread."""
        long = body("Some words of a line.\n" * 10_000)
        route = Route("/chat", format="openai.chat")

        sampled, exact = meter.read_prompt(route, long).input, meter.recount(route, long)

        assert (sampled.exact, exact.exact) == (False, True)
        assert sampled.estimate == pytest.approx(exact.estimate, rel=0.05)
        assert sampled.upper >= exact.estimate

    def test_it_can_be_stopped(self, meter):
        """A count whose request has gone stops at the next slice."""
        with pytest.raises(CountCancelledError):
            meter.recount(ASYNC, body("x y " * 100_000), is_cancelled=lambda: True)
