"""From costs to a question, and from its answer to a decision."""

from dataclasses import replace

import msgspec

from tokenbudget_mw.rules.admission import (
    METERED_UNITS,
    Admission,
    Plan,
    Request,
    decide,
    in_shadow_of_balance,
    settlement_of,
    without_backend,
    without_money,
)
from tokenbudget_mw.rules.policy import Plan as LimitPlan
from tokenbudget_mw.rules.policy import Policy
from tokenbudget_mw.values import Ask, CheckState, Cost, Decision, Limit, Reply, Route, Subject, Window

REQUESTS = Limit("requests-minute", "requests", 60, Window(60.0))
TOKENS = Limit("tokens-minute", "tokens", 1000, Window(60.0))
MONEY = Limit("money-month", "money", 5_000_000_000, Window(period="month"), algorithm="calendar")
SHADOW = Limit("shade", "tokens", 10, Window(60.0), mode="shadow")
CALLS = Limit("concurrent", "concurrent", 2, None, algorithm="concurrent")
ADMISSION = Admission(Policy({"free": LimitPlan("free", (REQUESTS, TOKENS, MONEY, SHADOW, CALLS))}), lease=30.0)
COST = Cost(1, 100, 300, 42, 1)
ASKED = Request("a" * 32, Subject(key="k1", plan="free"), None, "gpt-4o", COST, Cost(requests=1))


def planned(request: Request = ASKED) -> Plan:
    plan = ADMISSION.plan(request, 1_000.0)
    assert plan is not None
    return plan


def reply_to(plan: Plan, **answers: CheckState) -> Reply:
    fits = CheckState(fits=True, remaining=5, reset=60.0, slot=7)
    states = tuple(answers.get(limit.unit, fits) for limit in plan.limits)
    return Reply(all(state.fits for state in states), states)


def test_plan_asks_every_limit_once() -> None:
    """Each limit becomes one check with the cost in its own unit."""
    plan = planned()

    asked = dict(zip([limit.name for limit in plan.limits], [check.cost for check in plan.ask.checks], strict=True))
    # the shadow limit of 10 is asked for no more than its whole amount
    assert asked == {"requests-minute": 1, "tokens-minute": 400, "money-month": 42, "shade": 10, "concurrent": 1}
    assert plan.ask == msgspec.structs.replace(plan.ask, id=ASKED.id, lease=30.0)


def test_no_limits_no_question() -> None:
    """A subject that nothing limits is not asked about."""
    unlimited = Admission(Policy({}))

    assert unlimited.plan(msgspec.structs.replace(ASKED, subject=Subject(key="k1")), 0.0) is None


def test_units_narrow_the_question() -> None:
    """A model call inside a request asks for its tokens and money, not for a second request."""
    plan = planned(msgspec.structs.replace(ASKED, units=METERED_UNITS))

    assert {limit.unit for limit in plan.limits} == {"tokens", "money"}


def test_admitted_request_holds_what_it_took() -> None:
    """The reservation names every charged window with its slot, and when it ends."""
    plan = planned()

    decision = decide(plan, reply_to(plan), now=1_000.0)

    assert decision.admitted
    assert decision.reservation is not None
    assert [hold.slot for hold in decision.reservation.holds] == [7] * 5
    assert decision.reservation.expires_at == 1_030.0
    assert settlement_of(decision.reservation, Cost(1, 10, 20, 3, 1)).actual == (1, 30, 3, 30, 1)


def test_a_settlement_is_no_more_than_a_counter_holds() -> None:
    """A provider may report what no counter can hold; its sum, or its price, even more often."""
    decision = decide(planned(), reply_to(planned()), now=0.0)

    assert decision.reservation is not None
    actual = settlement_of(decision.reservation, Cost(1, 2**53 - 1, 1, 2**80, 1)).actual
    assert actual == (1, 2**53 - 1, 2**53 - 1, 2**53 - 1, 1)


def test_what_holds_nothing_settles_nothing() -> None:
    """A reservation of which no limit charged anything is settled like any other."""
    decision = decide(planned(), reply_to(planned()), now=0.0)

    assert decision.reservation is not None
    empty = msgspec.structs.replace(decision.reservation, holds=(), units=())
    assert settlement_of(empty, Cost(1, 10, 20, 3, 1)).actual == ()


def test_windows_without_a_slot_are_not_held() -> None:
    """A check that charged nothing (a shadow limit that refused) is no part of the reservation."""
    plan = planned()
    states = tuple(
        CheckState(fits=limit.mode == "enforce", remaining=0, slot=3 if limit.mode == "enforce" else -1)
        for limit in plan.limits
    )

    decision = decide(plan, Reply(admitted=True, states=states), now=0.0)

    assert decision.would_refuse == ("shade",)
    assert decision.reservation is not None
    assert len(decision.reservation.holds) == 4


def test_refusal_waits_for_the_last_limit() -> None:
    """When several limits refuse, the wait is the longest of theirs."""
    plan = planned()
    reply = reply_to(
        plan,
        requests=CheckState(fits=False, remaining=0, retry_after=3.0),
        tokens=CheckState(fits=False, remaining=20, retry_after=12.5),
    )

    decision = decide(plan, reply, now=0.0)

    assert (decision.code, decision.status, decision.retry_after) == ("limit", 429, 12.5)
    assert decision.refused_by == ("requests-minute", "tokens-minute")
    assert "requests-minute" in decision.message
    assert "1000 tokens in 60 s, 20 tokens left, 400 tokens needed" in decision.message


def test_what_can_never_fit_has_no_wait() -> None:
    """A cost above the whole limit is refused for good, and says so."""
    plan = planned()
    reply = reply_to(plan, tokens=CheckState(fits=False, remaining=1000, retry_after=None))

    decision = decide(plan, reply, now=0.0)

    assert decision.retry_after is None
    assert "can never fit" in decision.message


def test_spent_money_is_named() -> None:
    """A refusal for money says so in dollars."""
    plan = planned()
    reply = reply_to(plan, money=CheckState(fits=False, remaining=0, retry_after=1e6))

    decision = decide(plan, reply, now=0.0)

    assert decision.code == "money"
    assert "$5" in decision.message


def test_backend_away_and_denied_is_503() -> None:
    """A limit whose policy is to deny while its backend is away gives 503, not 429: the client did nothing wrong."""
    deny = replace(REQUESTS, on_backend_error="deny")
    plan = Plan(Ask("i", "t", planned().ask.checks[:1]), (deny,), COST)

    decision = decide(plan, Reply(False, (CheckState(fits=False, remaining=0),), degraded=True), now=0.0)

    assert (decision.status, decision.code, decision.retry_after) == (503, "backend", 1.0)


def test_no_answer_at_all() -> None:
    """Where nothing answers, only limits that all say ``allow`` let a request pass, and it holds nothing."""
    plan = planned()
    allowing = msgspec.structs.replace(
        plan, limits=tuple(replace(limit, on_backend_error="allow") for limit in plan.limits)
    )

    strict, lenient = without_backend(plan), without_backend(allowing)

    assert (strict.admitted, strict.status, strict.code) == (False, 503, "backend")
    assert (lenient.admitted, lenient.degraded, lenient.reservation) == (True, True, None)


def test_room_is_told_as_what_was_needed() -> None:
    """A call that says its cost later is told what it needed, not that it needed nothing."""
    plan = planned(msgspec.structs.replace(ASKED, upper=Cost(1, concurrent=1), room=Cost(1, 1, 1, 1)))
    reply = reply_to(plan, tokens=CheckState(fits=False, remaining=0, retry_after=9.0))

    assert "2 tokens needed" in decide(plan, reply, now=0.0).message


def test_an_account_without_money_is_told_so() -> None:
    """It is refused with 402, by its balance; in shadow that is a word on the decision, and none on a refusal."""
    refusal = Decision(
        admitted=False,
        code="credits",
        status=402,
        message="The balance of this account is used up. It has to be topped up first.",
        refused_by=("balance",),
    )

    assert without_money() == refusal
    assert in_shadow_of_balance(refusal) is refusal
    assert in_shadow_of_balance(Decision(admitted=True, would_refuse=("shade",))).would_refuse == ("shade", "balance")


def test_some_of_the_limits_are_asked_where_all_of_them_are() -> None:
    """Without its requests a call is asked of the same counters: its route's, its model's, and those of its route alone."""
    by_model = replace(TOKENS, per=("model",))
    by_route = replace(TOKENS, name="by-route", per=("route",))
    own = replace(TOKENS, name="own")
    admission = Admission(Policy({"free": LimitPlan("free", (REQUESTS, by_model, by_route))}), lease=30.0)
    request = msgspec.structs.replace(ASKED, route=Route("/v1/x", limits=(own,)))
    whole = admission.plan(request, 1_000.0)
    part = admission.plan(msgspec.structs.replace(request, units=METERED_UNITS), 1_000.0)

    assert whole is not None
    assert part is not None
    assert part.limits == tuple(limit for limit in whole.limits if limit is not REQUESTS)
    assert part.ask.checks == tuple(check for check in whole.ask.checks if not check.window.startswith("requests"))
    assert len({check.counter for check in part.ask.checks}) == 3


def test_requests_alone_are_for_good() -> None:
    """What is asked of limits on requests alone has nothing to settle, and no lease."""
    alone = planned(msgspec.structs.replace(ASKED, units=frozenset({"requests"})))

    assert (alone.limits, alone.ask.lease) == ((REQUESTS,), 0.0)
