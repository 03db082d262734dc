"""
Which times a lost counter covers, what is asked of the books, and what holds without them.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenbudget_mw.backends.memory import MemoryBackend
from tokenbudget_mw.rules.admission import Admission, Plan, Request, decide
from tokenbudget_mw.rules.policy import Plan as LimitPlan
from tokenbudget_mw.rules.policy import Policy
from tokenbudget_mw.rules.seeding import MOST_SPANS, Question, Span, alone, is_bookable, questions, seed_of
from tokenbudget_mw.rules.windows import ALGORITHMS, MAX_AMOUNT
from tokenbudget_mw.values import Ask, Check, Cost, Limit, Reply, Route, Subject, Window

NOW = 1_760_000_000.0
NOW_US = int(NOW * 1e6)
HOUR, MONTH = Window(3600.0), Window(period="month")
DOLLARS = 10**9
BUDGET = Limit("budget", "money", 5 * DOLLARS, MONTH, algorithm="calendar")
HOURLY = Limit("hourly", "money", DOLLARS, HOUR)
CALLS = Limit("calls", "requests", 60, Window(60.0))
ALICE = Subject(key="k1", user="alice", tenant="acme", plan="free", source="api_key")
COST = Cost(1, 100, 100, 1000, 1)


def admission(*limits: Limit, zone: str = "UTC") -> Admission:
    return Admission(Policy({"free": LimitPlan("free", limits)}, timezone=zone, has_books=True))


def request(**changes: Any) -> Request:
    return msgspec.structs.replace(
        Request("a" * 32, ALICE, Route("/chat"), "gpt-4o", COST, Cost(requests=1)), **changes
    )


def planned(*limits: Limit, **changes: Any) -> Plan:
    plan = admission(*limits).plan(request(**changes), NOW)
    assert plan is not None
    return plan


def question_of(limit: Limit, zone: str = "UTC", **changes: Any) -> Question:
    asked = request(**changes)
    plan = admission(limit, zone=zone).plan(asked, NOW)
    assert plan is not None
    return questions(plan, (0,), asked, NOW)[0]


# -- which limits are booked ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "is_booked"),
    [
        (BUDGET, True),
        (HOURLY, True),
        (Limit("t", "tokens", 9, MONTH, algorithm="calendar"), True),
        (Limit("t", "tokens", 9, HOUR), False),
        (Limit("r", "requests", 9, Window(period="day"), per=("global",), algorithm="calendar"), True),
        (Limit("m", "money", 9, HOUR, per=("global",)), False),
        (Limit("m", "money", 9, HOUR, per=("model", "tenant")), True),
        (Limit("c", "concurrent", 9, None, algorithm="concurrent"), False),
    ],
)
def test_money_and_calendar_periods_are_booked(limit: Limit, is_booked: bool) -> None:
    """
    The books know money of a holder in any window, and anything but calls in flight in a period of the calendar.
    """
    assert is_bookable(limit) is is_booked


def test_checks_say_that_they_are_booked_where_there_are_books() -> None:
    """
    Only a policy with books marks its checks.
    """
    with_books = [check.is_booked for check in planned(BUDGET, CALLS, HOURLY).ask.checks]
    policy = Policy({"free": LimitPlan("free", (BUDGET, CALLS, HOURLY))})
    without = policy.bind((BUDGET, CALLS, HOURLY), ALICE, None, None, COST, COST, NOW)[1]

    assert with_books == [True, False, True]
    assert [check.is_booked for check in without] == [False] * 3


# -- what is asked ----------------------------------------------------------------------------------------------------


def test_a_period_is_asked_for_from_its_first_moment_in_its_zone() -> None:
    """
    A month of Zurich begins when it does there, and is charged where the algorithm would.
    """
    asked = question_of(BUDGET, "Europe/Zurich")

    start, end = 1_759_269_600_000_000, 1_761_951_600_000_000
    assert asked == Question((("key", "k1"),), "tenant:acme", None, "money", (Span(start, start, end),))


def test_scopes_of_the_limit_and_not_the_model_name_the_owner() -> None:
    """
    A limit per user and model asks for the user's usage of the model; one for everybody asks for nobody's in particular.
    """
    of_user = question_of(Limit("m", "money", 9, HOUR, per=("user", "model")))
    of_all = question_of(Limit("m", "money", 9, MONTH, per=("global",), algorithm="calendar"))
    of_route = question_of(Limit("m", "requests", 9, MONTH, per=("key", "route"), algorithm="calendar"))

    assert (of_user.scopes, of_user.model) == ((("user", "alice"),), "gpt-4o")
    assert (of_all.scopes, of_all.model) == ((), None)
    assert of_route.scopes == (("key", "k1"), ("route", "/chat"))


@given(slots=st.integers(1, 500), length=st.integers(1, 10**9), now=st.integers(10**15, 2 * 10**15))
def test_slots_cover_the_window_and_nothing_twice(slots: int, length: int, now: int) -> None:
    """
    The spans lie side by side, reach back to whatever still counts, and none is charged before its time.
    """
    limit = Limit("m", "money", 9, Window(length * slots / 1e6), slots=slots)
    ask = Ask("a" * 32, "t", (Check("c", "w", "strict_log", (length, slots), 1, 9),))
    plan = Plan(ask, (limit,), COST)
    spans = questions(plan, (0,), request(), now / 1e6)[0].spans
    moment = round(now / 1e6 * 1e6)

    assert len(spans) <= MOST_SPANS
    assert all(early.until_us == late.since_us for early, late in pairwise(spans))
    assert spans[0].since_us <= moment - length * slots < moment < spans[-1].until_us
    assert all(span.slot == span.until_us and span.slot % length == 0 for span in spans)


@given(
    charges=st.lists(st.tuples(st.integers(0, 7200), st.integers(1, 100)), max_size=20),
    later=st.integers(0, 4000),
    slots=st.sampled_from([1, 7, 60, 240]),
)
def test_t01_a_seeded_window_never_counts_less_than_a_kept_one(
    charges: list[tuple[int, int]], later: int, slots: int
) -> None:
    """
    Whatever was used when, a counter that is started from the books refuses at least as long as the one that was lost.
    """
    limit = Limit("m", "money", 10**6, HOUR, slots=slots)
    check = planned(limit).ask.checks[0]
    state = [0]
    for ago, amount in sorted(charges, reverse=True):
        moment = NOW_US - ago * 10**6
        slot, _ = ALGORITHMS["strict_log"].peek(state, check.params, moment)
        ALGORITHMS["strict_log"].charge(state, check.params, slot, amount, moment)
    asked = question_of(limit)
    amounts = [
        sum(amount for ago, amount in charges if span.since_us <= NOW_US - ago * 10**6 < span.until_us)
        for span in asked.spans
    ]
    seeded = [0]
    for slot, amount in seed_of(check, asked, amounts).charges:
        ALGORITHMS["strict_log"].charge(seeded, check.params, slot, amount, NOW_US)

    at = NOW_US + later * 10**6
    kept = ALGORITHMS["strict_log"].peek(state, check.params, at)[1]
    assert ALGORITHMS["strict_log"].peek(seeded, check.params, at)[1] >= kept
    if slots <= 60:
        assert ALGORITHMS["strict_log"].peek(seeded, check.params, at)[1] == kept


def test_a_bucket_starts_with_all_of_its_last_length() -> None:
    """
    What has leaked of a `gcra` bucket is not on the books, so it starts fuller, never emptier.
    """
    limit = Limit("m", "money", 100, HOUR, algorithm="gcra")
    check, asked = planned(limit).ask.checks[0], question_of(limit)
    backend = MemoryBackend()

    backend.seed("t", [seed_of(check, asked, [40])], NOW)

    (span,) = asked.spans
    assert (span.until_us - span.since_us, span.slot) == (3_600_000_001, NOW_US)
    ask = msgspec.structs.replace(planned(limit).ask, tag="t")
    assert backend.peek(ask, NOW).states[0].remaining == 60


def test_a_seed_has_a_charge_for_each_span_with_usage() -> None:
    """
    Spans without usage make no entry, and no amount is larger than a backend can hold.
    """
    check = planned(HOURLY).ask.checks[0]
    spans = (Span(1, 0, 1), Span(2, 1, 2), Span(3, 2, 3))

    seed = seed_of(check, Question((), None, None, "money", spans), [7, 0, 2**60])

    assert seed.charges == ((1, 7), (3, MAX_AMOUNT))
    assert (seed.counter, seed.window, seed.params) == ("key=k1", "money:3600", check.params)


# -- without the books ------------------------------------------------------------------------------------------------


def test_without_books_allow_is_not_asked_and_local_counts_beside() -> None:
    """
    The other limits are asked as before; what counts meanwhile leaves the window that waits for the books alone.
    """
    relaxed = replace(HOURLY, on_backend_error="allow")
    plan = planned(BUDGET, relaxed, CALLS)

    rest = alone(plan, (0, 1))

    assert rest is not None
    assert [limit.name for limit in rest.limits] == ["budget", "calls"]
    assert [(check.window, check.is_booked) for check in rest.ask.checks] == [
        ("money:month?", False),
        ("requests:60", False),
    ]


def test_without_books_deny_refuses_and_its_shadow_does_not() -> None:
    """
    A limit that must hold lets nobody pass uncounted; one in shadow mode refuses nobody.
    """
    strict = replace(BUDGET, on_backend_error="deny")

    assert alone(planned(strict, CALLS), (0,)) is None
    shadow = alone(planned(replace(strict, mode="shadow"), CALLS), (0,))
    assert shadow is not None
    assert [limit.name for limit in shadow.limits] == ["calls"]


def test_a_reply_that_still_wants_seeds_is_decided_by_policy() -> None:
    """
    Should windows vanish again and again, the request is refused rather than let through uncounted.
    """
    decision = decide(planned(BUDGET), Reply(False, (), unseeded=(0,)), now=NOW)

    assert (decision.admitted, decision.status) == (False, 503)
