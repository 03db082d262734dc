"""
Limits explained, reset and credited, on memory and on Redis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from tokenbudget_mw.backends import open_backend
from tokenbudget_mw.errors import BackendUnavailableError, ConfigurationError
from tokenbudget_mw.guard import Guard
from tokenbudget_mw.operators import Operators
from tokenbudget_mw.rules.admission import Admission, Request
from tokenbudget_mw.rules.policy import Plan, Policy
from tokenbudget_mw.settings.limits import parse_limit
from tokenbudget_mw.testing.clock import FakeClock
from tokenbudget_mw.upkeep.seeding import Seeder
from tokenbudget_mw.values import Cost, Route, Subject

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tokenbudget_mw.backends.base import Backend
    from tokenbudget_mw.rules.seeding import Question

K1 = Subject(key="k1", tenant="acme", plan="free")
K2 = Subject(key="k2", tenant="acme", plan="free")
CHAT = Route("/chat", limits=(parse_limit("2 requests/minute", place="route"),))
FREE = Plan("free", (parse_limit("10 requests/minute"), parse_limit("100 tokens/minute per model", place="plan")))
ALL = (parse_limit("1000 tokens/day per tenant"), parse_limit("$5/month"))


@pytest.fixture(params=["memory", "redis"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    url = "memory://" if request.param == "memory" else request.getfixturevalue("redis_db")
    backend = open_backend(url, deadline=5.0, clock_mode="caller")
    yield backend
    backend.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def admission() -> Admission:
    return Admission(Policy({"free": FREE}, ALL, routes=[CHAT]))


@pytest.fixture
def operators(admission: Admission, backend: Backend, clock: FakeClock) -> Operators:
    return Operators(admission, backend, clock)


@pytest.fixture
def guard(admission: Admission, backend: Backend, clock: FakeClock) -> Guard:
    return Guard(admission, backend, clock)


def spend(guard: Guard, subject: Subject, tokens: int, *, id: str = "0" * 32, route: Route | None = None) -> bool:  # noqa: A002
    """
    Make a request that uses *tokens*; tell whether it was admitted.
    """
    cost = Cost(requests=1, input_tokens=tokens, money_nano=tokens)
    decision = guard.admit(Request(id, subject, route, "gpt-4o", cost, cost))
    if decision.reservation is not None:
        guard.settle(decision.reservation, cost)
    return decision.admitted


def test_every_limit_is_explained(operators: Operators, guard: Guard) -> None:
    """
    Which, whence, whose, what is left; and looking changes nothing.
    """
    assert spend(guard, K1, 40)
    found = [operators.explain(K1, model="gpt-4o", route=CHAT) for _ in range(3)]

    assert found[0] == found[2]
    assert (found[0].plan, found[0].degraded) == ("free", False)
    assert {(line.limit.text, line.source, line.counter, line.used) for line in found[0].limits} == {
        ("10 requests/minute", "plan free", "key=k1", 1),
        ("100 tokens/minute per model", "plan free", "key=k1,model=gpt-4o", 40),
        ("1000 tokens/day per tenant", "limits", "tenant=acme", 40),
        ("$5/month", "limits", "key=k1", 40),
        ("2 requests/minute", "route /chat", "key=k1,route=/chat", 0),
    }


def test_limits_that_need_a_model_or_a_route_are_left_out_without(operators: Operators) -> None:
    """
    Nobody is asked about a model that was not named.
    """
    texts = [line.limit.text for line in operators.explain(K1).limits]

    assert texts == ["10 requests/minute", "1000 tokens/day per tenant", "$5/month"]


def test_a_spent_limit_says_when_it_frees(operators: Operators, guard: Guard, clock: FakeClock) -> None:
    """
    Spent is when not even 1 more fits; then *frees* is the wait for 1.
    """
    assert spend(guard, K1, 100)
    tokens = next(line for line in operators.explain(K1, model="gpt-4o").limits if line.limit.unit == "tokens")
    free = operators.explain(K2, model="gpt-4o").limits

    assert (tokens.is_spent, tokens.remaining) == (True, 0)
    assert tokens.frees == tokens.reset == 61.0 - clock() % 1
    assert not any(line.is_spent for line in free)
    clock.advance(tokens.frees)
    assert spend(guard, K1, 1, id="1" * 32)


def test_a_reset_frees_at_once(operators: Operators, guard: Guard) -> None:
    """
    Named limits of this subject only; without names all of them.
    """
    assert spend(guard, K1, 100)
    assert spend(guard, K2, 7, id="2" * 32)
    assert operators.reset(K1, "tokens-minute-model", model="gpt-4o") == ("tokens-minute-model",)
    used = {line.limit.name: line.used for line in operators.explain(K1, model="gpt-4o").limits}

    assert (used["tokens-minute-model"], used["requests-minute"], used["tokens-day-tenant"]) == (0, 1, 107)
    assert spend(guard, K1, 100, id="1" * 32)
    operators.reset(K1, model="gpt-4o")
    assert not any(line.used for line in operators.explain(K1, model="gpt-4o").limits)
    assert operators.explain(K2, model="gpt-4o").limits[1].used == 7


@pytest.mark.parametrize("unit", ["requests", "tokens", "input tokens", "output tokens", "$", "concurrent"])
def test_a_limit_of_any_unit_is_spent_when_not_one_more_fits(backend: Backend, clock: FakeClock, unit: str) -> None:
    """
    And not before.
    """
    text = {"$": "$0.000000002/minute", "concurrent": "2 concurrent"}.get(unit, f"2 {unit}/minute")
    admission = Admission(Policy({"free": Plan("free", (parse_limit(text),))}))
    guard, operators = Guard(admission, backend, clock), Operators(admission, backend, clock)
    cost = Cost(1, 0, 1, 1, 1) if unit == "output tokens" else Cost(1, 1, 0, 1, 1)
    spent = []
    for at in range(2):
        assert guard.admit(Request(str(at) * 32, K1, None, None, cost, cost)).admitted
        spent.append([(line.remaining, line.is_spent, bool(line.frees)) for line in operators.explain(K1).limits])

    assert spent == [[(1, False, False)], [(0, True, True)]]


def test_what_the_books_do_not_say_is_neither_told_nor_reset(backend: Backend, clock: FakeClock) -> None:
    """
    A count that has yet to start there is not known, and to take something off now would be undone; others go their way.
    """
    is_up = False

    def read(questions: Sequence[Question]) -> list[tuple[int, ...]]:
        if not is_up:
            raise OSError("gone")
        return [(990,) for _ in questions]

    minute, month = parse_limit("10 requests/minute"), parse_limit("1000 tokens/month")
    admission = Admission(Policy({"free": Plan("free", (minute, month))}, has_books=True))
    timer = FakeClock()
    operators = Operators(admission, backend, clock, Seeder(read, backend, clock, timer=timer))

    assert [(line.limit.name, line.is_known) for line in operators.explain(K1).limits] == [
        ("requests-minute", True),
        ("tokens-month", False),
    ]
    assert operators.reset(K1, "requests-minute") == ("requests-minute",)
    with pytest.raises(BackendUnavailableError, match="tokens-month"):
        operators.reset(K1)
    with pytest.raises(BackendUnavailableError, match="tokens-month"):
        operators.credit(K1, "tokens-month", 5)
    is_up = True
    timer.advance(60)
    line = operators.explain(K1).limits[1]
    assert (line.is_known, line.used) == (True, 990)
    operators.reset(K1, "tokens-month")
    assert operators.explain(K1).limits[1].used == 0


def test_a_credit_takes_off_so_much(operators: Operators, guard: Guard) -> None:
    """
    And never below nothing.
    """
    assert spend(guard, K1, 60)
    operators.credit(K1, "tokens-day-tenant", 20)
    operators.credit(K1, "money-month", 1000)
    used = {line.limit.name: line.used for line in operators.explain(K1).limits}

    assert (used["tokens-day-tenant"], used["money-month"]) == (40, 0)


def test_an_unknown_limit_is_an_error_that_lists_the_known(operators: Operators) -> None:
    """
    A typing error resets nothing.
    """
    with pytest.raises(ConfigurationError, match=r"'tokens'.*requests-minute, tokens-day-tenant, money-month"):
        operators.reset(K1, "tokens")


def test_an_operator_is_told_when_the_backend_is_away(admission: Admission, clock: FakeClock) -> None:
    """
    An explanation is then this process's own; a correction is an error.
    """
    pytest.importorskip("redis")
    backend = open_backend("redis://127.0.0.1:1/0", clock_mode="caller")
    operators = Operators(admission, backend, clock)

    assert operators.explain(K1).degraded
    with pytest.raises(BackendUnavailableError):
        operators.reset(K1)
    backend.close()


@pytest.mark.parametrize("degraded", [(True, False), (False, True)])
def test_a_backend_that_goes_away_amid_a_look_is_away(
    backend: Backend,
    admission: Admission,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    degraded: tuple[bool, bool],
) -> None:
    """
    Counters are held against the books by what both questions say: one answered by a share of this process's own says nothing.
    """
    peek, turns = backend.peek, iter(degraded)
    monkeypatch.setattr(backend, "peek", lambda ask, now: replace(peek(ask, now), degraded=next(turns)))

    with pytest.raises(BackendUnavailableError):
        Operators(admission, backend, clock).look(K1)


def test_an_explanation_says_what_replaces_what(backend: Backend, clock: FakeClock) -> None:
    """
    Overrides, a subject's own limits and those with ends: each with its source, its end and what holds without it.
    """
    increase = parse_limit({"limit": "500 requests/minute", "until": "2023-11-14T22:14:20Z"})  # in a minute
    overrides = {"tenant:acme": (parse_limit("200 requests/minute"),)}
    admission = Admission(Policy({"free": FREE}, (), overrides=overrides))
    operators = Operators(admission, backend, clock)

    def told(subject: Subject) -> list[tuple[str, str, list[tuple[str, str]]]]:
        (line,) = operators.explain(subject).limits
        return [(line.limit.text, line.source, [(limit.text, source) for limit, source in line.replaced])]

    plain = ("200 requests/minute", "override tenant:acme", [("10 requests/minute", "plan free")])
    covered = [("200 requests/minute", "override tenant:acme"), ("10 requests/minute", "plan free")]
    assert told(K1) == [plain]
    keyed = replace(K1, limits=(increase,), source="api_key")
    assert told(keyed) == [("500 requests/minute", "key k1", covered)]
    assert told(replace(keyed, source="custom")) == [("500 requests/minute", "identify", covered)]
    clock.advance(60)
    assert told(keyed) == [plain]


def test_an_explanation_says_why_an_increase_is_of_no_use(backend: Backend, clock: FakeClock) -> None:
    """
    A larger limit that counts the same is told beside the one that holds.
    """
    increase = parse_limit({"limit": "500 requests/minute", "until": "2023-11-14T22:14:20Z"})
    plans = {"free": Plan("free", (*FREE.limits[:1], increase))}
    operators = Operators(Admission(Policy(plans, (parse_limit("50 requests/minute"),))), backend, clock)

    (line,) = operators.explain(K1).limits
    assert (line.limit.amount, line.source, line.replaced) == (50, "limits", ())
    assert line.looser == ((increase, "plan free"),)
    clock.advance(60)
    (line,) = operators.explain(K1).limits
    assert (line.limit.amount, line.source, [limit.amount for limit, _ in line.looser]) == (10, "plan free", [50])


def test_a_subjects_own_limit_is_reset_by_its_name(operators: Operators, guard: Guard) -> None:
    """
    Corrections see the limits that hold, as requests do.
    """
    subject = replace(K1, limits=(parse_limit("1 requests/minute"),))
    assert spend(guard, subject, 1)
    assert not spend(guard, subject, 1, id="1" * 32)

    operators.reset(subject, "requests-minute")

    assert spend(guard, subject, 1, id="2" * 32)
