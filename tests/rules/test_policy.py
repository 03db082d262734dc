from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenbudget_mw.errors import CredentialError
from tokenbudget_mw.rules.counter_names import escape
from tokenbudget_mw.rules.policy import Plan, Policy
from tokenbudget_mw.values import Check, Cost, Limit, Route, Subject, Window

MINUTE = Window(seconds=60.0)
NOW = 1_700_000_000.0
ALICE = Subject(key="k1", user="alice", tenant="acme")
REQUESTS = Limit("requests-minute", "requests", 60, MINUTE)
TOKENS = Limit("tokens-minute", "tokens", 1000, MINUTE)
MONEY = Limit("money-month", "money", 5 * 10**9, Window(period="month"), algorithm="calendar")
CONCURRENT = Limit("concurrent", "concurrent", 4, None, algorithm="concurrent")
UPPER = Cost(requests=1, input_tokens=300, output_tokens=200, money_nano=7000, concurrent=1)
LEAST = Cost(requests=1, input_tokens=300, money_nano=3000, concurrent=1)


def checks(policy, limits, *, subject=ALICE, route=None, model="gpt-4o", upper=UPPER, least=LEAST, now=NOW):
    return policy.bind(limits, subject, route, model, upper, least, now)[1]


def one(limit, **kwargs):
    (check,) = checks(Policy({}, (limit,)), (limit,), **kwargs)
    return check


def test_limits_become_checks():
    """
    Each kind of limit asks for its own unit, window and parameters, and two limits never ask for the same window.
    """
    limits = (REQUESTS, TOKENS, MONEY, CONCURRENT)
    month = (1_698_793_200_000_000, 1_701_385_200_000_000, 1_704_063_600_000_000)

    assert checks(Policy({}, limits, timezone="Europe/Zurich"), limits) == [
        Check("key=k1", "requests:60", "strict_log", (1_000_000, 60), 1, 60),
        Check("key=k1", "tokens:60", "strict_log", (1_000_000, 60), 500, 1000),
        Check("key=k1", "money:month Europe/Zurich", "calendar", month, 7000, 5 * 10**9),
        Check("key=k1", "concurrent", "concurrent", (), 1, 4),
    ]


def test_periods_of_another_zone_are_another_count():
    """
    A period that begins later than the one that is counted would end that, and what it has counted; trailing windows know
    no zone, and UTC is not named.
    """
    limits = (REQUESTS, MONEY)

    windows = [
        [check.window for check in checks(Policy({}, limits, timezone=zone), limits)] for zone in ("UTC", "Asia/Tokyo")
    ]

    assert windows == [["requests:60", "money:month"], ["requests:60", "money:month Asia/Tokyo"]]


def test_slots_are_rounded_up_so_that_they_cover_the_window():
    """
    A window that slots do not divide is counted a little longer, never shorter.
    """
    check = one(replace(REQUESTS, window=Window(seconds=1.0), slots=7))

    assert check.params == (142_858, 7)
    assert check.window == "requests:1/7"


@pytest.mark.parametrize(
    ("per", "counter"),
    [
        (("key",), "key=k1"),
        (("tenant",), "tenant=acme"),
        (("user", "model"), "user=alice,model=gpt-4o"),
        (("key", "route"), "key=k1,route=/v1/*"),
        (("model",), "model=gpt-4o"),
        (("global",), "global"),
    ],
)
def test_scopes_name_the_counter(per, counter):
    """
    The scopes of a limit, with the request's values, name its counter.
    """
    assert one(replace(REQUESTS, per=per), route=Route("/v1/*")).counter == counter


@pytest.mark.parametrize("per", [("team",), ("project", "model"), ("key", "route")])
def test_a_limit_without_a_value_for_its_scope_is_skipped(per):
    """
    Who has no team has no team limit.
    """
    limit = replace(REQUESTS, per=per)

    assert checks(Policy({}, (limit,)), (limit,)) == []
    assert checks(Policy({}, (limit,)), (limit, TOKENS)) != []


def test_t06_a_reservation_asks_for_no_more_than_the_whole_limit():
    """
    A request whose true cost may fit an empty window asks for the whole window, not for more.
    """
    assert one(TOKENS, upper=Cost(input_tokens=300, output_tokens=100_000)).cost == 1000


def test_t06_a_request_that_never_fits_says_what_it_needs():
    """
    A request that costs more than the limit in any case asks for that, and so is refused for good.
    """
    asked = one(TOKENS, upper=Cost(input_tokens=1500, output_tokens=100), least=Cost(input_tokens=1500))

    assert asked.cost == 1500


@given(
    st.integers(min_value=0, max_value=2**53 - 1),
    st.integers(min_value=0, max_value=10**6),
    st.integers(min_value=0, max_value=10**6),
)
def test_t06_what_is_asked_lies_between_least_and_upper(cap, least, more):
    """
    Whatever the cap, a check asks for at least the least, at most the upper cost, and never misses a fit.
    """
    asked = one(
        replace(TOKENS, amount=cap), upper=Cost(input_tokens=least, output_tokens=more), least=Cost(input_tokens=least)
    ).cost

    assert least <= asked <= least + more
    assert (asked <= cap) == (least <= cap and (cap > 0 or least + more == 0))


def test_t04_a_budget_of_zero_blocks_what_is_not_free():
    """
    An amount of 0 is passed by what costs nothing, and by nothing else, even if its least cost is unknown.
    """
    broke = replace(MONEY, amount=0)

    assert one(broke, least=Cost()).cost > 0
    assert one(broke, upper=Cost(requests=1), least=Cost()).cost == 0


def test_the_plan_of_the_subject_decides():
    """
    A subject has the limits of its plan, or of the default plan, and those of everybody.
    """
    policy = Policy({"free": Plan("free", (REQUESTS,)), "pro": Plan("pro", (TOKENS,))}, (MONEY,), "free")

    assert policy.limits_for(ALICE, None, NOW) == (REQUESTS, MONEY)
    assert policy.limits_for(msgspec.structs.replace(ALICE, plan="pro"), None, NOW) == (TOKENS, MONEY)
    assert policy.limits_for(msgspec.structs.replace(ALICE, plan="gone"), None, NOW) == (REQUESTS, MONEY)


def test_a_plan_that_does_not_exist_is_refused_rather_than_unlimited():
    """
    Without a default plan, a key whose plan was removed does not pass without limits.
    """
    policy = Policy({"free": Plan("free", (REQUESTS,))}, (MONEY,))

    assert policy.limits_for(ALICE, None, NOW) == (MONEY,)
    with pytest.raises(CredentialError, match="'gone'") as caught:
        policy.limits_for(msgspec.structs.replace(ALICE, plan="gone"), None, NOW)
    assert (caught.value.status, caught.value.code) == (403, "unknown_plan")


def test_a_route_adds_its_own_limits():
    """
    The limits of a route hold on that route alone, beside the others.
    """
    slow = replace(REQUESTS, name="slow", amount=2, per=("key", "route"))
    route = Route("/slow", limits=(slow,))
    policy = Policy({}, (REQUESTS,))

    assert policy.limits_for(ALICE, route, NOW) == (REQUESTS, slow)
    assert policy.limits_for(ALICE, route, NOW) is policy.limits_for(ALICE, route, NOW)
    assert policy.limits_for(ALICE, Route("/slow"), NOW) == (REQUESTS,)


def test_routes_made_on_the_fly_never_get_each_others_limits():
    """
    What is remembered about a route that is gone is not taken for another route's.
    """
    policy = Policy({}, ())

    for amount in range(1, 6000):
        route = Route("/x", limits=(replace(REQUESTS, amount=amount),))
        (limit,) = policy.limits_for(ALICE, route, NOW)
        (check,) = checks(policy, (limit,))
        assert (limit.amount, check.cap) == (amount, amount)


@pytest.mark.parametrize("order", [1, -1])
def test_limits_that_share_a_counter_are_charged_once_against_the_smaller(order):
    """
    A request that meets the same window twice is charged once, and held to the smaller amount.
    """
    plan, everybody = [replace(REQUESTS, amount=60), replace(REQUESTS, amount=10)][::order]
    policy = Policy({"free": Plan("free", (plan,))}, (everybody,), "free")

    assert [limit.amount for limit in policy.limits_for(ALICE, None, NOW)] == [10]


def test_a_shadow_limit_beside_an_enforced_one_counts_for_itself():
    """
    Trying a smaller limit does not charge the enforced one twice.
    """
    trial = replace(REQUESTS, amount=10, mode="shadow")
    policy = Policy({}, (REQUESTS, trial))

    enforced, shadow = checks(policy, policy.limits_for(ALICE, None, NOW))

    assert (enforced.cap, enforced.enforced) == (60, True)
    assert (shadow.cap, shadow.enforced) == (10, False)
    assert (enforced.counter, enforced.window) != (shadow.counter, shadow.window)


def test_a_limit_that_leaves_shadow_keeps_its_count():
    """
    Enforcing what was in shadow goes on with what was counted.
    """
    assert one(replace(REQUESTS, mode="shadow")).window == one(REQUESTS).window


@given(
    st.permutations([REQUESTS, TOKENS, MONEY, replace(REQUESTS, amount=5), replace(TOKENS, mode="shadow"), CONCURRENT])
)
def test_no_request_asks_for_a_window_twice(limits):
    """
    Whatever limits meet, no two checks of one request have the same counter and window.
    """
    policy = Policy({"p": Plan("p", tuple(limits[:3]))}, tuple(limits[3:]), "p")
    asked = [(check.counter, check.window) for check in checks(policy, policy.limits_for(ALICE, None, NOW))]

    assert len(asked) == len(set(asked))


def test_t17_a_calendar_limit_moves_with_the_clock_in_both_directions():
    """
    The period follows the given moment, forwards and back.
    """
    policy = Policy({}, (MONEY,))
    november, january = 1_700_000_000.0, 1_704_100_000.0

    starts = [checks(policy, (MONEY,), now=now)[0].params[0] for now in (november, january, november)]

    assert starts[0] == starts[2] < starts[1]


def test_the_tag_is_the_account():
    """
    Counters of one tenant live together; nobody's live under `global`.
    """
    policy = Policy({}, (REQUESTS, replace(MONEY, per=("tenant",))))

    assert policy.tag_of(ALICE) == "tenant:acme"
    assert policy.tag_of(Subject(key="k1")) == "key:k1"
    assert policy.tag_of(Subject()) == "global"


@pytest.mark.parametrize("per", [("global",), ("model",), ("route",)])
def test_a_limit_that_accounts_share_gives_all_counters_one_tag(per):
    """
    Two tenants meet the same shared counter, and their own counters stay where they are for every request.
    """
    shared = replace(REQUESTS, per=per)

    assert Policy({}, (TOKENS, shared)).tag_of(ALICE) == "global"
    assert Policy({}, (TOKENS,), routes=[Route("/x", limits=(shared,))]).tag_of(ALICE) == "global"


@given(st.text(), st.text())
def test_two_values_never_make_the_same_counter(one_value, other_value):
    """
    Escaped values are short, and are equal only where the values are.
    """
    assert (escape(one_value) == escape(other_value)) == (one_value == other_value)
    assert 0 < len(escape(one_value)) <= 128


@given(st.text(min_size=1))
def test_an_escaped_value_breaks_no_counter_name(value):
    """
    No value brings a separator, a space, or a brace of the cluster's hash tags into a counter's name.
    """
    assert not set(escape(value)) & set(",={} \r\n\t\0")
    assert escape(value).isascii()


@pytest.mark.parametrize("long", ["x" * 129, "é" * 128, "\ud800" * 50])
def test_long_values_are_told_apart_by_a_digest(long):
    """
    Values that differ only far behind have different counters, and nobody can spell another's digest.
    """
    shown = escape(long)

    assert escape(long + "y") != shown
    assert escape(shown) != shown
