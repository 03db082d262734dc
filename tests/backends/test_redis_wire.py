"""
The connection of an event loop: replies in order however they arrive, a lost connection found again, moods of the server.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tokenbudget_mw.backends import open_async_backend, open_backend
from tokenbudget_mw.errors import BackendUnavailableError
from tokenbudget_mw.testing.asks import Blocking, ask, check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from private_servers import RedisServer

    from tokenbudget_mw.backends.base import Backend

redis = pytest.importorskip("redis")
backend_module = pytest.importorskip("tokenbudget_mw.backends.redis")
wire_module = pytest.importorskip("tokenbudget_mw.backends.redis.wire")

REPLIES = b"+OK\r\n:42\r\n*2\r\n:1\r\n$3\r\nabc\r\n-NOSCRIPT no\r\n"


@pytest.mark.parametrize("size", [1, 2, 3, 7, len(REPLIES)])
def test_replies_arrive_in_order_however_they_are_cut(size: int) -> None:
    """
    A reply is handed over when it is whole, to the one that waits longest; an error is a value.
    """

    async def main() -> list[Any]:
        wire, seen = wire_module.Wire(), list[Any]()
        wire.send([], [seen.append] * 4)
        for at in range(0, len(REPLIES), size):
            wire.data_received(REPLIES[at : at + size])
        return seen

    ok, number, several, error = asyncio.run(main())

    assert (ok, number, several) == (b"OK", 42, [1, b"abc"])
    assert isinstance(error, redis.exceptions.ResponseError)
    assert str(error) == "NOSCRIPT no"


def test_whoever_waits_on_a_lost_connection_is_told() -> None:
    """
    Each once, with an error of the driver.
    """

    async def main() -> tuple[list[Any], bool, int]:
        wire, seen = wire_module.Wire(), list[Any]()
        wire.send([], [seen.append] * 2)
        wire.connection_lost(OSError("gone"))
        return seen, wire.is_lost, len(wire)

    seen, is_lost, waiting = asyncio.run(main())

    assert [type(error) for error in seen] == [redis.exceptions.ConnectionError] * 2
    assert (is_lost, waiting) == (True, 0)


@pytest.fixture(params=["threads", "loop"])
def opened(request: pytest.FixtureRequest) -> Iterator[Callable[..., Backend]]:
    """
    Open a Redis backend with breaker and fallback, in each colour.
    """
    backends: list[Backend] = []

    def make(url: str, **options: Any) -> Backend:
        is_threads = request.param == "threads"
        backends.append(open_backend(url, **options) if is_threads else Blocking(open_async_backend(url, **options)))
        return backends[-1]

    yield make
    for backend in backends:
        backend.close()


def test_a_connection_that_was_closed_meanwhile_costs_no_request(
    opened: Callable[..., Backend], redis_server: RedisServer
) -> None:
    """
    Idle connections are closed by servers, balancers and admins: the next call opens another.
    """
    backend = opened(redis_server.url, deadline=5.0)
    with redis.Redis.from_url(redis_server.url) as client:
        for remaining in (9, 8, 7):
            reply = backend.reserve(ask(check(1, 10)), 0.0)
            client.client_kill_filter(_type="normal", skipme=True)
            assert (reply.states[0].remaining, reply.degraded) == (remaining, False)


def test_a_url_names_user_password_and_database(opened: Callable[..., Backend], redis_server: RedisServer) -> None:
    """
    Counters stand where the URL says.
    """
    with redis.Redis.from_url(redis_server.url) as admin:
        admin.acl_setuser("app", enabled=True, passwords=["+s3cret"], keys="tb:*", commands=["+@all"])
    backend = opened(redis_server.url.replace("redis://", "redis://app:s3cret@").replace("/0", "/7"), deadline=5.0)

    assert not backend.reserve(ask(check()), 0.0).degraded
    with redis.Redis.from_url(redis_server.url.replace("/0", "/7")) as seventh:
        assert seventh.keys() == [b"tb:{acme}:key=k1"]


def test_t16_a_changed_password_follows_the_policy(opened: Callable[..., Backend], redis_server: RedisServer) -> None:
    """
    A new connection is refused: the reply is degraded, no error gets out.
    """
    with redis.Redis.from_url(redis_server.url) as admin:
        admin.config_set("requirepass", "new")
    replies = [opened(redis_server.url).reserve(ask(check(1, 10, on_error=on)), 0.0) for on in ("allow", "deny")]

    assert [reply.admitted for reply in replies] == [True, False]
    assert all(reply.degraded for reply in replies)


def test_t16_a_wrong_password_is_in_no_error(redis_server: RedisServer) -> None:
    """
    The error names what happened and not what was tried.
    """

    async def main() -> BaseException:
        backend = backend_module.AsyncRedisBackend(redis_server.url.replace("redis://", "redis://:hunter2@"))
        with pytest.raises(BackendUnavailableError) as caught:
            await backend.reserve(ask(check()), 0.0)
        await backend.aclose()
        return caught.value

    error = asyncio.run(main())

    assert "hunter2" not in f"{error} {error.__cause__}"


@pytest.mark.parametrize(
    ("break_it", "mend_it"),
    [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
    ],
    ids=["out of memory", "read-only"],
)
def test_t16_a_server_that_takes_no_writes_is_away(
    opened: Callable[..., Backend], redis_server: RedisServer, break_it: str, mend_it: str
) -> None:
    """
    Out of memory, or a replica after a failover: the policy holds, and shared limits are back within a second.
    """
    backend = opened(redis_server.url, deadline=0.5)
    assert not backend.reserve(ask(check(1, 100)), 0.0).degraded
    with redis.Redis.from_url(redis_server.url) as admin:
        admin.execute_command(*break_it.split())
        replies = [backend.reserve(ask(check(1, 100)), 0.0) for _ in range(5)]
        admin.execute_command(*mend_it.split())

    assert all(reply.degraded and reply.admitted for reply in replies)
    assert wait_until_shared(backend) < 1.0


def wait_until_shared(backend: Backend) -> float:
    """
    Return how many seconds it took until Redis answers again.
    """
    import time

    begin, pause = time.monotonic(), threading.Event()
    while backend.reserve(ask(check(1, 100)), 0.0).degraded:
        assert time.monotonic() - begin < 5, "it never came back"
        pause.wait(0.01)
    return time.monotonic() - begin


def test_babble_is_an_unavailable_backend() -> None:
    """
    A port that speaks something else is no reason to wait for ever.
    """

    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(babble, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        backend = backend_module.AsyncRedisBackend(f"redis://127.0.0.1:{port}/0")
        with pytest.raises(BackendUnavailableError):
            await backend.reserve(ask(check()), 0.0)
        await backend.aclose()
        server.close()
        await server.wait_closed()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("url", "verify"),
    [
        ("redis://localhost", None),
        ("rediss://user:pw@localhost:6380/1", ssl.CERT_REQUIRED),
        ("rediss://localhost?ssl_cert_reqs=none", ssl.CERT_NONE),
    ],
)
def test_a_loop_speaks_tls_as_the_url_says(url: str, verify: ssl.VerifyMode | None) -> None:
    """
    Certificates are checked unless the URL says otherwise; all other options stay out of it.
    """
    from tokenbudget_mw.backends.redis.url import read_url

    context = read_url(url).tls

    assert verify is None if context is None else context.verify_mode == verify


def test_a_silent_connection_is_kept_alive(redis_db: str) -> None:
    """
    In both colours the system asks for the other side, and small writes do not wait for one another.
    """
    from tokenbudget_mw.backends.redis import client, url

    place = url.read_url(redis_db).places[0]

    async def of_loop() -> list[int]:
        wire = await wire_module.connect(place, None, [])
        found = options(wire._transport.get_extra_info("socket"))
        await wire.aclose()
        return found

    def of_thread() -> list[int]:
        wire = client.connect(place, None, [], 5.0)
        found = options(wire._sock)
        wire.close()
        return found

    def options(sock: Any) -> list[int]:
        keys = ((socket.SOL_SOCKET, socket.SO_KEEPALIVE), (socket.IPPROTO_TCP, socket.TCP_NODELAY))
        return [sock.getsockopt(*key) for key in keys]

    assert asyncio.run(of_loop()) == of_thread() == [1, 1]
