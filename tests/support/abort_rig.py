"""
Clients that break off: over real sockets, at every moment of a call, and what must be left when the last one has gone.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import sqlite3
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tokenbudget_mw.operators import Operators
from tokenbudget_mw.values import Facts, Subject
from tokenbudget_mw.wiring import wire

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["KEYS", "PLANS", "Crowd", "Left", "what_is_left"]

PLANS = {"busy": ["1M requests/hour", "1000M tokens/hour", "$100k/month", "5k concurrent"]}
KEYS = [f"k{number}" for number in range(5)]
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: a close that does not wait, which the peer sees as a reset


@dataclass
class Crowd:
    """
    Clients of one server.

    Attributes:
        port: Where it listens.

        begun: Ids of the requests of which anything was sent.

        whole: Ids of those whose response came to its end.

        cut: How many broke off.
    """

    port: int
    begun: set[str] = field(default_factory=set)
    whole: set[str] = field(default_factory=set)
    cut: int = 0

    def break_off(self, times: int, *, at_once: int = 32, seed: int = 9) -> None:
        """
        Make *times* requests, *at_once* at a time, most of which break off somewhere.
        """
        asyncio.run(self._all(times, at_once, random.Random(seed)))

    async def _all(self, times: int, at_once: int, chance: random.Random) -> None:
        free = asyncio.Semaphore(at_once)

        async def one(number: int) -> None:
            async with free:
                await self._request(f"{number:06}", random.Random(chance.random() + number))

        await asyncio.gather(*[one(number) for number in range(times)])

    async def _request(self, name: str, chance: random.Random) -> None:
        head, body = _message(name, chance)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.begun.add(name)
        try:
            if chance.random() < 0.1:  # in the middle of its body
                writer.write(head + body[: chance.randrange(len(body))])
                await writer.drain()
                self.cut += 1
                return
            writer.write(head + body)
            await writer.drain()
            if await self._read(reader, chance):
                self.whole.add(name)
            else:
                self.cut += 1
        except ConnectionError:
            self.cut += 1
        finally:
            await _close(writer, chance)

    async def _read(self, reader: asyncio.StreamReader, chance: random.Random) -> bool:
        chunks = chance.choice([0, 0, 1, 2, 3, 5, 8, None, None])
        seen = b""
        while chunks is None or chunks > 0:
            piece = await reader.read(400)
            if not piece:
                break
            seen += piece
            chunks = None if chunks is None else chunks - 1
        if chunks is None:
            assert seen.startswith(b"HTTP/1.1 200"), seen[:300]
        return chunks is None


def _message(name: str, chance: random.Random) -> tuple[bytes, bytes]:
    body: dict[str, Any] = {"model": "gpt-4o", "max_tokens": 50, "messages": [{"role": "user", "content": "one two"}]}
    if chance.random() < 0.6:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    payload = json.dumps(body).encode()
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        "host: test",
        "connection: close",
        "content-type: application/json",
        f"content-length: {len(payload)}",
        f"x-subject: {chance.choice(KEYS)}:busy",
        f"x-request-id: {name}",
        f"x-pause: {chance.choice(['0', '0', '0.001', '0.004'])}",
    ]
    return "\r\n".join([*lines, "", ""]).encode(), payload


async def _close(writer: asyncio.StreamWriter, chance: random.Random) -> None:
    if chance.random() < 0.5:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.close()
    try:
        await writer.wait_closed()
    except ConnectionError:
        return


@dataclass(frozen=True)
class Left:
    """
    What counters and books hold: each counter as it is, and as the rows of usage say that it must be.

    Attributes:
        rows: The request ids that were booked, each as often as it has a row.

        endings: How they ended.

        counted: Used of requests, tokens and nano-dollars, and calls in flight, of all keys together.

        booked: The same from the rows.
    """

    rows: list[str]
    endings: set[str]
    counted: tuple[int, ...]
    booked: tuple[int, ...]


def what_is_left(database: Path, backend: str) -> Left:
    """
    Read the counters of all `KEYS` from *backend*, and the rows from *database*.
    """
    connection = sqlite3.connect(database)
    rows = connection.execute(
        "SELECT correlation_id, settle_reason, input_tokens + output_tokens, cost_pico, decision FROM tokenbudget_usage"
    ).fetchall()
    connection.close()
    core = wire(
        {"backend": backend, "database": f"sqlite:///{database}", "identify": _nobody, "plans": PLANS, "deadline": 10}
    )
    operators = Operators(core.guard.admission, core.guard.backend, core.clock)
    found = [operators.explain(Subject(key=key, plan="busy", tenant=f"tenant-of-{key}")) for key in KEYS]
    core.close()
    assert not any(one.degraded for one in found)
    counted = tuple(sum(one.limits[at].used for one in found) for at in range(4))
    admitted = [row for row in rows if row[4] == "admitted"]
    booked = (len(admitted), sum(row[2] for row in rows), sum(-(-row[3] // 1000) for row in rows), 0)
    return Left([row[0] for row in rows], {row[1] for row in rows}, counted, booked)


def _nobody(_facts: Facts) -> Subject | None:
    return None
