"""
The script alone: what a call costs Redis, with nothing of Python in it.

A Redis of its own is asked in pipelines of 32 calls that were packed before; its own CPU time is divided by the calls.
Contenders take turns, and the best turn of each counts, because neighbours on the machine only ever add.
"""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Sequence
from contextlib import closing
from statistics import median
from typing import Any

import hiredis
import redis
from limits.storage import RedisStorage
from msgspec.structs import replace

from benchmarks.admission import HUGE, settlement_of
from benchmarks.harness import Result, Scale
from benchmarks.services import private_redis
from tokenbudget_mw.backends.redis import RedisBackend
from tokenbudget_mw.backends.redis.script import Call, Script, parse_reply, reserve_call, settle_call
from tokenbudget_mw.values import Ask, Check

__all__ = ["admit_redis_script", "tokens_cost_redis"]

DEPTH = 32
KINDS = (
    ("requests", 60, 1), ("requests", 3_600, 1), ("tokens", 86_400, 500), ("tokens", 60, 500), ("tokens", 3_600, 500),
    ("money", 3_600, 77), ("money", 86_400, 77), ("requests", 86_400, 1), ("input_tokens", 60, 300), ("output_tokens", 60, 200),
)  # fmt: skip
"""Unit, seconds and cost of limits; the first three are those of the other benchmarks."""

START = 1_800_000_000
MINUTE = (1_000_000, 60)
TOKENS, COST = 100_000, 2_000


class _Server:
    """
    A connection that only sends packed calls and takes the replies.

    Attributes:
        seen: CPU of Redis a call, in microseconds, of each turn of each contender.
    """

    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(url)
        options = self.client.connection_pool.connection_kwargs
        self._socket = socket.create_connection((options["host"], options["port"]))
        self._reader = hiredis.Reader()
        self._sha = self.client.script_load(Script().text)
        self.nothing = hiredis.pack_command(("EVALSHA", self.client.script_load("return 1"), 1, "benchmark", "x"))
        self.seen: dict[str, list[float]] = {}

    def close(self) -> None:
        self._socket.close()
        self.client.close()

    def frames(self, calls: Sequence[Call]) -> list[bytes]:
        return [hiredis.pack_command(("EVALSHA", self._sha, *call.parts())) for call in calls]

    def run(self, frames: Sequence[bytes]) -> list[Any]:
        replies: list[Any] = []
        for at in range(0, len(frames), DEPTH):
            several = frames[at : at + DEPTH]
            self._socket.sendall(b"".join(several))
            while len(replies) < at + len(several):
                reply = self._reader.gets()
                if reply is False:
                    self._reader.feed(self._socket.recv(65_536))
                    continue
                if isinstance(reply, Exception):
                    raise reply
                replies.append(reply)
        return replies

    def measured(self, name: str, frames: Sequence[bytes], *, calls: int = 0) -> list[Any]:
        before = self._cpu_us()
        replies = self.run(frames)
        self.seen.setdefault(name, []).append((self._cpu_us() - before) / (calls or len(frames)))
        return replies

    def best(self) -> dict[str, float]:
        return {name: min(turns) for name, turns in self.seen.items()}

    def _cpu_us(self) -> float:
        info: Any = self.client.info("cpu")
        return (info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"]) * 1e6


def admit_redis_script(scale: Scale) -> Result:
    """
    Three limits in the strict log, all or nothing; also 1 and 10, settlements, asks that open new slots, and refusals.
    """
    calls = scale.calls(2_000)
    with private_redis() as url, closing(_Server(url)) as server:
        peer = _limits(url, calls)
        for _ in range(scale.rounds + 1):
            server.measured("return 1", [server.nothing] * calls)
            server.measured("limits_3", peer, calls=calls)
            for count in (1, 3, 10):
                _ours(server, count, calls)
    best = server.best()
    value = best["reserve_3"]
    return Result(
        value=value,
        unit="us CPU of Redis",
        baseline="return 1",
        baseline_value=best.pop("return 1"),
        goal=">= 80k scripts/s, <= 12 us",
        met=value <= 12 and 1e6 / value >= 80_000,
        details={"scripts_per_second": 1e6 / value, **best},
    )


def _ours(server: _Server, count: int, calls: int) -> None:
    hot, rare = _checks(count), _checks(count)
    asks = [Ask(uuid.uuid4().hex, "tenant:benchmark", hot) for _ in range(calls + 1)]
    server.run(server.frames([reserve_call(asks[0])]))
    replies = server.measured(f"reserve_{count}", server.frames([reserve_call(ask) for ask in asks[1:]]))
    settlements = [settlement_of(ask, parse_reply(reply)) for ask, reply in zip(asks[1:], replies, strict=True)]
    server.measured(f"settle_{count}", server.frames([settle_call(one) for one in settlements]))
    moments = [(START + 4 * number) * 1_000_000 for number in range(calls)]
    asks = [Ask(uuid.uuid4().hex, "tenant:benchmark", rare, lease=0.0) for _ in moments]
    frames = server.frames([reserve_call(ask, moment) for ask, moment in zip(asks, moments, strict=True)])
    server.measured(f"new_slot_{count}", frames)
    spent = [replace(check, cap=check.cost) for check in _checks(count)]
    asks = [Ask(uuid.uuid4().hex, "tenant:benchmark", tuple(spent)) for _ in range(calls + 1)]
    server.measured(f"refuse_{count}", server.frames([reserve_call(ask) for ask in asks])[1:])


def _checks(count: int) -> tuple[Check, ...]:
    counter = f"key={uuid.uuid4().hex}"
    return tuple(
        Check(counter, f"{unit}:{seconds}", "strict_log", (seconds * 1_000_000 // 60, 60), cost, HUGE)
        for unit, seconds, cost in KINDS[:count]
    )


def _limits(url: str, calls: int) -> list[bytes]:
    script = RedisStorage(url).lua_acquire_sliding_window
    packed = []
    for _, seconds, cost in KINDS[:3]:
        key = f"{{LIMITS:LIMITER/benchmark/k1/{HUGE}/{seconds}/second}}"
        packed.append(hiredis.pack_command(("EVALSHA", _loaded(script), 2, f"{key}/-1", key, HUGE, seconds, cost)))
    return packed * calls


def _loaded(script: Any) -> str:
    sha: str = script.registered_client.script_load(script.script)
    return sha


def tokens_cost_redis(scale: Scale) -> Result:
    """
    2,000 tokens a call below 100,000 a minute, spent as fast as they come back: one caller's call, and the key it makes.
    """
    calls = scale.calls(2_000)
    with private_redis() as url, closing(_Server(url)) as server, closing(RedisBackend(url, clock="caller")) as backend:
        ours, incr, peer, size, peer_size = list[float](), list[float](), list[float](), 0, 0
        check = Check("key=k1", "tokens:60", "strict_log", MINUTE, COST, TOKENS)
        for number in range(calls):
            ask, now = Ask(uuid.uuid4().hex, "tenant:benchmark", (check,)), START + 1.22 * number
            start = time.perf_counter()
            reply = backend.reserve(ask, now)
            ours.append((time.perf_counter() - start) * 1e6)
            assert reply.admitted
            size = max(size, _size(server, "tb:{tenant:benchmark}:key=k1"))
            backend.settle(settlement_of(ask, reply), now)
            incr.append(_incr(server))
            if number % 20 == 0:
                spent, peer_size = _limits_moving(url, server, number)
                peer.append(spent)
    return Result(
        value=median(ours),
        unit="us wall, p50",
        baseline="limits, moving window",
        baseline_value=median(peer),
        goal="<= 60 us, <= 1 KB a key",
        met=median(ours) <= 60 and size <= 1_024,
        details={
            "INCR": median(incr),
            "bytes": size,
            "limits_bytes": peer_size,
            "p99_us": sorted(ours)[len(ours) * 99 // 100],
        },
    )


def _incr(server: _Server) -> float:
    start = time.perf_counter()
    server.client.incr("benchmark:incr")
    return (time.perf_counter() - start) * 1e6


def _limits_moving(url: str, server: _Server, number: int) -> tuple[float, int]:
    storage, key = RedisStorage(url), f"benchmark-{number}"
    storage.acquire_entry(key, TOKENS, 60, COST)
    times = []
    for _ in range(TOKENS // COST - 1):
        start = time.perf_counter()
        storage.acquire_entry(key, TOKENS, 60, COST)
        times.append((time.perf_counter() - start) * 1e6)
    size = _size(server, storage.prefixed_key(key))
    storage.clear(key)
    return median(times), size


def _size(server: _Server, key: str) -> int:
    size: Any = server.client.memory_usage(key, samples=0)
    return int(size)
