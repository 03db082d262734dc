"""
What Redis keeps of bars, seeds, heartbeats and crowds: fields, ends, and nothing where nothing is due.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from tokenbudget_mw.testing.asks import HOUR, MINUTE, START, ask, check, settlement
from tokenbudget_mw.values import Ask, Check, Seed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenbudget_mw.backends.base import Backend

redis = pytest.importorskip("redis")
backend_module = pytest.importorskip("tokenbudget_mw.backends.redis")

KEY = "tb:{acme}:key=k1"


@pytest.fixture
def backend(redis_db: str) -> Iterator[Backend]:
    backend = backend_module.RedisBackend(redis_db, deadline=5.0, clock="caller")
    yield backend
    backend.close()


@pytest.fixture
def plain(redis_db: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_db) as client:
        yield client


def asked_by(holder: str, *checks: Check, **options: Any) -> Ask:
    """
    Ask in the name of *holder*.
    """
    return ask(*checks, holder=holder, **options)


def booked(cost: int = 1, cap: int = 10, window: str = "money:60", **options: Any) -> Check:
    """
    Make a check of which the books know.
    """
    return check(cost, cap, window, is_booked=True, **options)


def test_a_holder_that_no_check_names_needs_no_counter(backend: Backend, plain: Any) -> None:
    """
    Looking for a bar makes no key; a bar makes one, with an end of its own.
    """
    asked = asked_by("key=k1", check(counter="tenant=acme"))
    assert backend.reserve(asked, START).admitted
    assert plain.keys() == [b"tb:{acme}:tenant=acme"]

    backend.bar("acme", "key=k1", "revoked", 300.0, START)

    assert backend.reserve(asked_by("key=k1", check(counter="tenant=acme")), START + 299).barred == "revoked"
    assert 299 < plain.ttl(KEY) <= 361
    assert backend.reserve(asked_by("key=k1", check(counter="tenant=acme")), START + 300).barred == ""


def test_a_bar_outlives_the_counter_that_it_stands_in(backend: Backend, plain: Any) -> None:
    """
    A charge with a short window does not bring the end of the key forward.
    """
    backend.bar("acme", "key=k1", "suspended", 86_400.0, START)
    backend.reserve(ask(check(1, 10)), START)

    assert plain.ttl(KEY) > 86_000
    assert backend.reserve(asked_by("key=k1", check(1, 10)), START).barred == "suspended"


def test_a_bar_that_is_over_leaves_no_field(backend: Backend, plain: Any) -> None:
    """
    The first ask after its end tidies it away.
    """
    backend.bar("acme", "key=k1", "suspended", 1.0, START)
    assert plain.hexists(KEY, "b")

    assert backend.reserve(asked_by("key=k1", check()), START + 2).admitted
    assert not plain.hexists(KEY, "b")


def test_a_barred_holder_without_limits_is_refused(backend: Backend) -> None:
    """
    A credential without a limit can be revoked, too.
    """
    assert backend.reserve(asked_by("key=k1"), START).admitted
    backend.bar("acme", "key=k1", "revoked", 60.0, START)

    assert backend.reserve(asked_by("key=k1"), START).barred == "revoked"
    backend.bar("acme", "key=k1", "", 0.0, START)
    assert backend.reserve(asked_by("key=k1"), START).admitted


def test_a_bar_is_no_counter_that_counts(backend: Backend) -> None:
    """
    Redis lost its memory, and a bar came first: the settlement of what was lost is charged in full.
    """
    asked = ask(check(8, 10))
    reply = backend.reserve(ask(check(8, 10), tag="other"), START)
    backend.bar("acme", "key=k1", "revoked", 600.0, START)

    assert backend.settle(settlement(asked, reply, 3), START)
    assert backend.peek(ask(check(0, 10)), START).states[0].remaining == 7


def test_a_seed_lives_as_long_as_it_counts(backend: Backend, plain: Any) -> None:
    """
    Seeded windows answer, and the key ends when nothing of them can count any more.
    """
    asked = ask(booked(1, 10), booked(1, 100, "money:3600", params=HOUR))
    assert backend.reserve(asked, START).unseeded == (0, 1)
    assert plain.keys() == []

    end = int(START) * 1_000_000
    first = Seed("key=k1", "money:60", "strict_log", MINUTE, ((end, 7),))
    second = Seed("key=k1", "money:3600", "strict_log", HOUR)
    backend.seed("acme", [first, second], START)

    assert [state.remaining for state in backend.reserve(asked, START).states] == [2, 99]
    assert 3_660 <= plain.ttl(KEY) <= 3_660 + 600 + 60


def test_a_seed_makes_no_second_start(backend: Backend) -> None:
    """
    Of two processes that seed at once, the second changes nothing; nor do two seeds of one window in a call.
    """
    end = int(START) * 1_000_000
    seed = Seed("key=k1", "money:60", "strict_log", MINUTE, ((end, 3),))
    backend.seed("acme", [seed, seed], START)
    backend.seed("acme", [seed], START)

    assert backend.peek(ask(booked(0, 10)), START).states[0].remaining == 7


@pytest.mark.parametrize(("told_at", "used"), [(START - 10, 7), (START + 10, 14), (0.0, 14)])
def test_a_window_that_started_from_the_books_has_what_they_knew_by_then(
    backend: Backend, told_at: float, used: int
) -> None:
    """
    Usage that is told long after it went to the books counts in a window that was there before, and in one of which the
    books know nothing; one that has started at what they say has it.
    """
    backend.seed("acme", [Seed("key=k1", "money:60", "strict_log", MINUTE, ((int(START) * 1_000_000, 7),))], START)
    asked = ask(booked(0), check(0, 10))
    reply = backend.reserve(asked, START + 20)
    told = msgspec.structs.replace(settlement(asked, reply, 7, 7), booked_at=told_at)

    assert backend.settle(told, START + 20)
    states = backend.peek(ask(booked(0, 100), check(0, 100)), START + 20).states
    assert [100 - state.remaining for state in states] == [used, 7]


@pytest.mark.parametrize("amount", [-1, 2**53, 0.5, float("nan")])
def test_a_seed_that_cannot_be_counted_is_an_error(backend: Backend, plain: Any, amount: Any) -> None:
    """
    Before anything is asked of Redis.
    """
    with pytest.raises(ValueError, match="whole number"):
        backend.seed("acme", [Seed("key=k1", "money:60", "strict_log", MINUTE, ((1, amount),))], START)
    assert plain.keys() == []


def test_a_heartbeat_keeps_the_key(backend: Backend, plain: Any) -> None:
    """
    A renewed lease and its counter are there until the new end, although the next due moment was the old one.
    """
    asked = ask(check(8, 10), lease=10.0)
    reply = backend.reserve(asked, START)
    reservation = settlement(asked, reply).reservation

    assert backend.renew(reservation, 3_600.0, START + 5)
    assert plain.ttl(KEY) > 3_590
    assert backend.peek(ask(check(3, 10)), START + 11).states[0].remaining == 2
    assert backend.renew(reservation, 1.0, START + 12)
    assert backend.settle(settlement(asked, reply, 1), START + 20)
    assert not backend.renew(reservation, 10.0, START + 20)


def test_a_heartbeat_after_the_end_changes_nothing(backend: Backend) -> None:
    """
    What an expired lease gave back stays given back.
    """
    asked = ask(check(8, 10), lease=10.0)
    reservation = settlement(asked, backend.reserve(asked, START)).reservation

    assert not backend.renew(reservation, 10.0, START + 10)
    assert backend.peek(ask(check(0, 10)), START + 10).states[0].remaining == 10


def test_a_counter_is_not_crowded_by_more_leases_than_it_may_have(backend: Backend, plain: Any) -> None:
    """
    At 10,000 open reservations the next one is refused and charges nothing, until one is settled.
    """
    pipeline = plain.pipeline(transaction=False)
    first = ask(check(0, 10))
    reply = backend.reserve(first, START)
    from tokenbudget_mw.backends.redis.script import reserve_call

    for _ in range(9_999):
        call = reserve_call(ask(check(0, 10), id=uuid.uuid4().hex), int(START * 1_000_000))
        count, arguments = call.arguments()
        pipeline.evalsha(backend._script.sha, count, *arguments)  # type: ignore[attr-defined]
    pipeline.execute()

    crowded = backend.reserve(ask(check(1, 10)), START)
    assert (crowded.admitted, crowded.barred, crowded.states) == (False, "crowded", ())
    assert backend.reserve(ask(check(1, 10), lease=0.0), START).admitted
    assert backend.settle(settlement(first, reply), START)
    assert backend.reserve(ask(check(1, 10)), START).admitted
