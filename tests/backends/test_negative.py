"""
What a shared backend has refused is refused again without it: until its time comes, as it would answer, and no longer.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tokenbudget_mw.backends import negative, open_pair
from tokenbudget_mw.backends.memory import AsyncMemoryBackend, MemoryBackend
from tokenbudget_mw.backends.negative import AsyncNegativeCache, NegativeCache, Refusals
from tokenbudget_mw.testing.asks import seed
from tokenbudget_mw.testing.backends import HOUR, START, BackendContract, Blocking, ask, check, in_flight, settlement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from private_servers import RedisServer

    from tokenbudget_mw.backends.base import Backend
    from tokenbudget_mw.values import Ask, Reply


class TestContract(BackendContract):
    @pytest.fixture
    def backend(self) -> Backend:
        return NegativeCache(MemoryBackend(), Refusals(3600.0, is_virtual=True))


class TestAsyncContract(BackendContract):
    @pytest.fixture
    def backend(self) -> Iterator[Backend]:
        backend = Blocking(AsyncNegativeCache(AsyncMemoryBackend(), Refusals(3600.0, is_virtual=True)))
        yield backend
        backend.close()


class Counting(MemoryBackend):
    """
    A backend that counts what it is asked.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def reserve(self, ask: Ask, now: float) -> Reply:
        self.asked += 1
        return super().reserve(ask, now)


@pytest.fixture
def shared() -> Counting:
    return Counting()


@pytest.fixture
def refusals() -> Refusals:
    return Refusals(1.0, is_virtual=True)


@pytest.fixture
def backend(shared: Counting, refusals: Refusals) -> NegativeCache:
    return NegativeCache(shared, refusals)


def spend(backend: Any, amount: int = 10, now: float = START) -> None:
    """
    Use up *amount* of the ten tokens a minute.
    """
    assert backend.reserve(ask(check(amount)), now).admitted


def test_ten_thousand_refusals_cost_one_round_trip_a_second(backend: NegativeCache, shared: Counting) -> None:
    """
    A subject that hammers at a spent limit is refused each time, and the backend hears of it once a second.
    """
    spend(backend)
    replies = [backend.reserve(ask(check(1)), START + at / 2_000) for at in range(10_000)]

    assert not any(reply.admitted for reply in replies)
    assert shared.asked == 1 + 5


def test_t06_admitted_at_retry_after_and_not_before(backend: NegativeCache, shared: Counting) -> None:
    """
    What is remembered says the remaining wait, to the microsecond, and is gone when that has passed.
    """
    spend(backend, now=START + 0.5)
    first = backend.reserve(ask(check(1)), START + 60.2)
    again = backend.reserve(ask(check(1)), START + 60.75)
    at = START + 61
    early = backend.reserve(ask(check(1)), at - 1e-6)

    assert first.states[0].retry_after == pytest.approx(0.8)
    assert again.states[0].retry_after == 0.25
    assert shared.asked == 2
    assert early.states[0].retry_after == 1e-6
    assert backend.reserve(ask(check(1)), at).admitted


def test_the_memory_ends_so_that_others_news_is_seen(backend: NegativeCache, shared: Counting) -> None:
    """
    Another process gives something back: a second later at the latest it is found.
    """
    spend(backend)
    assert not backend.reserve(ask(check(1)), START).admitted
    shared.credit(ask(check(5)), START)

    assert not backend.reserve(ask(check(1)), START + 0.999).admitted
    assert backend.reserve(ask(check(1)), START + 1.0).admitted


@pytest.fixture(params=["sync", "async"])
def either(request: pytest.FixtureRequest, backend: NegativeCache, refusals: Refusals) -> Iterator[Backend]:
    """
    Each colour in turn.
    """
    if request.param == "sync":
        yield backend
        return
    blocking = Blocking(AsyncNegativeCache(AsyncMemoryBackend(), refusals))
    yield blocking
    blocking.close()


@pytest.mark.parametrize("act", ["settle", "credit", "seed", "bar"])
def test_what_this_process_changes_is_seen_at_once(either: Backend, act: str) -> None:
    """
    A settlement below the reservation, a credit, a seed and a bar make it ask again, in both colours.
    """
    backend = either
    asked = ask(check(10))
    reply = backend.reserve(asked, START)
    refused = ask(check(1), holder="key=k1")
    assert not backend.reserve(refused, START).admitted
    if act == "settle":
        backend.settle(settlement(asked, reply, 3), START)
    elif act == "credit":
        backend.credit(ask(check(5)), START)
    elif act == "seed":
        backend.seed("acme", [seed(of=check(window="other:60"))], START)
        backend.credit(ask(check(5)), START)
    else:
        backend.bar("acme", "key=k1", "revoked", 60.0, START)

    assert backend.reserve(refused, START).admitted is (act != "bar")
    assert backend.reserve(refused, START).barred == ("revoked" if act == "bar" else "")


def test_a_settlement_that_changes_nothing_is_no_news(backend: NegativeCache, shared: Counting) -> None:
    """
    Requests are settled as they were reserved: thousands of them must not bring thousands of refused questions.
    """
    asked = ask(check(10))
    reply = backend.reserve(asked, START)
    assert not backend.reserve(ask(check(1)), START).admitted
    backend.settle(settlement(asked, reply), START)

    assert not backend.reserve(ask(check(1)), START).admitted
    assert shared.asked == 2


def test_another_cap_is_another_question(backend: NegativeCache) -> None:
    """
    A limit that was raised admits at once.
    """
    spend(backend)
    assert not backend.reserve(ask(check(1)), START).admitted

    assert backend.reserve(ask(check(1, 20)), START).admitted


def test_a_smaller_need_is_asked_for(backend: NegativeCache) -> None:
    """
    Five were refused; three fit.
    """
    spend(backend, 7)
    assert not backend.reserve(ask(check(5)), START).admitted

    assert backend.reserve(ask(check(3)), START).admitted


def test_a_larger_need_hears_its_own_wait(backend: NegativeCache, shared: Counting) -> None:
    """
    Where the wait of a larger need is not known it is asked for, once; then needs between the two are known, too, as long
    as they wait equally long.
    """
    spend(backend, 3, START)
    spend(backend, 7, START + 20)
    waits = [backend.reserve(ask(check(need)), START + 20.5).states[0].retry_after for need in (1, 3, 2, 4, 9, 5, 10)]

    assert waits == [40.5, 40.5, 40.5, 60.5, 60.5, 60.5, 60.5]
    assert shared.asked == 2 + 3


def test_calls_in_flight_are_never_remembered(backend: NegativeCache, shared: Counting, refusals: Refusals) -> None:
    """
    Nobody knows when a call ends, so everybody asks.
    """
    backend.reserve(ask(in_flight(1)), START)
    for _ in range(3):
        assert not backend.reserve(ask(in_flight(1), check(1)), START).admitted

    assert shared.asked == 4
    assert len(refusals) == 0


def test_the_refusals_of_a_fallback_are_never_remembered(
    backend: NegativeCache, shared: Counting, refusals: Refusals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The backend may be back at the next request.
    """
    spend(backend)
    reserve = shared.reserve
    monkeypatch.setattr(shared, "reserve", lambda ask, now: replace(reserve(ask, now), degraded=True))
    assert not backend.reserve(ask(check(1)), START).admitted

    assert len(refusals) == 0


def test_what_never_fits_is_never_remembered(backend: NegativeCache, refusals: Refusals) -> None:
    """
    There is no moment until which it could be.
    """
    assert backend.reserve(ask(check(11)), START).states[0].retry_after is None
    assert len(refusals) == 0


def test_the_other_checks_are_told_as_the_backend_told_them(backend: NegativeCache) -> None:
    """
    A remembered answer has a state of every check, shadow checks too, and what is not known is asked.
    """
    spend(backend)
    checks = [check(5, 20, "tokens:3600", params=HOUR), check(1), check(1, 0, "shadow:60", enforced=False)]
    first = backend.reserve(ask(*checks), START)
    again = backend.reserve(ask(*checks), START)
    unknown = backend.reserve(ask(check(21, 20, "tokens:3600", params=HOUR), *checks[1:]), START)

    assert [state.fits for state in first.states] == [True, False, False]
    assert again == first
    assert [state.fits for state in unknown.states] == [False, False, False]


@pytest.mark.parametrize("cost", [-1, float("nan"), 2**53])
def test_an_amount_that_cannot_be_counted_is_an_error_still(backend: NegativeCache, cost: Any) -> None:
    """
    Whatever is remembered, the caller hears of its mistake.
    """
    spend(backend)
    other = check(1, 2**60, "other:60")
    assert not backend.reserve(ask(check(1), other), START).admitted
    wrong = check(cost, 2**60, "other:60")

    with pytest.raises(ValueError, match="whole number"):
        backend.reserve(ask(check(1), wrong), START)


def test_memory_is_bounded(backend: NegativeCache, refusals: Refusals, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    However many subjects are refused, so many are remembered, the latest.
    """
    monkeypatch.setattr(negative, "REMEMBERED", 10)
    spend(backend)
    for number in range(50):
        assert not backend.reserve(ask(check(1), check(1, counter=f"key=n{number}")), START).admitted

    assert len(refusals) == 10
    assert len(refusals._by_counter) == 10 + 2


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 0, 0, 1, 1, 2, 10, 60, 61]),
            st.sampled_from([0, 0, 1, -1]),
            st.sampled_from(["reserve", "reserve", "reserve", "settle"]),
            st.integers(0, 12),
            st.integers(0, 12),
        ),
        min_size=5,
        max_size=40,
    )
)
@settings(max_examples=300, deadline=None)
def test_alone_it_answers_as_the_backend_would(history: list[Any]) -> None:
    """
    Where nobody else changes anything, every answer of every history is the backend's own; but what leaves a window
    meanwhile may not be seen in what is left.
    """
    plain, cached = MemoryBackend(), NegativeCache(MemoryBackend(), Refusals(3600.0, is_virtual=True))
    now_us, opened = int(START * 1_000_000), []
    for seconds, beside, act, cost, more in history:
        now_us += max(0, seconds * 1_000_000 + beside)
        now = now_us / 1_000_000
        if act == "reserve":
            asked = ask(
                check(cost), check(more, 15, "tokens:3600", params=HOUR), check(more, 5, "s:60", enforced=False)
            )
            one, two = plain.reserve(asked, now), cached.reserve(asked, now)
            assert one.admitted == two.admitted
            for mine, its in zip(one.states, two.states, strict=True):
                assert (mine.fits, mine.retry_after, mine.reset) == (its.fits, its.retry_after, its.reset)
                assert mine.slot == its.slot
                assert its.remaining <= mine.remaining
            if one.admitted:
                opened.append(settlement(asked, one, *[more] * sum(state.slot >= 0 for state in one.states)))
        elif opened:
            told = opened.pop()
            assert plain.settle(told, now) == cached.settle(told, now)


def test_both_colours_share_what_is_known(redis_server: RedisServer) -> None:
    """
    What a thread was refused, the loop is refused without a round trip, and the other way round.
    """
    redis = pytest.importorskip("redis")
    threads, loops = open_pair(redis_server.url, deadline=5.0, refusal_cache=1.0)

    async def main() -> list[bool]:
        reply = await loops.reserve(ask(check(1)), 0.0)
        return [reply.admitted]

    spend(threads, now=0.0)
    assert not threads.reserve(ask(check(1)), 0.0).admitted
    with redis.Redis.from_url(redis_server.url) as client:
        before = client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)
        assert asyncio.run(main()) == [False]
        after = client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)
    threads.close()
    assert after == before


def test_it_is_off_where_it_is_not_wanted() -> None:
    """
    Zero seconds remember nothing; memory needs none.
    """
    pytest.importorskip("redis")
    assert not isinstance(open_pair("redis://127.0.0.1:1/0", refusal_cache=0.0)[0], NegativeCache)
    assert not isinstance(open_pair("memory://", refusal_cache=1.0)[0], NegativeCache)
