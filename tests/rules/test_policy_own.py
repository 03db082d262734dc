"""
Limits that a subject has of its own, overrides of the settings, and limits with ends, as requests meet them.
"""

from dataclasses import replace

import msgspec
import pytest

from tokenbudget_mw.rules import policy as policy_module
from tokenbudget_mw.rules.policy import Plan, Policy
from tokenbudget_mw.values import Cost, Limit, Route, Subject, Window

NOW = 1_700_000_000.0
REQUESTS = Limit("requests-minute", "requests", 60, Window(seconds=60.0))
MONEY = Limit("money-month", "money", 5 * 10**9, Window(period="month"), algorithm="calendar")
ALICE = Subject(key="k1", user="alice", tenant="acme", plan="free")
FREE = {"free": Plan("free", (REQUESTS,))}
ONE = Cost(requests=1, money_nano=1, input_tokens=1)


def own(*limits, subject=ALICE):
    return msgspec.structs.replace(subject, limits=limits)


def amounts(policy, subject, now=NOW, route=None):
    return [limit.amount for limit in policy.limits_for(subject, route, now)]


def checks(policy, subject, now=NOW, route=None):
    limits = policy.limits_for(subject, route, now)
    return policy.bind(limits, subject, route, "gpt-4o", ONE, ONE, now)[1]


def test_a_subjects_own_limit_takes_the_place_of_its_plans():
    """
    For this subject only, and on the counter that the plan's limit counts on.
    """
    policy = Policy(FREE)
    (plans,), (owns,) = checks(policy, ALICE), checks(policy, own(replace(REQUESTS, amount=100)))

    assert (plans.cap, owns.cap) == (60, 100)
    assert (plans.counter, plans.window) == (owns.counter, owns.window)
    assert amounts(policy, msgspec.structs.replace(ALICE, key="k2")) == [60]


def test_own_limits_work_on_a_route_with_limits():
    """
    The route's own limits hold beside them, or give way to them where they count the same.
    """
    slow = replace(REQUESTS, name="slow", amount=2, per=("key", "route"))
    policy, route = Policy(FREE, routes=[Route("/x", limits=(slow,))]), Route("/x", limits=(slow,))
    more = own(replace(REQUESTS, amount=100), replace(slow, amount=9))

    assert amounts(policy, ALICE, route=route) == [60, 2]
    assert amounts(policy, more, route=route) == [100, 9]


def test_a_plan_that_does_not_exist_is_refused_though_the_key_has_limits():
    """
    Limits of its own make up for no plan.
    """
    with pytest.raises(policy_module.CredentialError):
        Policy(FREE).limits_for(msgspec.structs.replace(own(REQUESTS), plan="gone"), None, NOW)


def test_a_limit_ends_by_itself_and_a_clock_that_goes_back_begins_it_again():
    """
    At its end what it replaced holds; nothing is restarted for it, and it goes by the moment alone.
    """
    increase = replace(REQUESTS, amount=1000, until=NOW + 10)
    policy = Policy({"free": Plan("free", (REQUESTS, increase))})
    subject = own(replace(MONEY, amount=7), replace(MONEY, amount=9, until=NOW + 20))

    moments = (NOW, NOW + 9.999, NOW + 10, NOW + 20, NOW + 19, NOW + 5)

    assert [amounts(policy, ALICE, now)[0] for now in moments] == [1000, 1000, 60, 60, 60, 1000]
    assert [amounts(policy, subject, now) for now in moments] == [
        [1000, 9],
        [1000, 9],
        [60, 9],
        [60, 7],
        [60, 9],
        [1000, 9],
    ]


def test_between_changes_no_end_is_looked_at(monkeypatch):
    """
    What holds is worked out once for each stretch of time in which it stays, not for each request.
    """
    worked_out = []
    work = policy_module.hold
    monkeypatch.setattr(policy_module, "hold", lambda *arguments: worked_out.append(1) or work(*arguments))
    policy = Policy({"free": Plan("free", (REQUESTS, replace(REQUESTS, amount=1000, until=NOW + 10)))})
    subject = own(replace(MONEY, until=NOW + 20))

    for second in range(30):
        for _ in range(5):
            amounts(policy, ALICE, NOW + second)
            amounts(policy, subject, NOW + second)

    assert len(worked_out) == 2 + 3


def test_equal_limits_of_many_keys_are_worked_out_once(monkeypatch):
    """
    A host that reads its users' limits anew for each request costs a look-up.
    """
    worked_out = []
    work = policy_module.hold
    monkeypatch.setattr(policy_module, "hold", lambda *arguments: worked_out.append(1) or work(*arguments))
    policy = Policy(FREE)

    for _ in range(100):
        assert amounts(policy, own(replace(REQUESTS, amount=100))) == [100]

    assert len(worked_out) == 1


def test_ever_new_limits_never_get_each_others_bounds(monkeypatch):
    """
    What is remembered is bounded, and never taken for another limit's.
    """
    monkeypatch.setattr(policy_module, "_SETS_MOST", 64)
    policy = Policy(FREE, (MONEY,))

    for amount in range(1, 1000):
        request, money = checks(policy, own(replace(REQUESTS, amount=amount)))
        assert (request.cap, request.window, money.window) == (amount, "requests:60", "money:month")

    assert len(policy._own_sets) <= 64
    assert len(policy._bounds) <= 64 + 2


def test_overrides_hold_for_whom_they_name():
    """
    The narrower above the wider, and a key's own above both; who is not named has the plan's.
    """
    overrides = {
        "tenant:acme": (replace(REQUESTS, amount=200), replace(MONEY, per=("tenant",))),
        "user:alice": (replace(REQUESTS, amount=300),),
    }
    policy = Policy(FREE, overrides=overrides)

    assert amounts(policy, ALICE) == [300, 5 * 10**9]
    assert amounts(policy, msgspec.structs.replace(ALICE, user="bob")) == [200, 5 * 10**9]
    assert amounts(policy, own(replace(REQUESTS, amount=1))) == [1, 5 * 10**9]
    assert amounts(policy, Subject(key="k9", plan="free")) == [60]
    assert [each.source for each in policy.held_for(ALICE, None, NOW).placed] == [
        "override user:alice",
        "override tenant:acme",
    ]


def test_nobody_without_a_value_has_anothers_override():
    """
    A missing scope is not the text "None".
    """
    policy = Policy(FREE, overrides={"tenant:None": (replace(REQUESTS, amount=200),)})

    assert amounts(policy, Subject(key="k1", plan="free")) == [60]


def test_in_shadow_mode_own_limits_refuse_nobody():
    """
    The settings' shadow mode covers what a key or a host brings along.
    """
    shadow = {"free": Plan("free", (replace(REQUESTS, mode="shadow"),))}
    (check,) = checks(Policy(shadow, mode="shadow"), own(replace(REQUESTS, amount=1)))

    assert (check.cap, check.enforced, check.window) == (1, False, "requests:60")


def test_own_trial_beside_the_plans_limit_counts_for_itself():
    """
    No window is charged twice by one request.
    """
    asked = checks(Policy(FREE), own(replace(REQUESTS, amount=1, mode="shadow")))

    assert [(check.cap, check.enforced) for check in asked] == [(60, True), (1, False)]
    assert len({check.window for check in asked}) == 2


def test_anchored_periods_are_asked_for_apart():
    """
    Each anchor has its window and its period.
    """
    anchored = replace(MONEY, name="b", window=Window(period="month", anchor=31), per=("key",))
    first, second = checks(Policy({}, (MONEY, anchored), timezone="Europe/Zurich"), Subject(key="k1"))

    assert (first.window, second.window) == ("money:month Europe/Zurich", "money:month@31 Europe/Zurich")
    assert second.params == (1_698_706_800_000_000, 1_701_298_800_000_000, 1_703_977_200_000_000)


def test_subjects_with_limits_are_hashable_and_equal_by_value():
    """
    They go into sets and caches as any other subject.
    """
    assert len({own(REQUESTS), own(replace(REQUESTS)), ALICE}) == 2
