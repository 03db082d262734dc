"""Whole decisions, settlements and usages, field by field: what a caller gets is said completely."""

import pytest

from tokenbudget_mw.rules.admission import Admission, Plan, Request, decide, settlement_of, without_backend
from tokenbudget_mw.rules.policy import Plan as LimitPlan
from tokenbudget_mw.rules.policy import Policy
from tokenbudget_mw.rules.settlement import settled_usage
from tokenbudget_mw.values import (
    Ask,
    Check,
    CheckState,
    Cost,
    Decision,
    Hold,
    Limit,
    Prompt,
    Reply,
    Reservation,
    Route,
    Settlement,
    Subject,
    Tally,
    TokenCount,
    Usage,
    Window,
)

MINUTE = Limit("requests-minute", "requests", 60, Window(60.0))
CALLS = Limit("calls", "concurrent", 2, None, algorithm="concurrent")
SHADOW = Limit("shade", "tokens", 10, Window(60.0), mode="shadow")
HARD = Limit("hard", "tokens", 10, Window(60.0), on_backend_error="deny")
MONTH = Limit("month", "money", 5_000_000_000, Window(period="month"), algorithm="calendar")
COST = Cost(1, 100, 300, 42, 1)
PROMPT = Prompt("gpt-4o", TokenCount(100, 120, exact=False))


def check_of(limit: Limit, cost: int = 1) -> Check:
    return Check("key=k", limit.name, limit.algorithm, (), cost, limit.amount, limit.mode == "enforce")


def plan_of(*limits: Limit, cost: int = 1) -> Plan:
    checks = tuple(check_of(limit, cost) for limit in limits)
    return Plan(Ask("i" * 32, "acme", checks, 30.0), limits, COST)


def no(retry_after: float | None = 5.0, remaining: int = 0) -> CheckState:
    return CheckState(fits=False, remaining=remaining, reset=9.0, retry_after=retry_after)


def yes(slot: int) -> CheckState:
    return CheckState(fits=True, remaining=3, reset=9.0, slot=slot)


def test_an_admission_is_told_completely() -> None:
    """Tallies, what would have been refused, and a reservation that knows its slots, slot 0 too."""
    plan = plan_of(MINUTE, CALLS, SHADOW)
    states = (yes(70), yes(0), no())

    decision = decide(plan, Reply(True, states, degraded=True), now=1_000.0)

    first, second, _ = plan.ask.checks
    assert decision == Decision(
        admitted=True,
        tallies=(Tally(MINUTE, states[0], 1), Tally(CALLS, states[1], 1), Tally(SHADOW, states[2], 1)),
        would_refuse=("shade",),
        reservation=Reservation(
            "i" * 32, "acme", (Hold(first, 70), Hold(second, 0)), ("requests", "concurrent"), COST, 1_030.0
        ),
        degraded=True,
    )
    assert not decide(plan, Reply(True, states), now=0.0).degraded


def test_a_refusal_is_told_completely() -> None:
    """Why, by which limits, for how long; a shadow limit refuses nobody."""
    plan = plan_of(MINUTE, CALLS, SHADOW)
    states = (no(61.5, 0), yes(-1), no(700.0))

    decision = decide(plan, Reply(False, states), now=1_000.0)

    assert decision == Decision(
        admitted=False,
        code="limit",
        status=429,
        message="Limit 'requests-minute' reached: 60 requests in 60 s, 0 requests left, 1 requests needed. Retry in 62 s.",
        tallies=(Tally(MINUTE, states[0], 1), Tally(CALLS, states[1], 1), Tally(SHADOW, states[2], 1)),
        refused_by=("requests-minute",),
        retry_after=61.5,
        degraded=False,
    )


def test_several_reasons_stand_side_by_side() -> None:
    """Each refusing limit has its sentence; one that never fits leaves nothing to wait for; money names the code."""
    plan = plan_of(CALLS, MONTH, cost=3)

    decision = decide(plan, Reply(False, (no(None, 2), no(0.5, 1_000_000_000))), now=0.0)
    soon = decide(plan_of(CALLS, MINUTE), Reply(False, (no(0.5, 1), no(0.0))), now=0.0)

    assert decision.code == "money"
    assert decision.retry_after is None
    assert decision.message == (
        "Limit 'calls' allows 2 calls at a time; this request needs 3 calls at a time, which can never fit."
        " Limit 'month' reached: $5.00 per month, $1.00 left, $0.000000003 needed. Retry in 1 s."
    )
    assert soon.message == (
        "Limit 'calls' reached: 2 calls at a time, 1 calls at a time left, 1 calls at a time needed. Retry in 1 s."
        " Limit 'requests-minute' reached: 60 requests in 60 s, 0 requests left, 1 requests needed."
    )
    assert soon.retry_after == 0.5


def test_a_refusal_by_nobody_has_no_wait() -> None:
    """A backend that refuses without a reason of ours leaves nothing to wait for."""
    assert decide(plan_of(SHADOW), Reply(False, (no(),)), now=0.0).retry_after is None


UNCHECKED = "The limits of this request cannot be checked right now. Try again in a moment."


def test_a_denying_limit_without_its_backend_is_told_completely() -> None:
    """503, with every tally, while the backend is away; 429 as ever where it answers."""
    plan = plan_of(MINUTE, HARD)
    states = (yes(-1), no())

    away = decide(plan, Reply(False, states, degraded=True), now=0.0)

    assert away == Decision(
        admitted=False,
        code="backend",
        status=503,
        message=UNCHECKED,
        tallies=(Tally(MINUTE, states[0], 1), Tally(HARD, states[1], 1)),
        refused_by=("hard",),
        retry_after=1.0,
        degraded=True,
    )
    assert decide(plan, Reply(False, states), now=0.0).status == 429
    assert decide(plan_of(MINUTE), Reply(False, (no(),), degraded=True), now=0.0).degraded
    assert without_backend(plan) == Decision(
        admitted=False,
        code="backend",
        status=503,
        message=UNCHECKED,
        refused_by=("requests-minute", "hard"),
        retry_after=1.0,
        degraded=True,
    )


@pytest.mark.parametrize("states", [(), (yes(1), yes(1))])
def test_a_reply_to_another_question_is_an_error(states: tuple[CheckState, ...]) -> None:
    """As many answers as questions, or nothing is decided."""
    with pytest.raises(ValueError, match="as many states"):
        decide(plan_of(MINUTE), Reply(True, states), now=0.0)


def test_a_settlement_is_of_its_reservation() -> None:
    """It carries the reservation, and the true amount of each hold in its unit."""
    reservation = Reservation("i", "t", (), ("requests", "tokens", "money"), COST, 0.0)

    assert settlement_of(reservation, Cost(1, 10, 20, 3, 1)) == Settlement(reservation, (1, 30, 3))


def test_limits_come_from_route_model_and_subject() -> None:
    """The question is about the limits of the route, counted for the model and the route, under the subject's tag."""
    per_model = Limit("per-model", "requests", 5, Window(60.0), per=("key", "model", "route"))
    everywhere = Limit("everywhere", "requests", 9, Window(60.0))
    route = Route("/v1/chat", limits=(per_model,))
    subject = Subject(key="k1", tenant="acme", plan="free")
    admission = Admission(Policy({"free": LimitPlan("free", (everywhere,))}), lease=30.0)
    asked = Request("a" * 32, subject, route, "gpt-4o", COST, Cost(requests=1))

    plan = admission.plan(asked, 1_000.0)

    assert plan is not None
    assert {limit.name for limit in plan.limits} == {"per-model", "everywhere"}
    (counter,) = [
        check.counter for check, limit in zip(plan.ask.checks, plan.limits, strict=True) if limit is per_model
    ]
    assert "model=gpt-4o" in counter
    assert "route=/v1/chat" in counter
    assert (plan.ask.tag, plan.cost) == (admission.policy.tag_of(subject), COST)
    assert admission.policy.tag_of(subject) != ""


def test_given_limits_stand_instead_of_the_policys() -> None:
    """A request that brings its limits is asked for these alone."""
    admission = Admission(Policy({"free": LimitPlan("free", (MINUTE,))}), lease=30.0)
    asked = Request("a" * 32, Subject(key="k1", plan="free"), None, None, COST, Cost(requests=1), limits=(CALLS,))

    plan = admission.plan(asked, 1_000.0)

    assert plan is not None
    assert plan.limits == (CALLS,)


@pytest.mark.parametrize(
    ("rule", "tapped", "usage"),
    [
        ("refund", Usage(90, 40), Usage(source="none", complete=False)),
        ("reserved", Usage(90, 40), Usage(100, 300, source="estimated", complete=False)),
        ("actual", None, Usage(100, 300, source="estimated", complete=False)),
        ("input", Usage(90, 40), Usage(100, source="estimated", complete=False)),
        ("partial", Usage(0, 4, complete=False), Usage(100, 4, source="estimated", complete=False)),
    ],
)
def test_a_usage_says_where_it_is_from_and_whether_it_is_whole(rule: str, tapped: Usage | None, usage: Usage) -> None:
    """What was estimated or given back is marked, and never taken for the provider's own word."""
    assert settled_usage(rule, tapped=tapped, prompt=PROMPT, reserved=COST) == usage
