"""
The drive: every request of a trace through the real ASGI stack, in the order of the trace's own time.

Time is virtual: a request is admitted when it came, and answered when its output would have been made. Requests overlap
as they did, but only one of them moves at a time, so that a replay is the same every time. The real time that a request
takes inside the stack is measured on the way.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from itertools import count
from time import perf_counter_ns
from typing import Any

from tokenbudget_mw.cli.replaying.history import Entry
from tokenbudget_mw.cli.replaying.prompts import body_of
from tokenbudget_mw.cli.replaying.traces import Traced
from tokenbudget_mw.values import Usage

__all__ = ["FLIGHT", "FORMAT", "KEY_HEADER", "PATH", "Clock", "Drive", "Flight", "Plan"]

PATH = "/v1/chat/completions"
FORMAT = "openai.chat"
KEY_HEADER = "x-replay-key"

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

FLIGHT = "replay.flight"
"""Key of the ASGI scope under which the app finds its flight."""


class Clock:
    """
    A clock that stands still until it is set.

    Attributes:
        now: Epoch seconds.
    """

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        """
        Return the moment.
        """
        return self.now


@dataclass(frozen=True, slots=True)
class Plan:
    """
    How a trace becomes requests.

    Attributes:
        model: Model of requests that name none.

        keys: How many keys take turns, where the trace names none.

        prefix: What the names of keys begin with.

        token_seconds: How long an output token takes, in seconds.

        max_tokens: The most output that each request asks for, in tokens; None rounds the true output up to the next
            multiple of *max_tokens_step*.

        max_tokens_step: As above, in tokens.
    """

    model: str = "gpt-4o"
    keys: int = 1
    prefix: str = "replay-"
    token_seconds: float = 0.02
    max_tokens: int | None = None
    max_tokens_step: int = 256

    def key_of(self, traced: Traced, number: int) -> str:
        """
        Return the key of request *number* (from 0).
        """
        return f"{self.prefix}{number % self.keys + 1 if traced.key is None else traced.key}"

    def most_output(self, traced: Traced) -> int:
        """
        Return the output tokens that the request asks for at most.
        """
        if self.max_tokens is not None:
            return self.max_tokens
        return -(-max(traced.output_tokens, 1) // self.max_tokens_step) * self.max_tokens_step


@dataclass(slots=True, eq=False)
class Flight:
    """
    One request under way.

    Attributes:
        traced: What the trace says.

        model: Model it asks for.

        key: Its key.

        body: Its body.

        landed: Set by the request when it waits for its answer, and when it has ended.

        answer: Set by the drive when the answer's time has come.

        status: Status of the response.

        response: Body of the response.

        busy_ns: Real time inside the stack, in nanoseconds.

        is_over: Whether the stack has returned.

        is_degraded: Whether a fallback let it through because the backend did not answer.

        would_refuse: Shadow limits that would have refused it.

        entries: Its places in the history.

        task: Runs it.
    """

    traced: Traced
    model: str
    key: str
    body: bytes
    landed: asyncio.Future[None]
    answer: asyncio.Future[None]
    status: int = 0
    response: bytes = b""
    busy_ns: int = 0
    is_over: bool = False
    is_degraded: bool = False
    would_refuse: tuple[str, ...] = ()
    entries: list[tuple[str, Entry]] = field(default_factory=list)
    task: asyncio.Future[None] | None = None

    @property
    def usage(self) -> Usage:
        """
        Return what it used, by the trace.
        """
        return Usage(self.traced.input_tokens, self.traced.output_tokens)

    async def receive(self) -> Message:
        """
        Give the body, once.
        """
        return {"type": "http.request", "body": self.body, "more_body": False}

    async def send(self, message: Message) -> None:
        """
        Take the response.
        """
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.response += message.get("body", b"")

    def land(self) -> None:
        """
        Give the word back to the drive.
        """
        if not self.landed.done():
            self.landed.set_result(None)


class Drive:
    """
    Drives a trace through an app.

    Args:
        app: The stack: the middleware around `answer`, or `answer` alone.

        clock: The virtual clock that the stack reads.

        plan: How the trace becomes requests.

        on_end: Called with each flight that has ended.
    """

    def __init__(self, app: App, clock: Clock, plan: Plan, on_end: Callable[[Flight], None]) -> None:
        self._app = app
        self._clock = clock
        self._plan = plan
        self._on_end = on_end
        self._under_way: list[tuple[float, int, Flight]] = []
        self._turns = count()

    async def arrive(self, traced: Traced) -> None:
        """
        Send the next request of the trace, after everything that ends before it has ended.
        """
        await self.end_until(traced.at)
        self._clock.now = traced.at
        number = next(self._turns)
        flight = self._flight(traced, number)
        flight.task = asyncio.ensure_future(self._fly(flight))
        await self._turn(flight)
        if flight.is_over:
            await _ended(flight)
            self._on_end(flight)
        else:
            ends_at = traced.at + traced.output_tokens * self._plan.token_seconds
            heapq.heappush(self._under_way, (ends_at, number, flight))

    async def end_until(self, moment: float) -> None:
        """
        Answer every request whose time comes up to *moment*, in epoch seconds.
        """
        while self._under_way and self._under_way[0][0] <= moment:
            self._clock.now, _, flight = heapq.heappop(self._under_way)
            flight.landed = asyncio.get_running_loop().create_future()
            flight.answer.set_result(None)
            await self._turn(flight)
            await _ended(flight)
            self._on_end(flight)

    def _flight(self, traced: Traced, number: int) -> Flight:
        loop = asyncio.get_running_loop()
        plan = self._plan
        model = traced.model or plan.model
        body = body_of(model, traced.input_tokens, plan.most_output(traced))
        return Flight(traced, model, plan.key_of(traced, number), body, loop.create_future(), loop.create_future())

    async def _turn(self, flight: Flight) -> None:
        """
        Let *flight* move until it waits or ends.
        """
        started = perf_counter_ns()
        await flight.landed
        flight.busy_ns += perf_counter_ns() - started

    async def _fly(self, flight: Flight) -> None:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.5"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": PATH,
            "raw_path": PATH.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(flight.body)).encode()),
                (KEY_HEADER.encode(), flight.key.encode()),
            ],
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 8000),
            FLIGHT: flight,
        }
        try:
            await self._app(scope, flight.receive, flight.send)
        finally:
            flight.is_over = True
            flight.land()


async def _ended(flight: Flight) -> None:
    if flight.task is not None:
        await flight.task  # raises what the stack raised
