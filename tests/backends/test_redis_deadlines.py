"""
One timer ends all waits of an event loop, each at its time, and blames nobody for a loop that stood still.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

deadlines_module = pytest.importorskip("tokenbudget_mw.backends.redis.deadlines")


class Call:
    """
    Something that is waited for, and when its wait was ended.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def ring(self) -> None:
        self.answer.set_result(self.name)


def stand_still(seconds: float) -> None:
    """
    Block the loop, as a handler does that computes.
    """
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        pass


def on_a_loop(main: Callable[[asyncio.AbstractEventLoop], Any]) -> Any:
    """
    Run *main* on a new loop.
    """

    async def run() -> Any:
        return await main(asyncio.get_running_loop())

    return asyncio.run(run())


def test_each_wait_ends_at_its_time_and_answered_ones_do_not() -> None:
    """
    What was answered is not rung for; the others are, in order, none before its time.
    """

    async def main(loop: asyncio.AbstractEventLoop) -> tuple[list[str], float]:
        deadlines = deadlines_module.Deadlines(loop, 0.05, Call.ring)
        calls = [Call(name) for name in "abc"]
        begin = loop.time()
        for call in calls:
            deadlines.add(call)
        calls[1].answer.set_result("answered")
        answers = [await call.answer for call in calls]
        return answers, loop.time() - begin

    answers, took = on_a_loop(main)

    assert answers == ["a", "answered", "c"]
    assert took >= 0.049


def test_an_answer_that_waits_in_the_socket_while_the_loop_stood_still_is_heard() -> None:
    """
    The deadline has passed when the loop goes on, and what arrived meanwhile is read before anything is rung.
    """

    async def main(loop: asyncio.AbstractEventLoop) -> Any:
        deadlines = deadlines_module.Deadlines(loop, 0.02, Call.ring)
        call = Call("late")
        deadlines.add(call)
        await asyncio.sleep(0)
        loop.call_later(0.03, call.answer.set_result, "heard")
        stand_still(0.06)
        return await call.answer

    assert on_a_loop(main) == "heard"


def test_whoever_waits_for_none_has_no_timer() -> None:
    """
    Once all are answered the timer rings a last time, and not again before somebody waits.
    """

    async def main(loop: asyncio.AbstractEventLoop) -> list[Any]:
        deadlines = deadlines_module.Deadlines(loop, 0.01, Call.ring)
        seen = []
        for name in "ab":
            deadlines.add(Call(name))
            deadlines._waiting[0][1].answer.set_result("answered")
            last = Call("last")
            deadlines.add(last)
            seen.append(await last.answer)
            await asyncio.sleep(0)
            seen.append(deadlines._handle)
        return seen

    assert on_a_loop(main) == ["last", None, "last", None]
