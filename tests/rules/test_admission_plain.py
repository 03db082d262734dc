"""
What a plan says of its holder, its lease and its usual question; decisions that no limit has made.
"""

from __future__ import annotations

import msgspec
import pytest

from tokenbudget_mw.rules.admission import (
    METERED_UNITS,
    Admission,
    Plan,
    Request,
    decide,
    degraded,
    without_backend,
)
from tokenbudget_mw.rules.policy import Plan as LimitPlan
from tokenbudget_mw.rules.policy import Policy
from tokenbudget_mw.values import (
    CROWDED,
    ONE_REQUEST,
    ROOM,
    CheckState,
    Cost,
    Decision,
    Limit,
    Reply,
    Route,
    Subject,
    Window,
)

MINUTE = Limit("requests-minute", "requests", 60, Window(60.0))
MONTH = Limit("requests-month", "requests", 9_000, Window(period="month"), algorithm="calendar")
TOKENS = Limit("tokens-minute", "tokens", 1_000, Window(60.0))
ON_ROUTE = Limit("on-route", "requests", 5, Window(60.0), per=("key", "route"))
SUBJECT = Subject(key="k1", tenant="acme", plan="free", source="api_key")
PLAIN = Request("a" * 32, SUBJECT, None, None, ONE_REQUEST, ONE_REQUEST, room=ROOM)
NOW = 1_700_000_000.0


def admission(*limits: Limit) -> Admission:
    return Admission(Policy({"free": LimitPlan("free", limits)}), lease=30.0)


def plan(request: Request, *limits: Limit) -> Plan:
    made = admission(*(limits or (MINUTE, MONTH, TOKENS))).plan(request, NOW)
    assert made is not None
    return made


def test_the_usual_question_is_worked_out_once() -> None:
    """
    Two plain requests of one subject on one route put the very same checks, and each limit of both is among them.
    """
    rules = admission(MINUTE, MONTH, TOKENS)
    route = Route("/v1/chat", limits=(ON_ROUTE,))
    first, second = (rules.plan(msgspec.structs.replace(PLAIN, id=one, route=route), NOW) for one in ("a", "b"))

    assert first is not None
    assert second is not None
    assert first.ask.checks is second.ask.checks
    assert {limit.name for limit in first.limits} == {"requests-minute", "requests-month", "tokens-minute", "on-route"}
    assert all("key=k1" in check.counter for check in first.ask.checks)


@pytest.mark.parametrize(
    ("request_", "rooms"),
    [
        (PLAIN, [0, 0, 2]),
        (msgspec.structs.replace(PLAIN, room=None), [0, 0, 0]),
        (msgspec.structs.replace(PLAIN, upper=Cost(1, 5, concurrent=1)), [0, 0, 2]),
        (msgspec.structs.replace(PLAIN, units=METERED_UNITS), [2]),
    ],
    ids=["plain", "no room", "tokens", "units"],
)
def test_a_question_that_is_not_the_usual_one_is_its_own(request_: Request, rooms: list[int]) -> None:
    """
    Room, costs and units are those of the request, whatever plain requests before it have asked.
    """
    rules = admission(MINUTE, MONTH, TOKENS)
    rules.plan(PLAIN, NOW)
    made = rules.plan(request_, NOW)

    assert made is not None
    assert [check.room for check in made.ask.checks] == rooms
    assert made.ask.checks[-1].cost == request_.upper.of("tokens")


@pytest.mark.parametrize("request_", [PLAIN, msgspec.structs.replace(PLAIN, room=None)], ids=["plain", "other"])
def test_requests_alone_are_taken_for_good(request_: Request) -> None:
    """
    Where nothing but requests is limited, nothing is held and there is nothing to settle.
    """
    for_good, held = plan(request_, MINUTE, MONTH), plan(request_, MINUTE, TOKENS)
    fits = CheckState(fits=True, remaining=5, reset=60.0, slot=7)
    decision = decide(for_good, Reply(True, (fits, fits)), now=NOW)

    assert (for_good.ask.lease, held.ask.lease) == (0.0, 30.0)
    assert decision.admitted
    assert decision.reservation is None


@pytest.mark.parametrize(
    ("subject", "is_used", "is_held"),
    [(SUBJECT, False, True), (SUBJECT, True, False), (msgspec.structs.replace(SUBJECT, source="user"), False, False)],
    ids=["by key", "used", "otherwise"],
)
def test_a_request_is_held_by_the_key_that_it_came_with(subject: Subject, is_used: bool, is_held: bool) -> None:
    """
    Unless it was found otherwise, or has been used already.
    """
    made = plan(msgspec.structs.replace(PLAIN, subject=subject, is_used=is_used))

    assert made.ask.holder == (admission().policy.holder_of(SUBJECT) if is_held else "")
    assert "k1" in admission().policy.holder_of(SUBJECT)


@pytest.mark.parametrize(
    ("source", "is_anonymous"), [("address", True), ("unauthenticated", True), ("api_key", False), ("user", False)]
)
def test_whoever_shows_no_credential_is_anonymous(source: str, is_anonymous: bool) -> None:
    """
    The backend bounds those apart, because anybody may be as many as they like.
    """
    made = plan(msgspec.structs.replace(PLAIN, subject=msgspec.structs.replace(SUBJECT, source=source)))

    assert made.ask.is_anonymous is is_anonymous


@pytest.mark.parametrize("is_degraded", [False, True])
def test_a_crowd_is_told_completely(is_degraded: bool) -> None:
    """
    Too many open calls is 429, and soon over.
    """
    decision = decide(plan(PLAIN), Reply(False, (), degraded=is_degraded, barred=CROWDED), now=NOW)

    assert decision == Decision(
        admitted=False,
        code="limit",
        status=429,
        message="Too many calls of this key, or of its owner, are under way at once. Retry in 1 s.",
        retry_after=1.0,
        degraded=is_degraded,
    )


@pytest.mark.parametrize("is_degraded", [False, True])
@pytest.mark.parametrize(
    ("status", "code", "number", "message"),
    [
        ("revoked", "revoked_api_key", 401, "This API key is revoked."),
        ("unreadable", "unreadable_limits", 403, "The limits of this API key cannot be read."),
    ],
)
def test_a_bar_is_told_completely(status: str, code: str, number: int, message: str, is_degraded: bool) -> None:
    """
    Why, and nothing to wait for.
    """
    decision = decide(plan(PLAIN), Reply(False, (), degraded=is_degraded, barred=status), now=NOW)

    assert decision == Decision(admitted=False, code=code, status=number, message=message, degraded=is_degraded)


def test_no_answer_is_decided_without_the_backend() -> None:
    """
    As the limits say for that case.
    """
    made = plan(PLAIN)

    assert decide(made, Reply(False, ()), now=NOW) == without_backend(made)
    assert without_backend(made).refused_by == ("requests-minute", "requests-month", "tokens-minute")


def test_without_the_books_a_decision_is_the_same_but_degraded() -> None:
    """
    It holds what it took, until its lease ends, and says that it may be wrong.
    """
    made = plan(PLAIN)
    fits = CheckState(fits=True, remaining=5, reset=60.0, slot=7)
    reply = Reply(True, (fits, fits, fits))
    whole = decide(made, reply, now=NOW)
    decision = degraded(made, reply, now=NOW)

    assert not whole.degraded
    assert decision == msgspec.structs.replace(whole, degraded=True)
    assert decision.reservation is not None
    assert decision.reservation.expires_at == NOW + 30.0


def test_a_reply_to_another_question_is_an_error_where_nothing_is_held() -> None:
    """
    As many answers as questions, also without a reservation.
    """
    fits = CheckState(fits=True, remaining=5, reset=60.0, slot=7)

    with pytest.raises(ValueError, match="as many states"):
        decide(plan(PLAIN, MINUTE), Reply(True, (fits, fits)), now=NOW)
