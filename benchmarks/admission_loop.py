"""
Admission on Redis from one event loop, and what counters take in memory.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from statistics import median

import redis.asyncio
from limits import parse_many
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from benchmarks.admission import HUGE, LIMITS, checks, new_ids, settlement_of
from benchmarks.harness import Result, Scale
from benchmarks.services import redis_url
from tokenbudget_mw.backends.memory import MemoryBackend
from tokenbudget_mw.backends.redis import AsyncRedisBackend
from tokenbudget_mw.values import Ask

__all__ = ["admit_memory_bytes", "admit_redis_async"]

IN_FLIGHT = 100

Step = Callable[[], Awaitable[object]]


def admit_redis_async(scale: Scale) -> Result:
    """
    Exact checks of three limits a second, 100 in flight on one loop, against redis-py's ``INCR`` and `limits`.
    """
    with redis_url() as url:
        seen = asyncio.run(_rates(url, scale))
    ours, peer, incr = (median(seen[name]) for name in ("ours", "limits", "INCR"))
    return Result(
        value=ours,
        unit="checks/s wall",
        baseline="limits, sliding window counter",
        baseline_value=peer,
        goal=">= 50k/s and >= 10x the best peer",
        met=ours >= 50_000 and ours >= 10 * peer,
        details={"INCR": incr, "of_INCR": ours / incr},
    )


async def _rates(url: str, scale: Scale) -> dict[str, list[float]]:
    client = redis.asyncio.Redis.from_url(url)
    backend = AsyncRedisBackend(url, deadline=5.0)
    storage = RedisStorage(f"async+{url}", implementation="redispy")
    calls = scale.calls(5_000)
    seen: dict[str, list[float]] = {"INCR": [], "ours": [], "limits": []}
    for number in range(scale.rounds + 1):
        steps = {"INCR": lambda: client.incr("tokenbudget-benchmark:incr"), "limits": _limits(storage)}
        steps["ours"] = _ours(backend, calls + IN_FLIGHT)
        for name, step in steps.items():
            rate = await _rate(step, calls)
            if number:
                seen[name].append(rate)
    await backend.aclose()
    await client.aclose()
    await storage.bridge.storage.aclose()
    return seen


async def _rate(step: Step, calls: int) -> float:
    left = iter(range(calls))

    async def caller() -> None:
        for _ in left:
            await step()

    start = time.perf_counter()
    await asyncio.gather(*[caller() for _ in range(IN_FLIGHT)])
    return calls / (time.perf_counter() - start)


def _ours(backend: AsyncRedisBackend, calls: int) -> Step:
    asked, ids = checks(3, f"key=benchmark-{time.time_ns()}"), iter(new_ids(calls))

    async def check() -> None:
        reply = await backend.reserve(Ask(next(ids), "tenant:benchmark", asked), time.time())
        assert reply.admitted

    return check


def _limits(storage: RedisStorage) -> Step:
    limiter = SlidingWindowCounterRateLimiter(storage)
    items = parse_many(";".join(f"{HUGE} per {seconds} seconds" for seconds, _ in LIMITS))

    async def check() -> None:
        for item in items:
            await limiter.hit(item, "benchmark", "k1")

    return check


def admit_memory_bytes(scale: Scale) -> Result:
    """
    Bytes a key with three limits, its name included; baseline: the one of `limits` with fixed windows, three keys a key.
    """
    from limits.storage import MemoryStorage
    from limits.strategies import FixedWindowRateLimiter

    keys = scale.calls(100_000)
    threads = threading.active_count()
    backend = MemoryBackend(max_counters=2 * keys)
    items = parse_many(";".join(f"{HUGE} per {seconds} seconds" for seconds, _ in LIMITS))
    limiter = FixedWindowRateLimiter(MemoryStorage())

    def ours(key: int) -> None:
        ask = Ask(f"{key:032x}", "tenant:acme", checks(3, f"key=k{key}"))
        backend.settle(settlement_of(ask, backend.reserve(ask, time.time())), time.time())

    value = _bytes(ours, keys)
    more = threading.active_count() - threads
    peer = _bytes(lambda key: [limiter.hit(item, "acme", f"k{key}") for item in items], keys)
    return Result(
        value=value,
        unit="bytes a key",
        baseline="limits, fixed windows",
        baseline_value=peer,
        goal="<= 600 B, no thread",
        met=value <= 600 and more == 0,
        details={"keys": keys},
    )


def _bytes(touch: Callable[[int], object], keys: int) -> float:
    gc.collect()
    tracemalloc.start()
    for key in range(keys):
        touch(key)
    gc.collect()
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return used / keys
