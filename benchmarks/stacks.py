"""
Whole stacks: a small app served for real, bare, with our middleware, and with the framework's usual limiter.

The goals are about limits alone, which is what the peers do; the variant ``books`` writes a usage row for each request.

A figure is the share of the bare app's requests a second that is left, taken from the CPU time of the server's process: a
worker that is busy serves one request per so much CPU, whatever else the machine does. uvicorn serves ASGI (connections
kept alive), gunicorn's sync worker WSGI (one connection a request); 16 connections at a time, 1,000 keys.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from itertools import count
from statistics import median
from typing import Self

from benchmarks.harness import Result, Scale, UnavailableError
from benchmarks.servers import CPU_PATH
from benchmarks.services import free_port, redis_url, wait_for
from benchmarks.stack_apps import ASGI, BEST_PEER, OURS, REDIS_VARIABLE

__all__ = ["stack_django", "stack_fastapi", "stack_flask", "stack_starlette"]

NEEDED = {
    "starlette": ("uvicorn", "starlette", "limits"),
    "fastapi": ("uvicorn", "fastapi", "fastapi_limiter"),
    "flask": ("gunicorn", "flask", "flask_limiter"),
    "django": ("gunicorn", "django", "django_ratelimit"),
}
"""What a stack imports."""

CONNECTIONS = 16
KEYS = 1_000


def stack_starlette(scale: Scale) -> Result:
    """
    Starlette.
    """
    return _stack("starlette", scale, memory=0.90, redis=0.60)


def stack_fastapi(scale: Scale) -> Result:
    """
    FastAPI.
    """
    return _stack("fastapi", scale, memory=0.85, redis=0.65)


def stack_flask(scale: Scale) -> Result:
    """
    Flask.
    """
    return _stack("flask", scale, memory=0.85, redis=0.55)


def stack_django(scale: Scale) -> Result:
    """
    Django.
    """
    return _stack("django", scale, memory=0.85, redis=0.55)


def _stack(framework: str, scale: Scale, *, memory: float, redis: float) -> Result:
    for module in NEEDED[framework]:
        import_module(module)  # said here rather than by a server that does not start
    requests = scale.calls(4_000 if framework in ASGI else 1_500)
    with ExitStack() as stack:
        has_redis = _enter_redis(stack)
        variants = ["bare", "ours", "books", "peer", *(["redis"] if has_redis else [])]
        ports = {variant: stack.enter_context(_served(framework, variant)) for variant in variants}
        cpu = asyncio.run(_measure(ports, scale.rounds, requests))
    share = {variant: cpu["bare"] / spent for variant, spent in cpu.items()}
    reached = share["ours"] >= memory and share.get("redis", redis) >= redis
    return Result(
        value=share["ours"],
        unit="of the bare app's requests/s",
        baseline=f"{BEST_PEER[framework]} (memory)",
        baseline_value=share["peer"],
        goal=f">= {memory:.2f} (Redis >= {redis:.2f})",
        met=reached,
        details={f"{variant}_us_a_request": spent for variant, spent in cpu.items()}
        | {f"share_{variant}": share[variant] for variant in OURS if variant in share},
    )


def _enter_redis(stack: ExitStack) -> bool:
    try:
        os.environ[REDIS_VARIABLE] = stack.enter_context(redis_url())
    except UnavailableError:
        return False
    stack.callback(os.environ.pop, REDIS_VARIABLE, None)
    return True


@contextmanager
def _served(framework: str, variant: str) -> Iterator[int]:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.servers", framework, variant, str(port)]
    )
    try:
        wait_for(port, process)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# -- the client -------------------------------------------------------------------------------------------------------


async def _measure(ports: dict[str, int], rounds: int, requests: int) -> dict[str, float]:
    seen: dict[str, list[float]] = {variant: [] for variant in ports}
    for port in ports.values():
        await _load(port, max(CONNECTIONS, requests // 4))
    for _ in range(rounds):
        for variant, port in ports.items():
            before = await _cpu(port)
            await _load(port, requests)
            seen[variant].append((await _cpu(port) - before) * 1e6 / requests)
    return {variant: median(values) for variant, values in seen.items()}


async def _load(port: int, requests: int) -> None:
    numbers = count()
    await asyncio.gather(*[_connection(port, numbers, requests) for _ in range(CONNECTIONS)])


async def _connection(port: int, numbers: Iterator[int], requests: int) -> None:
    async with _Client(port) as client:
        while (number := next(numbers)) < requests:
            await client.get("/hello", f"key-{number % KEYS}")


async def _cpu(port: int) -> float:
    async with _Client(port) as client:
        return float(await client.get(CPU_PATH, "none"))


class _Client:
    """
    The least of an HTTP/1.1 client: one connection, kept while the server keeps it.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._close()

    async def get(self, path: str, key: str) -> bytes:
        """
        Return the body of a response.

        Raises:
            AssertionError: Its status is not 200.
        """
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nx-key: {key}\r\n\r\n".encode())
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        body = await self._reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0]))
        assert b" 200 " in head[:16], head
        if b"connection: close" in head:
            self._close()
        return body

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
