"""
Admission on Redis, one caller: wall time, call by call in turns with ``INCR`` and with the peers, p50 of each.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import redis
from limits import parse_many
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from pyrate_limiter import Limiter, Rate, RedisBucket

from benchmarks.admission import HUGE, LIMITS, checks, new_ids, settlement_of
from benchmarks.harness import Result, Scale
from benchmarks.services import redis_url
from tokenbudget_mw.backends.redis import RedisBackend
from tokenbudget_mw.values import Ask

__all__ = ["admit_redis_sync"]


def admit_redis_sync(scale: Scale) -> Result:
    """
    Three limits in one round trip, with the figures that headers need, against one ``INCR``.
    """
    with redis_url() as url:
        contenders = {"INCR": _incr(url), "ours": _ours(url), "limits": _limits(url), "pyrate": _pyrate(url)}
        seen: dict[str, list[float]] = {name: [] for name in contenders}
        for number in range(scale.calls(3_000) + 50):
            for name, call in contenders.items():
                spent = call()
                if number >= 50:
                    seen[name].append(spent)
    p50 = {name: median(times) for name, times in seen.items()}
    return Result(
        value=p50["ours"],
        unit="us wall, p50",
        baseline="redis-py INCR",
        baseline_value=p50["INCR"],
        goal="<= 1.3x of INCR",
        met=p50["ours"] <= 1.3 * p50["INCR"],
        details={f"{name}_p50_us": value for name, value in p50.items()}
        | {f"{name}_p99_us": sorted(times)[len(times) * 99 // 100] for name, times in seen.items()},
    )


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e6


def _incr(url: str) -> Callable[[], float]:
    client = redis.Redis.from_url(url)
    return lambda: _timed(lambda: client.incr("tokenbudget-benchmark:incr"))


def _ours(url: str) -> Callable[[], float]:
    backend, asked = RedisBackend(url, deadline=5.0), checks(3, f"key=benchmark-{time.time_ns()}")

    def call() -> float:
        ask = Ask(new_ids(1)[0], "tenant:benchmark", asked)
        start = time.perf_counter()
        reply = backend.reserve(ask, time.time())
        spent = (time.perf_counter() - start) * 1e6
        assert reply.admitted
        assert not reply.degraded
        backend.settle(settlement_of(ask, reply), time.time())
        return spent

    return call


def _limits(url: str) -> Callable[[], float]:
    limiter = SlidingWindowCounterRateLimiter(RedisStorage(url))
    items = parse_many(";".join(f"{HUGE} per {seconds} seconds" for seconds, _ in LIMITS))

    def admit() -> None:
        for item in items:
            limiter.hit(item, "benchmark", "k1")

    return lambda: _timed(admit)


def _pyrate(url: str) -> Callable[[], float]:
    rates = [Rate(HUGE + at, seconds * 1_000) for at, (seconds, _) in enumerate(LIMITS)]
    bucket = RedisBucket.init(rates, redis.Redis.from_url(url), "tokenbudget-benchmark:pyrate")
    limiter = Limiter(bucket)
    return lambda: _timed(lambda: limiter.try_acquire("k1", blocking=False))
