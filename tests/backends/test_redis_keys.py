"""
What lies in Redis: keys that live as long as they count, states that stay small, windows that outlive their settings.
"""

from __future__ import annotations

import struct
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokenbudget_mw.backends.memory import MemoryBackend
from tokenbudget_mw.testing.asks import START, ask, check, in_flight, settlement
from tokenbudget_mw.values import Settlement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenbudget_mw.values import Check, Reservation

redis = pytest.importorskip("redis")
backends = pytest.importorskip("tokenbudget_mw.backends.redis")

START_US = int(START) * 1_000_000
HOUR_US = 3_600_000_000
QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


class Stored(NamedTuple):
    """
    The first numbers of a counter, as quick.lua describes them: moments in microseconds, and how many leases are open.
    """

    seen: float
    due: float
    open: float
    ends: float


def stored_in(packed: bytes) -> Stored:
    return Stored(*struct.unpack_from("<4d", packed, packed.index(b"\0", 2) + 1))


def with_open(packed: bytes, leases: int) -> bytes:
    at = packed.index(b"\0", 2) + 1 + 16
    return packed[:at] + struct.pack("<d", leases) + packed[at + 8 :]


@pytest.fixture
def plain(redis_db: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_db) as client:
        yield client


@pytest.fixture
def backend(redis_db: str) -> Iterator[Any]:
    backend = backends.RedisBackend(redis_db, deadline=5.0, clock="caller")
    yield backend
    backend.close()


def long_windows(cost: int, now_us: int) -> tuple[Check, ...]:
    """
    Windows whose slots are longer than the time by which keys outlive them anyhow.
    """
    day = START_US + (now_us - START_US) // (24 * HOUR_US) * 24 * HOUR_US
    ends = (day - 24 * HOUR_US, day, day + 24 * HOUR_US) if cost % 2 else (day, day + 24 * HOUR_US, day + 48 * HOUR_US)
    return (
        check(cost, 100, "requests:day", params=(HOUR_US, 24)),
        check(cost, 100, "tokens:day/gcra", params=(24 * HOUR_US, 100), algorithm="gcra"),
        check(cost, 100, "money:day", params=ends, algorithm="calendar"),
        in_flight(100),
    )


hours = st.one_of(st.sampled_from([0, HOUR_US - 1, HOUR_US, 23 * HOUR_US, 24 * HOUR_US]), st.integers(0, 30 * HOUR_US))
kept = st.lists(
    st.tuples(
        hours,
        st.sampled_from(["reserve", "reserve", "settle", "renew"]),
        st.integers(0, 9),
        st.sampled_from([0, 3, 900]),
        st.sampled_from([1.0, 600.0, 86_400.0]),
    ),
    min_size=5,
    max_size=25,
)


@given(kept, st.sampled_from([(0, 1), (1, 2), (2, 3), (0, 4)]))
@settings(max_examples=100, deadline=None, suppress_health_check=QUIET)
def test_a_key_lives_as_long_as_anything_in_it_matters(
    backend: Any, plain: Any, steps: list[Any], some: tuple[int, int]
) -> None:
    """
    Whatever happens, the end of a key is not before the last of its charges and leases has gone.
    """
    windows = slice(*some)
    tag, now_us = uuid.uuid4().hex, START_US
    made: list[Reservation] = []
    for step, act, cost, actual, lease in steps:
        now_us += step
        now = now_us / 1_000_000
        if act == "reserve":
            asked = ask(*long_windows(cost, now_us)[windows], tag=tag, lease=lease)
            reply = backend.reserve(asked, now)
            if reply.admitted:
                made.append(settlement(asked, reply).reservation)
        elif made and act == "settle":
            told = made[cost % len(made)]
            backend.settle(Settlement(told, (actual,) * len(told.holds)), now)
        elif made:
            backend.renew(made[cost % len(made)], lease, now)
        reply = backend.peek(ask(*long_windows(0, now_us)[windows], tag=tag), now)
        must_live = [now + state.reset for state in reply.states if state.remaining < 100]
        for key in plain.scan_iter(f"tb:{{{tag}}}:*"):
            fields = plain.hgetall(key)
            stored = stored_in(fields[b"s"])
            leases = [struct.unpack_from("<d", lease)[0] for name, lease in fields.items() if name.startswith(b"l")]
            assert stored.ends / 1_000_000 >= max([*must_live, *[end / 1_000_000 for end in leases]], default=0)
            assert stored.open == len(leases)
            assert not leases or now_us < stored.due <= min(leases)
            assert stored.due == 0 or stored.due > now_us
            assert plain.pttl(key) > 0


def test_the_end_of_a_key_is_told_to_redis(backend: Any, plain: Any) -> None:
    """
    A key that must live longer than it was to is given a later end, on the short way as on the long one.
    """
    day = check(1, 100, "requests:day", params=(HOUR_US, 24))
    backend.reserve(ask(check(0, 100, "requests:6", params=(1_000_000, 6)), lease=1.0), START)
    lives = [plain.pttl("tb:{acme}:key=k1")]
    for lease in (1.0, 200_000.0, 400_000.0):
        backend.reserve(ask(day, lease=lease), START)
        lives.append(plain.pttl("tb:{acme}:key=k1"))

    least = [7 + 1, 25 * 3600 + 1, 25 * 3600 + 200_000, 25 * 3600 + 400_000]
    assert [least_s + 59 < life / 1000 <= least_s + 60 for least_s, life in zip(least, lives, strict=True)] == [
        True
    ] * 4


def test_a_debt_that_leaks_for_days_keeps_its_key(backend: Any, plain: Any) -> None:
    """
    A bucket in debt takes longer than a full one.
    """
    asked = ask(check(1, 10, "tokens:3600/gcra", params=(HOUR_US, 10), algorithm="gcra"), lease=1.0)
    backend.settle(settlement(asked, backend.reserve(asked, START), 1000), START)

    assert plain.pttl("tb:{acme}:key=k1") / 1000 >= 100 * 3600


def test_a_bucket_that_new_settings_let_leak_for_days_keeps_its_key(backend: Any, plain: Any) -> None:
    """
    What is left of a larger one takes longer than a full one, too, from the first charge under the new settings.
    """
    for cost, cap in ((1000, 1000), (0, 10)):
        bucket = check(cost, cap, "tokens:3600/gcra", params=(HOUR_US, cap), algorithm="gcra")
        assert backend.reserve(ask(bucket, lease=1.0), START).admitted

    assert plain.pttl("tb:{acme}:key=k1") / 1000 >= 100 * 3600


def test_a_state_holds_what_counts_and_nothing_else(backend: Any, plain: Any) -> None:
    """
    However long a window is used, it keeps one entry a slot; when few count, the long part is gone, and so are leases.
    """
    for second in range(400):
        asked = ask(check(1, 100), in_flight(5), lease=30.0)
        backend.settle(settlement(asked, backend.reserve(asked, START + second)), START + second)
    tail = plain.hget("tb:{acme}:key=k1", "ttokens:60")
    asked = ask(check(1, 100), in_flight(5))
    backend.settle(settlement(asked, backend.reserve(asked, START + 1000)), START + 1000)

    assert (len(tail) - 1) // (7 + tail[0]) <= 60  # all but the newest entry
    assert plain.hkeys("tb:{acme}:key=k1") == [b"s"]


def test_unsettled_ends_are_forgotten_in_time(backend: Any, plain: Any) -> None:
    """
    An ended lease is remembered for a day, and not more than some hundreds of them.
    """
    for _ in range(400):
        backend.reserve(ask(in_flight(1000), lease=1.0), START)
    for second in range(10):  # while many are open, looking for ended ones is spread out
        backend.peek(ask(in_flight(1000)), START + 100 + second)
    remembered = [name for name in plain.hkeys("tb:{acme}:key=k1") if name.startswith(b"e")]
    backend.reserve(ask(in_flight(1000), lease=1.0), START + 100_000)
    backend.peek(ask(in_flight(1000)), START + 100_002)

    assert 200 <= len(remembered) <= 300
    assert len(plain.hkeys("tb:{acme}:key=k1")) <= 3


def test_leases_end_a_bounded_number_in_one_call(backend: Any, plain: Any) -> None:
    """
    A thousand leases that end together hold no call up.
    """
    for _ in range(200):
        backend.reserve(ask(in_flight(1000), lease=1.0), START)
    backend.peek(ask(in_flight(1000)), START + 2)

    assert 100 <= sum(name.startswith(b"l") for name in plain.hkeys("tb:{acme}:key=k1")) < 200


# -- settings that change while windows live --------------------------------------------------------------------------

trailing = st.sampled_from([(1_000_000, 6), (500_000, 12), (2_000_000, 3), (3_000_000, 6)])
buckets = st.sampled_from(
    [(7_000_000, 12), (7_000_000, 30), (9_000_000, 12), (1_000_003, 7), (60_000_000, 5_000), (7, 1_000)]
)
periods = st.sampled_from([(0, 20, 40), (0, 25, 40), (20, 40, 60), (10, 30, 50)])
changes = st.lists(
    st.tuples(
        st.one_of(
            st.sampled_from([0, 1, 499_999, 500_000, 1_000_000, 5_999_999, 6_000_000]), st.integers(0, 9_000_000)
        ),
        st.sampled_from(["reserve", "reserve", "reserve", "settle", "credit"]),
        buckets,
        periods,
        st.sampled_from([0.0, 0.01, 0.3, 0.5, 1.0]),
        st.sampled_from([0.0, 0.5, 1.0, 3.0]),
        st.integers(0, 9),
    ),
    min_size=8,
    max_size=30,
)


def changed(log: tuple[int, int], bucket: tuple[int, int], period: tuple[int, ...], share: float) -> tuple[Check, ...]:
    return (
        check(int(10 * share), 10, "requests:6", params=log),
        check(int(bucket[1] * share), bucket[1], "tokens:7/gcra", params=bucket, algorithm="gcra"),
        check(int(20 * share), 20, "m", params=tuple(START_US + 10**6 * s for s in period), algorithm="calendar"),
    )


@given(changes, trailing)
@settings(max_examples=100, deadline=None, suppress_health_check=QUIET)
def test_memory_and_redis_follow_changed_settings_alike(backend: Any, steps: list[Any], log: tuple[int, int]) -> None:
    """
    Lengths and amounts of buckets and ends of periods that change between two calls: every answer is equal.
    """
    tag, now_us, memory = uuid.uuid4().hex, START_US, MemoryBackend()
    made: list[Any] = []
    for step, act, bucket, period, share, actual, choice in steps:
        now_us += step
        now = now_us / 1_000_000
        asked = ask(*changed(log, bucket, period, share), tag=tag)
        if act == "reserve":
            reply = memory.reserve(asked, now)
            assert backend.reserve(asked, now) == reply
            if reply.admitted:
                made.append((asked, reply))
        elif act == "credit":
            memory.credit(asked, now)
            backend.credit(asked, now)
        elif made:
            asked, reply = made[choice % len(made)]
            told = settlement(asked, reply, *[int(one.cost * actual) for one in asked.checks])
            assert backend.settle(told, now) == memory.settle(told, now)


# -- what the script refuses by itself --------------------------------------------------------------------------------


@pytest.mark.parametrize("amount", [-1, 2**53])
@pytest.mark.parametrize("place", [-3, -2, -1])
@pytest.mark.parametrize("is_known", [True, False])
def test_the_script_takes_whole_amounts_only(plain: Any, amount: int, place: int, is_known: bool) -> None:
    """
    Whoever calls it, and whichever of cost, need and cap it is: what Lua cannot count exactly is an error.
    """
    from tokenbudget_mw.backends.redis.script import Script, reserve_call

    def call(**changes: int) -> Any:
        (key,), (numbers, *names) = reserve_call(ask(check(3, 10, room=5)), START_US)
        values = list(struct.unpack(f"<{len(numbers) // 8}q", numbers))
        values[place] = changes.get("amount", values[place])
        return plain.eval(Script().text, 1, key, struct.pack(f"<{len(values)}q", *values), *names)

    if is_known:
        call()
    before = {key: plain.hgetall(key) for key in plain.scan_iter()}
    with pytest.raises(redis.exceptions.ResponseError, match="TOKENBUDGET"):
        call(amount=amount)
    assert {key: plain.hgetall(key) for key in plain.scan_iter()} == before


def test_a_counter_that_was_lost_is_charged_the_truth_with_its_request(backend: Any, plain: Any) -> None:
    """
    Where Redis lost its memory between reserve and settle, the call is counted in full.
    """
    asked = ask(check(1, 10, "requests:60"), check(8, 10))
    reply = backend.reserve(asked, START)
    plain.flushdb()
    backend.settle(settlement(asked, reply, 1, 5), START)

    left = backend.peek(ask(check(0, 10, "requests:60"), check(0, 10)), START).states
    assert [state.remaining for state in left] == [9, 5]


def test_a_reservation_that_nobody_waits_for_was_never_made(backend: Any, plain: Any) -> None:
    """
    It gives everything back, the request too.
    """
    from tokenbudget_mw.backends.redis.script import Script, abandon_call

    asked = ask(check(1, 10, "requests:60"), check(8, 10), in_flight(5))
    backend.reserve(asked, START)
    count, arguments = abandon_call(asked, START_US).arguments()
    plain.eval(Script().text, count, *arguments)

    left = backend.peek(ask(check(0, 10, "requests:60"), check(0, 10), in_flight(5)), START).states
    assert [state.remaining for state in left] == [10, 10, 5]
    assert stored_in(plain.hget("tb:{acme}:key=k1", "s")).open == 0


def test_a_spent_shadow_limit_leaves_no_lease_behind(backend: Any, plain: Any) -> None:
    """
    A counter of which a call holds nothing does not know the call: nobody would settle it there, and in the end it would be
    crowded, and a shadow limit refuse. The same ask again is known all the same.
    """
    asked = ask(check(1, 0, counter="tenant=t", enforced=False), check(1, 10))
    reply = backend.reserve(asked, START)
    again = backend.reserve(asked, START)
    backend.settle(settlement(asked, reply), START)

    assert [state.slot >= 0 for state in reply.states] == [False, True]
    assert again.states[1].remaining == reply.states[1].remaining == 9
    for counter in ("tenant=t", "key=k1"):
        fields = plain.hgetall(f"tb:{{acme}}:{counter}")
        assert not [name for name in fields if name.startswith(b"l")]
        assert not fields or stored_in(fields[b"s"]).open == 0


def test_the_short_way_crowds_nobody_either(backend: Any, plain: Any) -> None:
    """
    A counter with as many open reservations as it may have takes no more of them, whichever way they come.
    """
    backend.reserve(ask(check(1, 10)), START)
    plain.hset("tb:{acme}:key=k1", "s", with_open(plain.hget("tb:{acme}:key=k1", "s"), 10_000))

    assert backend.reserve(ask(check(1, 10)), START).barred == "crowded"


def test_a_credit_makes_no_counter(backend: Any, plain: Any) -> None:
    """
    What nobody has charged is not there after a credit either; and a window beside it stays unknown to the books.
    """
    backend.credit(ask(check(5, 10)), START)
    keys = plain.keys()
    backend.reserve(ask(check(1, 10)), START)
    backend.credit(ask(check(5, 10, "spent:60")), START)

    assert keys == []
    assert backend.reserve(ask(check(1, 10, "spent:60", is_booked=True)), START).unseeded == (0,)


@pytest.mark.parametrize(
    "written",
    [
        "",
        "\x01",
        "\x01\x05abc",
        "\x01\x01tokens:60\0" + "\0" * 71,
        "\x01\xfftokens:60\0",
        "\x01\x05" + "\0" * 128,
        None,
    ],
)
@pytest.mark.parametrize("is_holder", [False, True])
def test_what_somebody_else_has_written_is_no_counter(
    backend: Any, plain: Any, written: str | None, is_holder: bool
) -> None:
    """
    A key that cannot be read is started anew: it would be an error of Redis's for each of its requests, and three in a row
    take it from everybody.
    """
    key = "tb:{acme}:key=h" if is_holder else "tb:{acme}:key=k1"
    if written is None:
        plain.set(key, "100")
    else:
        plain.hset(key, "s", written.encode("latin-1"))

    lefts = [backend.reserve(ask(check(3, 10), holder="key=h"), START).states[0].remaining for _ in range(2)]
    assert lefts == [7, 4]


def test_a_counter_of_another_version_is_started_anew(backend: Any, plain: Any) -> None:
    """
    However much it looks like one of this version.
    """
    key = "tb:{acme}:key=k1"
    backend.reserve(ask(check(4, 10)), START)
    plain.hset(key, "s", b"\x02" + plain.hget(key, "s")[1:])

    assert backend.reserve(ask(check(3, 10)), START).states[0].remaining == 7
