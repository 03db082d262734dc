"""
What settles after Redis has lost its memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from tokenbudget_mw.testing.asks import START, ask, check, settlement
from tokenbudget_mw.values import Seed

redis = pytest.importorskip("tokenbudget_mw.backends.redis")

if TYPE_CHECKING:
    from tokenbudget_mw.values import Check

MONTH = (1_698_796_800_000_000, 1_701_388_800_000_000, 1_704_067_200_000_000)


def money(*, is_booked: bool) -> Check:
    return replace(check(5, 100, "money:month", algorithm="calendar", params=MONTH), is_booked=is_booked)


@pytest.mark.parametrize("is_booked", [True, False])
def test_a_settlement_does_not_start_what_the_books_will(redis_db: str, is_booked: bool) -> None:
    """
    The truth of a call that outlived its counter is in the books, from which a booked window starts; another is charged
    in full, because nobody else knows.
    """
    import redis as driver

    asked = ask(money(is_booked=is_booked))
    backend = redis.RedisBackend(redis_db, deadline=5.0, clock="caller")
    backend.seed(asked.tag, [Seed("key=k1", "money:month", "calendar", MONTH)], START)
    reply = backend.reserve(asked, START)
    with driver.Redis.from_url(redis_db) as client:
        client.flushdb()

    assert backend.settle(settlement(asked, reply, 3), START)

    after = backend.peek(ask(money(is_booked=is_booked)), START)
    backend.close()
    assert after.unseeded == ((0,) if is_booked else ())
    assert [state.remaining for state in after.states] == ([] if is_booked else [97])
