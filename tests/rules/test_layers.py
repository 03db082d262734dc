"""
Which limits hold of those that are written in several places.
"""

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tokenbudget_mw.rules.layers import Layer, counted, hold, window_of
from tokenbudget_mw.values import Limit, Window

NOW = 1_000.0
MINUTE = Window(seconds=60.0)


def limit(amount, *, until=None, mode="enforce", per=("key",), unit="requests", name="requests-minute", **more):
    return Limit(name, unit, amount, MINUTE, per, mode=mode, until=until, **more)


def amounts(plan=(), own=(), everybody=(), now=NOW):
    held = hold([Layer("plan free", tuple(plan)), Layer("limits", tuple(everybody))], [Layer("own", tuple(own))], now)
    return [(each.amount, each.mode) for each in held.limits]


def test_an_own_limit_takes_the_place_of_what_counts_the_same():
    """
    More generous or less, in the plan or for everybody; what counts something else stays, and an addition is added.
    """
    tokens, shared = limit(9, unit="tokens"), limit(7, per=("tenant",))

    assert amounts([limit(60), tokens], [limit(100)]) == [(100, "enforce"), (9, "enforce")]
    assert amounts([limit(60)], [limit(1)]) == [(1, "enforce")]
    assert amounts([], [limit(100)], [limit(60)]) == [(100, "enforce")]
    assert amounts([limit(60)], [limit(100)], [limit(50)]) == [(100, "enforce")]
    assert amounts([limit(60), shared], [tokens]) == [(60, "enforce"), (7, "enforce"), (9, "enforce")]


def test_a_limit_with_an_end_holds_until_then():
    """
    In its list it takes the place of what counts the same; from its end on, to the moment, that holds again.
    """
    plan = [limit(60), limit(1000, until=NOW)]

    assert amounts(plan, now=NOW - 0.001) == [(1000, "enforce")]
    assert amounts(plan, now=NOW) == [(60, "enforce")]
    assert amounts([limit(60)], [limit(5), limit(1000, until=NOW)], now=NOW - 1) == [(1000, "enforce")]
    assert amounts([limit(60)], [limit(5), limit(1000, until=NOW)]) == [(5, "enforce")]
    assert amounts([limit(60)], [limit(1000, until=NOW)]) == [(60, "enforce")]


def test_an_increase_in_one_list_does_not_pass_the_limit_of_another():
    """
    What everybody is held to holds for a plan with a temporary increase, too.
    """
    assert amounts([limit(60), limit(1000, until=NOW + 1)], (), [limit(100)]) == [(100, "enforce")]


def test_the_smallest_of_several_ends_holds():
    """
    Of two increases at a time the smaller one counts, as of any two limits.
    """
    plan = [limit(60), limit(1000, until=NOW + 5), limit(500, until=NOW + 9)]

    assert amounts(plan) == [(500, "enforce")]
    assert amounts(plan, now=NOW + 9) == [(60, "enforce")]


def test_a_shadow_limit_never_takes_the_place_of_an_enforced_one():
    """
    A trial, with an end or of a key's own, leaves the enforced limit where it is.
    """
    trial = limit(10, mode="shadow")
    both = [(60, "enforce"), (10, "shadow")]

    assert amounts([limit(60)], [trial]) == both
    assert amounts([limit(60), replace(trial, until=NOW + 1)]) == both
    assert amounts([limit(60), trial], [limit(100)]) == [(100, "enforce")]
    assert amounts([trial], [limit(5, mode="shadow")]) == [(5, "shadow")]


def test_increase_and_trial_at_once():
    """
    An enforced and a shadow limit with ends that count the same hold side by side.
    """
    plan = [limit(60), limit(50, mode="shadow"), limit(99, until=NOW + 1), limit(9, mode="shadow", until=NOW + 1)]

    assert amounts(plan) == [(99, "enforce"), (9, "shadow")]
    assert amounts(plan[1:]) == [(99, "enforce"), (9, "shadow")]


def test_a_trial_of_ones_own_gives_way_to_ones_own_limit():
    """
    Both would count in one window, so that a request would be charged twice.
    """
    own = [limit(60), limit(5, mode="shadow")]

    assert amounts([], own) == amounts([limit(9)], own) == [(60, "enforce")]


def test_what_was_replaced_is_known_nearest_first():
    """
    The first is the one that holds when the limit ends.
    """
    layers = [Layer("plan free", (limit(60), limit(70, until=NOW + 9)))]
    (placed,) = hold(layers, [Layer("own", (limit(5), limit(1000, until=NOW + 5)))], NOW).placed

    assert (placed.limit.amount, placed.source) == (1000, "own")
    assert [(each.limit.amount, each.source) for each in placed.replaced] == [
        (5, "own"),
        (70, "plan free"),
        (60, "plan free"),
    ]


def test_limits_of_one_name_get_names_of_their_own():
    """
    Limits of different lists that count different things are told apart in headers and refusals.
    """
    plan, own = limit(60, per=("tenant",)), limit(5)
    held = hold([Layer("plan", (plan,))], [Layer("own", (own,))], NOW)

    assert [each.name for each in held.limits] == ["requests-minute", "requests-minute-2"]


def test_windows_have_no_amount_and_tell_anchors_apart():
    """
    A changed amount keeps its count; differently anchored periods never share one.
    """
    month = [Limit("m", "money", 5, Window(period="month", anchor=day), algorithm="calendar") for day in (1, 15, 31)]

    assert [window_of(each) for each in month] == ["money:month", "money:month@15", "money:month@31"]
    assert window_of(limit(1)) == window_of(limit(2)) == "requests:60"


LIMITS = st.builds(
    limit,
    st.integers(1, 50),
    until=st.sampled_from([None, 10.0, 20.0, 30.0]),
    mode=st.sampled_from(["enforce", "shadow"]),
    unit=st.sampled_from(["requests", "tokens"]),
    name=st.sampled_from(["a", "b"]),
)
LISTS = st.lists(LIMITS, max_size=5).map(tuple)
TIMES = st.sampled_from([0.0, 9.9, 10.0, 15.0, 20.0, 29.9, 30.0, 99.0])


@given(LISTS, LISTS, LISTS, LISTS, TIMES, TIMES)
def test_what_holds_stays_so_for_as_long_as_is_said(plan, everybody, override, own, now, later):
    """
    Within *since* and *until* the same limits hold; none of them has ended; no window is met twice in one mode.
    """

    def held_at(moment):
        return hold(
            [Layer("plan", plan), Layer("limits", everybody)], [Layer("o", override), Layer("own", own)], moment
        )

    held = held_at(now)
    meant = [(counted(each), each.mode) for each in held.limits]

    assert held.since <= now < held.until
    assert all(each.until is None or now < each.until for each in held.limits)
    assert len(meant) == len(set(meant))
    assert len({each.name for each in held.limits}) == len(held.limits)
    if held.since <= later < held.until:
        assert held_at(later) == held
    if all(each.until is None for each in (*plan, *everybody, *override, *own)):
        assert (held.since, held.until) == (-math.inf, math.inf)


@given(LISTS, LISTS, LISTS, TIMES)
def test_nothing_enforced_is_lost(plan, everybody, own, now):
    """
    Whatever is counted and enforced somewhere now, is enforced by what holds, or replaced by what is written above.
    """
    held = hold([Layer("plan", plan), Layer("limits", everybody)], [Layer("own", own)], now)
    enforced = {counted(each): each for each in held.limits if each.mode == "enforce"}

    for each in (*plan, *everybody, *own):
        if each.mode == "enforce" and (each.until is None or now < each.until):
            assert counted(each) in enforced
    for each in own:
        if each.mode == "enforce" and each.until is None:
            alive = [other for other in own if other.until and other.until > now and counted(other) == counted(each)]
            if not any(other.mode == "enforce" for other in alive):
                assert enforced[counted(each)].amount <= each.amount
