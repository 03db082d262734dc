"""
The connections of a process's threads: lent, given back, opened aside, and no more of them than agreed.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import types
from typing import TYPE_CHECKING, Any

import pytest
from signal_rig import Struck, strikes

from tokenbudget_mw.testing.asks import ask, check

if TYPE_CHECKING:
    from collections.abc import Callable

    from private_servers import RedisServer

redis = pytest.importorskip("redis")
pool_module = pytest.importorskip("tokenbudget_mw.backends.redis.pool")


class Wire:
    """
    A connection that is only counted.
    """

    def __init__(self) -> None:
        self.home: object = None
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


class Opener:
    """
    Opens connections when it is told to.
    """

    def __init__(self, *, at_once: bool = True) -> None:
        self.wires: list[Wire] = []
        self.calls = 0
        self.seconds: float | None = None
        self.fault: Exception | None = None
        self.may = threading.Event()
        self.called = threading.Semaphore(0)
        if at_once:
            self.may.set()

    def __call__(self, seconds: float | None) -> Wire:
        self.calls += 1
        self.seconds = seconds
        self.called.release()
        assert self.may.wait(5)
        if self.fault is not None:
            raise self.fault
        self.wires.append(Wire())
        return self.wires[-1]


def soon(seconds: float = 5.0) -> float:
    return time.monotonic() + seconds


def in_threads(count: int, work: Callable[[], Any]) -> list[Any]:
    """
    Do *work* in *count* threads at once; return what each returned or raised.
    """
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as exc:
            results.append(exc)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return results


def test_the_connection_used_last_is_lent_first() -> None:
    """
    Those that are not needed stay idle, and none is opened while one is free.
    """
    opener = Opener()
    pool = pool_module.Pool(opener, 2)
    first, second = pool.take(soon()), pool.take(soon())
    pool.give(first)
    pool.give(second)

    assert pool.take(soon()) is second
    assert opener.calls == 2


def test_no_more_are_open_than_agreed() -> None:
    """
    Forty threads share three connections, and each gets its turn.
    """
    opener, pause = Opener(), threading.Event()
    pool = pool_module.Pool(opener, 3)

    def work() -> bool:
        for _ in range(5):
            wire = pool.take(soon())
            pause.wait(0.001)
            pool.give(wire)
        return True

    assert in_threads(40, work) == [True] * 40
    assert opener.calls <= 3


def test_a_wait_ends_in_time() -> None:
    """
    All are lent: whoever waits is told so at its own deadline.
    """
    pool = pool_module.Pool(Opener(), 1)
    pool.take(soon())

    with pytest.raises(TimeoutError, match="None of 1 connections was free"):
        pool.take(soon(0.01))


def test_a_connection_that_opens_too_late_serves_the_next() -> None:
    """
    The caller goes at its deadline; nobody opens a second one meanwhile.
    """
    opener = Opener(at_once=False)
    pool = pool_module.Pool(opener, 4)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            pool.take(soon(0.01))
    opener.may.set()

    assert pool.take(soon()) is opener.wires[0]
    assert opener.calls == 1


def test_who_waits_for_a_connection_that_cannot_be_opened_is_told_at_once() -> None:
    """
    With the reason as the cause, long before the deadline; the next call tries anew.
    """
    opener = Opener()
    opener.fault = ConnectionRefusedError("nobody listens")
    pool = pool_module.Pool(opener, 4)
    results = in_threads(4, lambda: pool.take(soon(30)))
    for thread in threading.enumerate():
        if thread.name == "tokenbudget-connect":
            thread.join(5)
    opener.fault = None

    assert [type(result) for result in results] == [redis.exceptions.ConnectionError] * 4
    assert {type(result.__cause__) for result in results} == {ConnectionRefusedError}
    assert pool.take(soon()) is opener.wires[0]


def test_a_dropped_connection_makes_room() -> None:
    """
    Whoever waits gets the one that takes its place.
    """
    opener = Opener()
    pool = pool_module.Pool(opener, 1)
    lent = pool.take(soon())
    dropper = threading.Timer(0.01, pool.drop, (lent,))
    dropper.start()

    assert pool.take(soon()) is not lent
    assert lent.is_closed
    dropper.join()


def test_a_signal_that_raises_while_a_connection_is_waited_for_is_what_is_heard_of() -> None:
    """
    A time limit that a queue ends tasks by comes in any step. What it raises is what the task hears of, and whoever waits next
    gets the connection.
    """
    pool = pool_module.Pool(Opener(), 1)
    lent = pool.take(soon())
    *struck, last = map(type, strikes(lambda: pool.take(soon(0.0001))))
    pool.give(lent)

    assert set(struck) == {Struck}
    assert last is TimeoutError
    assert in_threads(3, lambda: pool.give(pool.take(soon()))) == [None] * 3


def test_a_connection_that_is_lost_on_its_way_makes_room() -> None:
    """
    A signal's handler that raises as one is lent leaves it to nobody: it is not counted as open for ever.
    """
    opener = Opener()
    pool = pool_module.Pool(opener, 1)
    pool.take(soon())
    opener.wires.clear()

    assert pool.take(soon(1.0)) is opener.wires[0]


def test_closing_closes_what_is_lent_when_it_comes_back() -> None:
    """
    And a pool that is used again opens new ones.
    """
    pool = pool_module.Pool(Opener(), 1)
    lent = pool.take(soon())
    pool.close()
    assert not lent.is_closed
    pool.give(lent)

    assert lent.is_closed
    assert pool.take(soon()) is not lent


def test_a_child_uses_no_connection_of_its_parent() -> None:
    """
    After a fork, even one that Python does not hear of, it opens its own.
    """
    opener = Opener()
    pool = pool_module.Pool(opener, 1)
    inherited = pool.take(soon())
    pool.give(inherited)
    pool._shelf.pid = os.getpid() + 1

    assert pool.take(soon()) is not inherited
    assert not inherited.is_closed  # closing TLS would say goodbye in the parent's name


def test_a_host_without_threads_opens_connections_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    uWSGI without ``enable-threads``: the call opens it, within what is left of its deadline.
    """
    monkeypatch.setitem(sys.modules, "uwsgi", types.SimpleNamespace(opt={}))
    opener = Opener()
    pool = pool_module.Pool(opener, 1)
    pool.give(pool.take(soon(5.0)))

    assert pool.take(soon()) is opener.wires[0]
    assert opener.seconds == pytest.approx(5.0, abs=1.0)
    opener.fault = ConnectionRefusedError("nobody listens")
    with pytest.raises(ConnectionRefusedError):
        pool.take(soon())


def test_a_cold_burst_of_threads_is_answered_over_few_connections(redis_server: RedisServer) -> None:
    """
    200 threads at once, before anything is connected: all are answered, exactly, and none opens more than agreed.
    """
    from tokenbudget_mw.backends.redis import RedisBackend

    backend = RedisBackend(redis_server.url, deadline=30.0, connections=8)
    replies = in_threads(200, lambda: backend.reserve(ask(check(1, 150)), 0.0))
    with redis.Redis.from_url(redis_server.url) as admin:
        clients = admin.info("clients")["connected_clients"]
    backend.close()

    assert sum(reply.admitted for reply in replies) == 150
    assert clients <= 8 + 2  # the inspection's, and this one
