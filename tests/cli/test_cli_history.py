"""
The replay's own witness: its windows, and its drive on virtual time.
"""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenbudget_mw.cli.replaying.drive import Clock, Drive, Plan
from tokenbudget_mw.cli.replaying.history import History
from tokenbudget_mw.cli.replaying.provider import bare
from tokenbudget_mw.cli.replaying.tallies import percentiles, refused_by
from tokenbudget_mw.cli.replaying.traces import Traced
from tokenbudget_mw.settings import parse_limit
from tokenbudget_mw.values import CheckState, Subject, Tally, Usage

MINUTE = parse_limit("1000 tokens/minute per key")
K1, K2 = Subject("k1"), Subject("k2")


def tally(tokens, limit=MINUTE):
    return [Tally(limit, CheckState(True, 0), tokens)]


def test_the_fullest_window_is_kept():
    """Windows add up by key, the fullest of all is told, and what is older than the window has left."""
    history = History()

    history.admit(0.0, tally(300), K1, None)
    history.admit(0.0, tally(200), K2, None)
    history.admit(60.0, tally(400), K1, None)
    history.admit(60.5, tally(500), K1, None)

    worst = history.worst["tokens-minute-key"]
    assert (worst.key, worst.tokens, worst.cap, worst.at) == ("k1", 900, 1000, 60.5)


def test_settling_replaces_what_was_reserved():
    """After settling, a window holds the true tokens, more or less than was reserved."""
    history = History()
    entries = history.admit(0.0, tally(300), K1, None)

    history.settle(entries, Usage(40, 2))
    history.admit(1.0, tally(100), K1, None)

    assert history.worst["tokens-minute-key"].tokens == 300
    history.admit(2.0, tally(200), K1, None)
    assert history.worst["tokens-minute-key"].tokens == 342


def test_settling_what_has_left_changes_nothing():
    """A request that ends after its slot has left the window no longer counts there."""
    history = History()
    entries = history.admit(0.0, tally(300), K1, None)
    history.admit(61.0, tally(10), K1, None)

    history.settle(entries, Usage(900, 50))
    history.admit(62.0, tally(10), K1, None)

    assert history.worst["tokens-minute-key"].tokens == 300


@pytest.mark.parametrize("text", ["5 requests/minute", "$5/minute", "5 concurrent", "5 tokens/month"])
def test_only_trailing_token_windows_are_watched(text):
    """Requests, money, concurrency and calendar periods have no window of tokens."""
    history = History()

    assert history.admit(0.0, tally(1, parse_limit(text)), K1, None) == []


def test_a_shadow_limit_is_not_watched():
    """A limit that refuses nobody promises nothing."""
    shadow = parse_limit({"limit": "5 tokens/minute", "mode": "shadow"})

    assert History().admit(0.0, tally(9, shadow), K1, None) == []


@pytest.mark.parametrize(("unit", "held"), [("input tokens", 40), ("output tokens", 2), ("tokens", 42)])
def test_each_unit_settles_to_its_own_tokens(unit, held):
    """Input, output and both are settled apart; scopes name the window."""
    limit = parse_limit(f"1000 {unit}/minute per key per model")
    history = History()
    history.settle(history.admit(0.0, tally(500, limit), K1, "gpt-4o"), Usage(40, 2))
    history.admit(1.0, tally(500, limit), K1, "gpt-4o")

    worst = history.worst[limit.name]
    assert (worst.key, worst.tokens) == ("k1,gpt-4o", 500 + held)


@given(
    st.lists(
        st.tuples(st.floats(0, 30), st.integers(0, 500), st.integers(0, 900), st.floats(0, 90)), min_size=1, max_size=30
    )
)
def test_the_witness_agrees_with_a_plain_sum(steps):
    """For any history the fullest window is that of summing everything anew at each admission."""
    history, log, now, worst, pending = History(), [], 0.0, 0, []
    for wait, reserved, settled, lasts in steps:
        now += wait
        for due in sorted((item for item in pending if item[0] <= now), key=lambda item: item[0]):
            history.settle(due[1], Usage(due[2]))
            due[3][1] = due[2]
        pending = [item for item in pending if item[0] > now]
        entries = history.admit(now, tally(reserved), K1, None)
        row = [now, reserved]
        log.append(row)
        pending.append((now + lasts, entries, settled, row))
        worst = max(worst, sum(amount for at, amount in log if at >= now - 60.0))

    assert history.worst["tokens-minute-key"].tokens == worst


def fly(app, trace, plan=None):
    """
    Drive *trace* through *app*; return the moments of the clock at each end, and the flights.
    """
    clock, ended = Clock(0.0), []
    drive = Drive(app, clock, plan or Plan(), lambda flight: ended.append((clock.now, flight)))

    async def run():
        for traced in trace:
            await drive.arrive(traced)
        await drive.end_until(float("inf"))

    asyncio.run(run())
    return ended


def test_requests_end_when_their_output_is_made():
    """A request ends as many token times after it came as it has output tokens, and overtakes slower ones."""
    trace = [Traced(10.0, 50, 100), Traced(10.5, 50, 10), Traced(12.0, 50, 1)]

    ended = fly(bare, trace, Plan(token_seconds=0.02))

    moments = [(at, flight.traced.output_tokens) for at, flight in ended]
    assert moments == [(pytest.approx(10.7), 10), (12.0, 100), (pytest.approx(12.02), 1)]
    assert all(flight.status == 200 for _, flight in ended)


def test_keys_take_turns_unless_the_trace_names_them():
    """Without keys in the trace they go round; a traced key stays itself."""
    trace = [Traced(1, 9, 1), Traced(2, 9, 1), Traced(3, 9, 1), Traced(4, 9, 1, key="x")]

    ended = fly(bare, trace, Plan(keys=2, prefix="r-"))

    assert [flight.key for _, flight in ended] == ["r-1", "r-2", "r-1", "r-x"]


@pytest.mark.parametrize(("output", "asked"), [(0, 256), (1, 256), (256, 256), (257, 512)])
def test_the_asked_output_is_the_true_one_rounded_up(output, asked):
    """A request asks for the next 256 tokens, or for what `--max-tokens` says."""
    assert Plan().most_output(Traced(0, 1, output)) == asked
    assert Plan(max_tokens=7).most_output(Traced(0, 1, output)) == 7


def test_what_the_stack_raises_ends_the_drive():
    """A fault inside the stack is not swallowed."""

    async def broken(scope, receive, send):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fly(broken, [Traced(1, 9, 1)])


def test_a_refusal_s_names_are_read_from_its_body():
    """Limits are named by the policies that were violated; other refusals by their code."""
    assert refused_by(b'{"violated-policies": ["a", "b"], "error": {"code": "x"}}') == ["a", "b"]
    assert refused_by(b'{"violated-policies": [], "error": {"code": "unpriced_model"}}') == ["unpriced_model"]


def test_latency_is_what_is_added_to_the_bare_median():
    """What the bare app usually takes is taken off; its own slow ones do not flatter the middleware."""
    assert percentiles([5000] * 99 + [9000], [2000] * 98 + [50_000] * 2) == {"p50": 3.0, "p99": 7.0}
    assert percentiles([], []) == {"p50": 0.0, "p99": 0.0}
