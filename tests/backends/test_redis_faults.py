"""
Redis refuses, hangs, drips, forgets its scripts or restarts: no error gets out, and no call takes longer than agreed.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from stall import Stall

from tokenbudget_mw.backends import open_async_backend, open_backend
from tokenbudget_mw.errors import BackendUnavailableError
from tokenbudget_mw.testing.backends import HOUR, Blocking, ask, check, in_flight, settlement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from private_servers import RedisServer

    from tokenbudget_mw.backends.base import Backend

redis = pytest.importorskip("redis")

DEADLINE = 0.05
TOLERANCE = 0.1  # a busy machine's share; the deadline itself is 50 ms


@pytest.fixture(params=["threads", "loop"])
def opened(request: pytest.FixtureRequest) -> Iterator[Callable[..., Backend]]:
    """
    Open a Redis backend with breaker and fallback, in each colour.
    """
    backends: list[Backend] = []

    def make(url: str, **options: Any) -> Backend:
        options.setdefault("deadline", DEADLINE)
        if request.param == "threads":
            backends.append(open_backend(url, **options))
        else:
            backends.append(Blocking(open_async_backend(url, **options)))
        return backends[-1]

    yield make
    for backend in backends:
        backend.close()


def wait_until(is_so: Callable[[], bool], seconds: float = 5.0) -> float:
    """
    Wait until *is_so*; return how many seconds that took.
    """
    begin = time.monotonic()
    pause = threading.Event()
    while not is_so():
        assert time.monotonic() - begin < seconds, "it never came true"
        pause.wait(0.01)
    return time.monotonic() - begin


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """
    Return what *call* returns, and how many seconds it took, less what the machine stood still meanwhile.
    """
    with Stall() as stall:
        begin = time.monotonic()
        result = call()
        seconds = time.monotonic() - begin
    return result, seconds - stall.excuse


@contextmanager
def listener(serve: Callable[[socket.socket], None] | None) -> Iterator[str]:
    """
    Listen on a port, hand connections to *serve*; without it nothing is ever answered.
    """
    server = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            thread = threading.Thread(target=serve or (lambda held: held.recv(0)), args=(connection,), daemon=True)
            threads.append(thread)
            held.append(connection)
            thread.start()

    held: list[socket.socket] = []
    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        acceptor.join(5)
        for connection in held:
            connection.close()
        for thread in threads:
            thread.join(5)


def drip(connection: socket.socket) -> None:
    """
    Answer for ever, a byte at a time, each well within a socket's timeout.
    """
    pause = threading.Event()
    try:
        while True:
            connection.sendall(b"$")
            pause.wait(0.02)
            connection.sendall(b"1")
    except OSError:
        return


class TestPolicies:
    @pytest.mark.parametrize(("policy", "admitted"), [("allow", 10), ("deny", 0), ("local", 5)])
    def test_t16_refused_connections_follow_the_policy(
        self, opened: Callable[..., Backend], policy: str, admitted: int
    ) -> None:
        """
        With nobody listening each limit's own policy decides, and the reply says so.
        """
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        backend = opened(f"redis://127.0.0.1:{port}/0", workers=2)
        replies = [backend.reserve(ask(check(1, 10, on_error=policy)), 1000.0) for _ in range(10)]

        assert sum(reply.admitted for reply in replies) == admitted
        assert all(reply.degraded for reply in replies)

    def test_t16_one_denying_limit_refuses_the_whole_request(self, opened: Callable[..., Backend]) -> None:
        """
        A refusal by policy charges no local window either.
        """
        with listener(None) as url:
            backend = opened(url)
            for _ in range(3):
                reply = backend.reserve(ask(check(1, 2), check(1, 2, "money:60", on_error="deny")), 1000.0)
                assert not reply.admitted
            admitted = [backend.reserve(ask(check(1, 2)), 1000.0).admitted for _ in range(3)]

        assert [state.fits for state in reply.states] == [True, False]
        assert reply.states[1].retry_after == 1.0
        assert admitted == [True, True, False]

    def test_what_was_admitted_locally_is_settled_locally(self, opened: Callable[..., Backend]) -> None:
        """
        Concurrency admitted while the backend is away is freed.
        """
        with listener(None) as url:
            backend = opened(url)
            asked = ask(in_flight(1))
            reply = backend.reserve(asked, 1000.0)
            assert not backend.reserve(ask(in_flight(1)), 1000.0).admitted

            assert backend.settle(settlement(asked, reply), 1001.0)
            assert backend.reserve(ask(in_flight(1)), 1001.0).admitted


class TestTime:
    @pytest.mark.parametrize("serve", [None, drip], ids=["black hole", "dripped reply"])
    def test_t16_no_call_takes_longer_than_the_deadline(
        self, opened: Callable[..., Backend], serve: Callable[[socket.socket], None] | None
    ) -> None:
        """
        Silence and endless dribble both end at the deadline; once open, the breaker adds nothing.
        """
        with listener(serve) as url:
            backend = opened(url)
            took = [timed(lambda: backend.reserve(ask(check()), 1000.0)) for _ in range(6)]

        assert all(reply.degraded for reply, _ in took)
        assert max(seconds for _, seconds in took[:3]) < DEADLINE + TOLERANCE
        assert max(seconds for _, seconds in took[3:]) < DEADLINE

    def test_t16_a_frozen_server_is_left_alone_and_used_again_within_a_second(
        self, opened: Callable[..., Backend], redis_server: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """
        SIGSTOP under load: degraded at once, shared again soon after, one log line each way.
        """
        backend = opened(redis_server.url)
        assert not backend.reserve(ask(check(1, 100)), 0.0).degraded
        with caplog.at_level(logging.INFO, logger="tokenbudget_mw"):
            redis_server.stop()
            took = [timed(lambda: backend.reserve(ask(check(1, 100)), 0.0)) for _ in range(20)]
            redis_server.resume()
            seconds = wait_until(lambda: not backend.reserve(ask(check(1, 100)), 0.0).degraded)

        assert all(reply.degraded for reply, _ in took)
        assert max(spent for _, spent in took) < DEADLINE + TOLERANCE
        assert sum(spent for _, spent in took) < 4 * (DEADLINE + TOLERANCE)
        assert seconds < 1.0
        assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]

    def test_a_reservation_of_unknown_outcome_is_given_back(
        self, opened: Callable[..., Backend], redis_server: RedisServer
    ) -> None:
        """
        What a frozen server admitted after its caller had gone does not stay in flight until its lease ends.
        """
        backend = opened(redis_server.url)
        assert backend.peek(ask(in_flight(1)), 0.0).admitted
        redis_server.stop()
        for _ in range(2):
            assert backend.reserve(ask(in_flight(1)), 0.0).degraded
        redis_server.resume()

        wait_until(lambda: not backend.peek(ask(check()), 0.0).degraded)
        wait_until(lambda: backend.peek(ask(in_flight(1)), 0.0).admitted)


class TestMemoryOfRedis:
    def test_t16_forgotten_scripts_are_sent_again(
        self, opened: Callable[..., Backend], redis_server: RedisServer
    ) -> None:
        """
        SCRIPT FLUSH is not noticed by anybody.
        """
        backend = opened(redis_server.url, deadline=5.0)
        with redis.Redis.from_url(redis_server.url) as client:
            for expected in (9, 8, 7):
                client.script_flush()
                reply = backend.reserve(ask(check(1, 10)), 0.0)
                assert not reply.degraded
                assert reply.states[0].remaining == expected

    def test_t16_a_restart_costs_no_request_and_no_settlement(
        self, opened: Callable[..., Backend], redis_server: RedisServer
    ) -> None:
        """
        The first call finds its connection dead and tries once more; what was lost with its counter is charged in full.
        """
        backend = opened(redis_server.url, deadline=5.0)
        asked = ask(check(1, 10))
        reply = backend.reserve(asked, 0.0)
        redis_server.restart()

        assert backend.settle(settlement(asked, reply, 3), 0.0)
        after = backend.reserve(ask(check(1, 10)), 0.0)
        assert not after.degraded
        assert after.states[0].remaining == 6

    def test_a_settlement_waits_for_the_backend(
        self, opened: Callable[..., Backend], redis_server: RedisServer
    ) -> None:
        """
        Told when the backend is back; until then nothing is raised.
        """
        backend = opened(redis_server.url)
        asked = ask(check(1, 100), in_flight(5))
        reply = backend.reserve(asked, 0.0)
        redis_server.stop()
        for _ in range(3):
            assert backend.settle(settlement(asked, reply, 40, 0), 0.0)
        redis_server.resume()

        wait_until(lambda: backend.peek(ask(check(0, 100)), 0.0).states[0].remaining == 60)
        assert backend.peek(ask(in_flight(1)), 0.0).admitted

    def test_what_was_admitted_locally_counts_when_the_backend_is_back(
        self, opened: Callable[..., Backend], redis_server: RedisServer
    ) -> None:
        """
        What a request takes for good, also where Redis hears of it too late, and what a call came to.
        """
        backend = opened(redis_server.url)
        backend.reserve(ask(check(1, 100)), time.time())
        redis_server.stop()
        assert backend.reserve(ask(check(1, 100), lease=0.0), time.time()).degraded
        for _ in range(3):
            backend.reserve(ask(check(0, 100)), time.time())
        backend.reserve(ask(check(1, 100), lease=0.0), time.time())
        asked = ask(check(1, 100), in_flight(5))
        reply = backend.reserve(asked, time.time())
        backend.settle(settlement(asked, reply, 40, 1), time.time())
        redis_server.resume()

        wait_until(lambda: backend.peek(ask(check(0, 100)), time.time()).states[0].remaining == 57)
        assert backend.peek(ask(in_flight(1)), time.time()).admitted

    @pytest.mark.parametrize("ahead", ["", "leased+"])
    def test_t01_calls_count_once_whoever_decided_them(
        self, opened: Callable[..., Backend], redis_server: RedisServer, ahead: str
    ) -> None:
        """
        Under a Redis that comes and goes all the time: some calls it decides, some the process alone, of some nobody knows.
        (A frozen Redis may hear that an ask is given up before it hears the ask; that one ends with its lease.)
        """
        backend = opened(ahead + redis_server.url)
        tokens, calls = check(1, 10**6, "tokens:3600", params=HOUR), in_flight(10**6, counter="key=k2")
        backend.peek(ask(tokens, calls), time.time())
        done = threading.Event()

        def work(_: int) -> None:
            while not done.is_set():
                asked = ask(*([tokens] if ahead else [tokens, calls]), lease=3.0)
                reply = backend.reserve(asked, time.time())
                backend.settle(settlement(asked, reply, 3, *([] if ahead else [1])), time.time())
                made.append(reply.degraded)

        made: list[bool] = []
        pause = threading.Event()
        with ThreadPoolExecutor(8) as threads:
            running = threads.map(work, range(8))
            for _ in range(8):
                pause.wait(0.1)
                redis_server.stop()
                pause.wait(0.1)
                redis_server.resume()
            done.set()
            list(running)

        def is_counted() -> bool:
            reply = backend.peek(ask(tokens, calls), time.time())
            return not reply.degraded and [10**6 - state.remaining for state in reply.states] == [3 * len(made), 0]

        wait_until(is_counted, 20.0)
        assert ahead or set(made) == {True, False}

    def test_every_key_ends(self, redis_db: str) -> None:
        """
        No key stays behind: each has the time its windows and leases need.
        """
        from tokenbudget_mw.backends.redis import RedisBackend

        backend = RedisBackend(redis_db, deadline=5.0)
        asked = ask(check(1, 10), check(1, 10, counter="tenant=acme", params=(60_000_000, 60)), lease=30.0)
        backend.settle(settlement(asked, backend.reserve(asked, 0.0)), 0.0)
        backend.close()
        with redis.Redis.from_url(redis_db) as client:
            lives = {key.decode(): client.pttl(key) / 1000 for key in client.scan_iter()}

        assert lives.keys() == {"tb:{acme}:key=k1", "tb:{acme}:tenant=acme"}
        assert 61 + 30 < lives["tb:{acme}:key=k1"] <= 61 + 30 + 60
        assert 3660 + 30 < lives["tb:{acme}:tenant=acme"] <= 3660 + 30 + 60


def test_no_password_is_in_an_error() -> None:
    """
    Neither ours nor its cause's text holds what the URL holds.
    """
    with listener(None) as url:
        backend = redis_backend(url.replace("redis://", "redis://user:hunter2@"))
        with pytest.raises(BackendUnavailableError) as caught:
            backend.reserve(ask(check()), 0.0)
        backend.close()

    assert "hunter2" not in f"{caught.value} {caught.value.__cause__}"


def redis_backend(url: str) -> Any:
    from tokenbudget_mw.backends.redis import RedisBackend

    return RedisBackend(url, deadline=DEADLINE)


def test_t09_cancelled_callers_hold_nothing(redis_db: str) -> None:
    """
    Callers that are cancelled anywhere on their way leave no call in flight.
    """
    from tokenbudget_mw.backends.redis import AsyncRedisBackend

    async def one(backend: AsyncRedisBackend) -> None:
        asked = ask(in_flight(10**6))
        reply = await backend.reserve(asked, 0.0)
        await backend.settle(settlement(asked, reply), 0.0)

    async def main() -> int:
        backend = AsyncRedisBackend(redis_db, deadline=5.0)
        loop = asyncio.get_running_loop()
        for batch in range(20):
            tasks = [loop.create_task(one(backend)) for _ in range(25)]
            for _turn in range(batch % 7 * 3):
                await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results)
        held = await backend.peek(ask(in_flight(10**6)), 0.0)
        await backend.aclose()
        return 10**6 - held.states[0].remaining

    assert asyncio.run(main()) == 0
