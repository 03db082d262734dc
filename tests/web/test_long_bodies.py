"""
A long body is read and counted in two steps of the event loop; others get their turn between them.
"""

from __future__ import annotations

import asyncio
from itertools import count

import pytest
from asgi_rig import Rig, chat, request, status_of

from tokenbudget_mw.asgi import LONG_BODY

LONG = "plain words " * (LONG_BODY // 12 + 1)


async def app(_scope, receive, send):
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


@pytest.fixture
def rig():
    return Rig(app, plans={"one": ["10M tokens/minute"]})


def turns_of(rig: Rig, body, monkeypatch) -> tuple[int, dict[str, int]]:
    """Send *body*; return the status, and in which turn of the loop each half of its reading was."""
    turns, seen = count(), {}
    meter = rig.core.meter
    parse, read = meter.parse, meter.read_prompt

    def turn() -> int:
        return seen["now"]

    async def tick() -> None:
        for seen["now"] in turns:
            await asyncio.sleep(0)

    async def main():
        monkeypatch.setattr(meter, "parse", lambda *given: seen.update(parse=turn()) or parse(*given))
        monkeypatch.setattr(meter, "read_prompt", lambda *given: seen.update(read=turn()) or read(*given))
        ticking = asyncio.create_task(tick())
        await asyncio.sleep(0)
        sent = await rig.arun(body)
        ticking.cancel()
        return sent

    return status_of(asyncio.run(main())), seen


def test_the_loop_turns_between_reading_and_counting_a_long_body(rig, monkeypatch):
    """A body beyond the length is parsed in one turn of the loop and counted in a later one."""
    status, seen = turns_of(rig, chat(messages=[{"role": "user", "content": LONG}]), monkeypatch)

    assert status == 200
    assert seen["parse"] < seen["read"]
    assert rig.rows()[0].input_tokens == pytest.approx(len(LONG) / 6, rel=0.05)


def test_a_short_body_is_read_at_once(rig, monkeypatch):
    """Most bodies are parsed and counted in one go."""
    status, seen = turns_of(rig, chat(), monkeypatch)

    assert status == 200
    assert "parse" not in seen


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [(b"{" + LONG.encode(), {}, 400), (b"{}" + b" " * LONG_BODY, {"content-encoding": "gzip"}, 415)],
)
def test_a_long_body_that_cannot_be_read_is_refused(rig, body, headers, status):
    """What is wrong with a long body is told as with a short one."""
    assert status_of(rig.run(request(body), headers=headers)) == status
