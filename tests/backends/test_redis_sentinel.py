"""
Counters under sentinels: the master is found, and followed wherever it goes.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from tokenbudget_mw.testing.asks import ask, check

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis_deployments import Watched

    from tokenbudget_mw.backends.base import Backend

redis = pytest.importorskip("redis")
deployments = pytest.importorskip("redis_deployments")

PATIENCE = 5.0  # the deadline where a busy machine must not be taken for a fault


def is_shared(backend: Backend) -> bool:
    """
    Ask for a token, and tell whether Redis answered.
    """
    return not backend.reserve(ask(check(1, 10**6)), 0.0).degraded


def wait_until(is_so: Callable[[], bool], seconds: float = 15.0) -> float:
    """
    Wait until *is_so*; return how many seconds that took.
    """
    begin, pause = time.monotonic(), threading.Event()
    while not is_so():
        assert time.monotonic() - begin < seconds, "it never came true"
        pause.wait(0.01)
    return time.monotonic() - begin


def test_sentinels_say_where_the_master_is(opened: Callable[..., Backend], redis_watched: Watched) -> None:
    """
    A sentinel that is not there is passed over; counters stand at the master.
    """
    backend = opened(redis_watched.url, deadline=PATIENCE)

    assert is_shared(backend)
    assert deployments.say(redis_watched.master, "EXISTS", "tb:{acme}:key=k1") == 1


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_t16_a_failover_is_followed(opened: Callable[..., Backend], redis_watched: Watched, end: str) -> None:
    """
    The master dies or freezes: the policy holds, and within a second after the failover limits are shared again.
    """
    backend = opened(redis_watched.url, deadline=0.3)
    assert is_shared(backend)
    getattr(redis_watched.master, end)()
    while not redis_watched.is_failed_over():
        assert backend.reserve(ask(check(1, 10**6)), 0.0).admitted
    seconds = wait_until(lambda: is_shared(backend))

    assert seconds < 1.0
    assert deployments.say(redis_watched.replica, "EXISTS", "tb:{acme}:key=k1") == 1


def test_t16_an_operators_failover_costs_nothing(opened: Callable[..., Backend], redis_watched: Watched) -> None:
    """
    The old master becomes a replica and refuses writes: the call that finds out goes to the new one.
    """
    backend = opened(redis_watched.url, deadline=PATIENCE)
    assert is_shared(backend)
    redis_watched.fail_over()

    assert is_shared(backend)
    assert deployments.say(redis_watched.replica, "EXISTS", "tb:{acme}:key=k1") == 1


def test_t16_sentinels_that_are_gone_take_no_limit_with_them(
    opened: Callable[..., Backend], redis_watched: Watched
) -> None:
    """
    What is connected stays connected.
    """
    backend = opened(redis_watched.url, deadline=PATIENCE)
    assert is_shared(backend)
    redis_watched.sentinel.kill()

    assert all(is_shared(backend) for _ in range(5))


def test_a_service_that_nobody_watches_follows_the_policy(
    opened: Callable[..., Backend], redis_watched: Watched
) -> None:
    """
    A misspelt name is an unavailable backend.
    """
    backend = opened(redis_watched.url.replace("/counters/", "/contours/"), deadline=PATIENCE)

    assert not is_shared(backend)
