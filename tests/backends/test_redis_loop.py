"""
Many callers of one event loop: one connection, and nobody else's delay is Redis's fault.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from tokenbudget_mw.errors import BackendUnavailableError
from tokenbudget_mw.testing.backends import ask, check

if TYPE_CHECKING:
    from private_servers import RedisServer

redis = pytest.importorskip("redis")
backend_module = pytest.importorskip("tokenbudget_mw.backends.redis")
wire_module = pytest.importorskip("tokenbudget_mw.backends.redis.wire")


def test_a_cold_burst_opens_one_connection(redis_server: RedisServer) -> None:
    """
    200 callers at once, before anything is connected, are all answered, exactly.
    """

    async def main() -> tuple[list[bool], int]:
        backend = backend_module.AsyncRedisBackend(redis_server.url, deadline=5.0)
        watch = redis.asyncio.Redis.from_url(redis_server.url)
        before = (await watch.info("stats"))["total_connections_received"]
        replies = await asyncio.gather(*[backend.reserve(ask(check(1, 150)), 0.0) for _ in range(200)])
        after = (await watch.info("stats"))["total_connections_received"]
        await backend.aclose()
        await watch.aclose()
        return [reply.admitted for reply in replies], after - before

    admitted, connections = asyncio.run(main())

    assert sum(admitted) == 150
    assert connections == 1


def test_a_loop_that_stood_still_is_not_blamed_on_redis(redis_db: str) -> None:
    """
    A handler that blocks the loop for longer than the deadline costs nobody the shared limit.
    """

    async def main() -> bool:
        backend = backend_module.AsyncRedisBackend(redis_db, deadline=0.05)
        await backend.reserve(ask(check()), 0.0)
        waiting = asyncio.ensure_future(backend.reserve(ask(check()), 0.0))
        for _ in range(3):
            await asyncio.sleep(0)
        ends = time.monotonic() + 0.2
        while time.monotonic() < ends:
            pass
        reply = await waiting
        await backend.aclose()
        return bool(reply.admitted)

    assert asyncio.run(main())


def test_each_loop_has_its_own_connection(redis_db: str) -> None:
    """
    One backend object serves loop after loop, and forgets those that are closed.
    """
    backend = backend_module.AsyncRedisBackend(redis_db, deadline=5.0)

    async def main() -> int:
        remaining = (await backend.reserve(ask(check(1, 10)), 0.0)).states[0].remaining
        await backend.aclose()
        return int(remaining)

    assert [asyncio.run(main()) for _ in range(3)] == [9, 8, 7]
    assert not backend._lanes


def test_one_bad_call_of_a_batch_harms_no_other(redis_db: str) -> None:
    """
    A counter that cannot be read fails its own caller only.
    """

    async def main() -> list[object]:
        plain = redis.asyncio.Redis.from_url(redis_db)
        await plain.hset("tb:{acme}:key=bad", "b", "no bar")
        await plain.aclose()
        backend = backend_module.AsyncRedisBackend(redis_db, deadline=5.0)
        asks = [ask(check(counter=f"key={name}")) for name in ("a", "bad", "b")]
        answers = await asyncio.gather(*[backend.reserve(one, 0.0) for one in asks], return_exceptions=True)
        await backend.aclose()
        return answers

    good, bad, also_good = asyncio.run(main())

    assert isinstance(bad, BackendUnavailableError)
    assert "ResponseError" in str(bad)
    assert bad.__cause__ is not None
    assert good.admitted
    assert also_good.admitted


def test_closing_takes_its_time_with_a_connection_that_does_not_answer(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    What did not answer is let go after a while, which may be while everything is being closed.
    """
    plain = wire_module.Wire.aclose

    async def slow(wire: Any) -> None:
        await asyncio.sleep(0.5)
        await plain(wire)

    async def main() -> None:
        backend = backend_module.AsyncRedisBackend(redis_server.url, deadline=0.3)
        await backend.reserve(ask(check()), 0.0)
        redis_server.stop()
        with pytest.raises(BackendUnavailableError):
            await backend.reserve(ask(check()), 0.0)
        monkeypatch.setattr(wire_module.Wire, "aclose", slow)
        await backend.aclose()

    asyncio.run(main())
