"""
The demonstration's clients: threads that send chats over real sockets, unary and streamed, and sometimes hang up.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from tokenbudget_mw.cli.demonstration.app import CHAT, MESSAGES

__all__ = ["Job", "Traffic", "jobs_of", "measure"]

THREADS = 8
TIMEOUT = 30.0
"""Seconds that a client waits for an answer."""

HANG_UP_AFTER = 256
"""Bytes of a stream after which a client that hangs up does so."""


@dataclass(frozen=True, slots=True)
class Job:
    """
    One request to be sent.

    Attributes:
        key: API key.

        path: Where to: OpenAI's or Anthropic's format.

        is_stream: Whether it asks for a stream.

        hangs_up: Whether the client goes away in the middle of it.
    """

    key: str
    path: str = CHAT
    is_stream: bool = False
    hangs_up: bool = False

    @property
    def body(self) -> bytes:
        """
        Return the request's body.
        """
        prompt = "Say in a few words how a budget of tokens is kept exactly."
        fields: dict[str, Any] = {
            "model": "gpt-4o" if self.path == CHAT else "claude-sonnet-4-5",
            "max_tokens": 40,
            "stream": self.is_stream,
            "messages": [{"role": "user", "content": prompt}],
        }
        if self.is_stream and self.path == CHAT:
            fields["stream_options"] = {"include_usage": True}
        return json.dumps(fields).encode()


def jobs_of(keys: Sequence[str], count: int) -> list[Job]:
    """
    Return *count* jobs that use the keys in turn, both formats, unary and streamed; every tenth client hangs up.
    """
    return [
        Job(
            key=keys[at % len(keys)],
            path=MESSAGES if at // len(keys) % 2 else CHAT,
            is_stream=at // (2 * len(keys)) % 2 == 1 or at % 10 == 9,
            hangs_up=at % 10 == 9,
        )
        for at in range(count)
    ]


class Traffic:
    """
    Sends jobs to a server.

    Args:
        port: Where it listens on loopback.

        on_done: Called after each job, by one thread at a time.

    Attributes:
        sent: Jobs done.

        admitted: Those that ran.

        refused: Limit -> jobs that it refused.

        hung_up: Those that the client left.

        other: HTTP status -> jobs that ended so, which should not be.
    """

    def __init__(self, port: int, on_done: Callable[[Traffic], None]) -> None:
        self.sent = 0
        self.admitted = 0
        self.hung_up = 0
        self.refused: Counter[str] = Counter()
        self.other: Counter[int] = Counter()
        self._port = port
        self._on_done = on_done
        self._lock = threading.Lock()

    def run(self, jobs: Sequence[Job]) -> None:
        """
        Send all *jobs*, several at a time.
        """
        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(self._do, jobs):
                pass

    def _do(self, job: Job) -> None:
        status, body = _send(self._port, job)
        with self._lock:
            self.sent += 1
            self.hung_up += job.hangs_up and status == HTTPStatus.OK
            if status == HTTPStatus.OK:
                self.admitted += 1
            elif status == HTTPStatus.TOO_MANY_REQUESTS:
                self.refused.update(json.loads(body)["violated-policies"])
            else:
                self.other[status] += 1
            self._on_done(self)


def _send(port: int, job: Job) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        connection.request("POST", job.path, job.body, _headers(job.key))
        response = connection.getresponse()
        is_left = job.hangs_up and response.status == HTTPStatus.OK
        return response.status, response.read(HANG_UP_AFTER) if is_left else response.read()
    finally:
        connection.close()


def _headers(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}


def measure(metered: int, bare: int, key: str, rounds: int) -> tuple[list[int], list[int]]:
    """
    Send the same unary chat to both ports in turn, *rounds* times, one client alone; return the times in nanoseconds.
    """
    job = Job(key)
    connections = [http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT) for port in (metered, bare)]
    times: tuple[list[int], list[int]] = ([], [])
    try:
        for _ in range(rounds):
            for into, connection in zip(times, connections, strict=True):
                started = time.perf_counter_ns()
                connection.request("POST", job.path, job.body, _headers(key))
                connection.getresponse().read()
                into.append(time.perf_counter_ns() - started)
    finally:
        for connection in connections:
            connection.close()
    return times
