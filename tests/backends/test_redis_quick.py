"""
The script's quick way: how little the usual call does, and what it must leave to the long one.
"""

from __future__ import annotations

import struct
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tokenbudget_mw.errors import BackendUnavailableError
from tokenbudget_mw.testing.asks import START, Blocking, ask, check, in_flight, seed, settlement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from private_servers import RedisServer

    from tokenbudget_mw.backends.base import Backend

redis = pytest.importorskip("redis")
backend_module = pytest.importorskip("tokenbudget_mw.backends.redis")
script_module = pytest.importorskip("tokenbudget_mw.backends.redis.script")
start_module = pytest.importorskip("tokenbudget_mw.backends.redis.start")

KEY = "tb:{acme}:key=k1"


class NoInspection(start_module.Inspection):  # type: ignore[name-defined, misc]
    """
    Asks nothing: its commands would be counted whenever they come.
    """

    def is_due(self, place: object) -> bool:
        """
        Return False.
        """
        del place
        return False


@pytest.fixture(params=["threads", "loop"])
def backend(request: pytest.FixtureRequest, redis_server: RedisServer) -> Iterator[Backend]:
    """
    Both colours, on a server of the test's own.
    """
    options = {"deadline": 5.0, "inspection": NoInspection()}
    if request.param == "threads":
        backend = backend_module.RedisBackend(redis_server.url, **options)
    else:
        backend = Blocking(backend_module.AsyncRedisBackend(redis_server.url, **options))
    yield backend
    backend.close()


@pytest.fixture
def caller_clock(redis_db: str) -> Iterator[Backend]:
    backend = backend_module.RedisBackend(redis_db, deadline=5.0, clock="caller")
    yield backend
    backend.close()


@pytest.fixture
def admin(redis_server: RedisServer) -> Iterator[Any]:
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


def commands(admin: Any) -> dict[str, int]:
    """
    Return how often each command ran since the last time that anybody asked.
    """
    stats = admin.info("commandstats")
    admin.config_resetstat()
    seen = {name.removeprefix("cmdstat_"): figures["calls"] for name, figures in stats.items()}
    return {name: calls for name, calls in seen.items() if not name.startswith(("info", "config"))}


USUAL = (
    check(1, 100, "requests:604800", params=(10_080_000_000, 60)),
    check(400, 10**6, "tokens:86400", params=(1_440_000_000, 60)),
    check(50, 10**6, "tokens:60/gcra", params=(60_000_000, 10**6), algorithm="gcra"),
    check(5, 10**6, "money:day", params=(0, 4 * 10**15, 8 * 10**15), algorithm="calendar", is_booked=True),
    in_flight(10),
)


def test_the_usual_call_reads_once_and_writes_once(backend: Backend, admin: Any) -> None:
    """
    A reservation and a settlement of a known counter with a window of each kind: nothing is looked up or rewritten whole.
    """
    backend.seed("acme", [seed(of=USUAL[3])], 0.0)
    for _ in range(2):
        asked = ask(*USUAL)
        backend.settle(settlement(asked, backend.reserve(asked, 0.0)), 0.0)
    commands(admin)

    asked = ask(*USUAL)
    reply = backend.reserve(asked, 0.0)
    reserved = commands(admin)
    backend.settle(settlement(asked, reply, 1, 300, 20, 2, 1), 0.0)
    settled = commands(admin)

    assert reply.admitted
    assert reserved == {"evalsha": 1, "time": 1, "hmget": 1, "hset": 1}
    assert settled == {"evalsha": 1, "hmget": 1, "hset": 1, "hdel": 1}


def test_the_script_knows_no_algorithm_but_ours(caller_clock: Backend, redis_db: str) -> None:
    """
    An unknown one is an error on every way, and changes nothing.
    """
    now_us, asked = int(START * 1_000_000), ask(check(1, 10))
    reply = caller_clock.reserve(asked, START)
    calls = [
        script_module.reserve_call(ask(check(1, 10)), now_us),
        script_module.settle_call(settlement(asked, reply, 5), now_us),
    ]
    with redis.Redis.from_url(redis_db) as plain:
        before = plain.hgetall(KEY)
        for call in calls:
            values = list(struct.unpack(f"<{len(call.values[0]) // 8}q", call.values[0]))
            values[8] = 9
            packed = struct.pack(f"<{len(values)}q", *values)
            with pytest.raises(redis.exceptions.ResponseError, match="unknown window algorithm"):
                plain.eval(script_module.Script().text, 1, *call.keys, packed, *call.values[1:])

        assert plain.hgetall(KEY) == before


def test_a_refusal_only_reads(backend: Backend, admin: Any) -> None:
    """
    A key that is spent and goes on asking costs no more than one that is not.
    """
    spent = ask(*USUAL[:3], check(5, 5, "tokens:604800", params=(10_080_000_000, 60)), in_flight(10))
    for expected in (True, False):
        assert backend.reserve(ask(*spent.checks), 0.0).admitted is expected
    commands(admin)

    refused = backend.reserve(ask(*spent.checks), 0.0)

    assert commands(admin) == {"evalsha": 1, "time": 1, "hmget": 1}
    assert [state.fits for state in refused.states] == [True, True, True, False, True]
    assert [state.slot for state in refused.states] == [-1] * 5


def test_every_operation_is_one_round_trip(backend: Backend, admin: Any) -> None:
    """
    Whatever it is, and whatever it finds, Redis is asked once.
    """
    asked = ask(check(), check(counter="tenant=acme"), holder="key=h")
    spent = ask(check(9, 10), check(counter="tenant=acme"))
    reply = backend.reserve(asked, 0.0)
    done = settlement(asked, reply)
    commands(admin)

    asks = [
        lambda: backend.reserve(asked, 0.0),
        lambda: backend.reserve(ask(*spent.checks), 0.0),
        lambda: backend.peek(spent, 0.0),
        lambda: backend.reserve(ask(check(is_booked=True, window="new")), 0.0),
        lambda: backend.renew(done.reservation, 900.0, 0.0),
        lambda: backend.seed("acme", [seed((5, 5), of=check(window="new"))], 0.0),
        lambda: backend.bar("acme", "key=h", "revoked", 60.0, 0.0),
        lambda: backend.reserve(asked, 0.0),
        lambda: backend.credit(spent, 0.0),
        lambda: backend.settle(done, 0.0),
        lambda: backend.settle(done, 0.0),
    ]
    for number, operation in enumerate(asks):
        operation()
        assert commands(admin)["evalsha"] == 1, f"operation {number}"


def test_a_settlement_that_redis_has_no_memory_for_loses_nothing(backend: Backend, admin: Any) -> None:
    """
    The lease stays, so that telling it again, later, is not the second time.
    """
    for _ in range(2):
        asked = ask(check(8, 100), in_flight(10))
        reply = backend.reserve(asked, 0.0)
    admin.config_set("maxmemory", 1)
    with pytest.raises(BackendUnavailableError):
        backend.settle(settlement(asked, reply, 3, 1), 0.0)
    admin.config_set("maxmemory", 0)

    assert backend.settle(settlement(asked, reply, 3, 1), 0.0)
    states = backend.peek(ask(check(0, 100), in_flight(10)), 0.0).states
    assert [state.remaining for state in states] == [100 - 8 - 3, 9]


def test_windows_of_other_asks_are_no_detour(caller_clock: Backend, redis_db: str) -> None:
    """
    An ask about some of a counter's windows, in another order, finds them and leaves the others alone.
    """
    one, two, three = (check(1, 10, f"tokens:{number}") for number in (60, 61, 62))
    caller_clock.reserve(ask(one, two, three), START)

    reply = caller_clock.reserve(ask(three, one), START)
    states = caller_clock.peek(ask(one, two, three), START).states

    assert [state.remaining for state in reply.states] == [8, 8]
    assert [state.remaining for state in states] == [8, 9, 8]


@pytest.mark.parametrize("amount", [10, 1 << 20, 1 << 30, 1 << 45])
def test_settlements_find_their_slot_however_wide_amounts_are(
    caller_clock: Backend, redis_db: str, amount: int
) -> None:
    """
    Sixty slots, each reserved at one amount and settled at another, in any order; each leaves at its time.
    """
    cap, reserved = 1 << 52, []
    for second in range(60):
        asked = ask(check(amount + second, cap))
        reserved.append((asked, caller_clock.reserve(asked, START + second)))
    actual = [amount - 3 if second % 2 else 2 * amount for second in range(60)]
    for second in (*range(1, 60, 2), *range(58, -1, -2)):
        assert caller_clock.settle(settlement(*reserved[second], actual[second]), START + 59)
    with redis.Redis.from_url(redis_db) as plain:
        tail = plain.hget(KEY, "ttokens:60")

    for gone in (0, 1, 30, 59):
        left = caller_clock.peek(ask(check(0, cap)), START + 60 + gone).states[0].remaining
        assert cap - left == sum(actual[gone:])
    assert len(tail) == 1 + 59 * (7 + tail[0])


def test_a_full_window_of_tokens_takes_less_than_a_kilobyte(caller_clock: Backend, redis_db: str) -> None:
    """
    2,000 of 100,000 tokens a minute, spent as fast as they come back.
    """
    with redis.Redis.from_url(redis_db) as plain:
        for number in range(120):
            asked = ask(check(2_000, 100_000))
            reply = caller_clock.reserve(asked, START + 1.22 * number)
            assert reply.admitted
            assert plain.memory_usage(KEY, samples=0) <= 1_024
            caller_clock.settle(settlement(asked, reply), START + 1.22 * number)


def test_fields_of_another_version_are_started_anew(caller_clock: Backend, redis_db: str) -> None:
    """
    What this version cannot read is not guessed at.
    """
    with redis.Redis.from_url(redis_db) as plain:
        plain.hset(KEY, mapping={"s": b"\x94\x00\x00\x00\x00", "l" + "0" * 32: b"\x91\x01", "b": b"\x91\x01"})
        reply = caller_clock.reserve(ask(check(4, 10), id="0" * 32), START)

        assert (reply.admitted, reply.states[0].remaining) == (True, 6)
        assert set(plain.hkeys(KEY)) == {b"s", b"l" + b"0" * 32}


@pytest.mark.parametrize("at", [5, 6, 7])
@pytest.mark.parametrize("number", [-1, 2**53])
def test_the_script_takes_no_amount_that_it_cannot_count(
    caller_clock: Backend, redis_db: str, at: int, number: int
) -> None:
    """
    Whoever calls it: an error, before anything is changed, on the quick way and on the long one.
    """
    caller_clock.reserve(ask(check(1, 10)), START)
    with redis.Redis.from_url(redis_db) as plain:
        before = plain.hgetall(KEY)
        for make in (script_module.reserve_call, script_module.peek_call):
            call = make(ask(check(1, 10), id=uuid.uuid4().hex), int(START * 1_000_000))
            values = list(struct.unpack(f"<{len(call.values[0]) // 8}q", call.values[0]))
            values[7 + at] = number
            packed = struct.pack(f"<{len(values)}q", *values)
            with pytest.raises(redis.exceptions.ResponseError, match="whole numbers"):
                plain.eval(script_module.Script().text, 1, *call.keys, packed, *call.values[1:])

        assert plain.hgetall(KEY) == before
