"""
Counting again: a prompt that only its bound keeps out is counted exactly, once, and asked for again.

Most requests are decided by a cheap count: the bound fits, or not even the estimate does. Between the two lies what an
exact count decides. It is made off the event loop, in bounded time, and stopped when the client goes.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from msgspec.structs import replace

from tokenbudget_mw.counting.encoders import CountCancelledError
from tokenbudget_mw.rules.doubt import as_estimated, hinges_on_count, is_doubtful
from tokenbudget_mw.rules.pricing import estimate, moment_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from concurrent.futures import Future

    from tokenbudget_mw.call import Call
    from tokenbudget_mw.values import Decision, Prompt, TokenCount

__all__ = ["PATIENCE", "arecount", "counted_by_now", "recount"]

PATIENCE = 2.0
"""Seconds that a request waits for its exact count, the wait for its turn included; then its refusal stands."""


def recount(call: Call, body: bytes, decision: Decision) -> Decision:
    """
    Decide anew where *decision* refuses only for want of an exact count; else return it. For threads.

    Args:
        call: The call that is refused.

        body: Its whole body.

        decision: What was decided on the bound.
    """
    if not _hinges(call, decision):
        return decision
    core = call.core
    end = core.timer() + PATIENCE
    try:
        exact = core.meter.recount(call.route, body, call.facts.path, is_cancelled=lambda: core.timer() >= end)
    except CountCancelledError:
        return decision
    return core.guard.admit(call.request()) if _is_better(call, exact) else decision


async def arecount(call: Call, body: bytes, decision: Decision, leave: Callable[[], Awaitable[object]]) -> Decision:
    """
    The same for an event loop: the count is made in a thread.

    Args:
        call: The call that is refused.

        body: Its whole body.

        decision: What was decided on the bound.

        leave: Returns when the client has gone.
    """
    if not _hinges(call, decision):
        return decision
    core, stop = call.core, threading.Event()
    counting = core.meter.recount_aside(call.route, body, call.facts.path, is_cancelled=stop.is_set)
    if counting is None:
        return decision
    try:
        exact = await _first(asyncio.wrap_future(counting), asyncio.ensure_future(leave()))
    finally:
        stop.set()
    return await core.async_guard.admit(call.request()) if exact and _is_better(call, exact) else decision


def counted_by_now(prompt: Prompt | None, counting: Future[TokenCount]) -> Prompt | None:
    """
    Return *prompt* as it was counted aside, if that is done; else as it is.
    """
    if prompt is None or not counting.done() or counting.cancelled() or counting.exception() is not None:
        return prompt
    return replace(prompt, input=counting.result())


async def _first(counting: asyncio.Future[TokenCount], leaving: asyncio.Future[object]) -> TokenCount | None:
    """
    Return what *counting* finds; None where the client goes first, or patience ends.
    """
    leaving.add_done_callback(_ignore)
    try:
        await asyncio.wait({counting, leaving}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        return counting.result() if counting.done() else None
    finally:
        counting.cancel()
        leaving.cancel()


def _ignore(leaving: asyncio.Future[object]) -> None:
    # a server whose `receive` fails has lost its client; asyncio complains of errors that nobody looks at
    if not leaving.cancelled():
        leaving.exception()


def _hinges(call: Call, decision: Decision) -> bool:
    prompt = call.prompt
    if decision.admitted or prompt is None or not is_doubtful(prompt.input):
        return False
    core = call.core
    moment = moment_of(call.payer, prompt, call.started_at)
    cost, _ = estimate(core.tariffs, as_estimated(prompt), moment, output_reserve=core.settings.output_reserve)
    return hinges_on_count(decision, cost)


def _is_better(call: Call, exact: TokenCount) -> bool:
    """
    Take the *exact* count for the call's; False where it says no more than the bound did.
    """
    prompt = call.prompt
    if prompt is None or exact.upper >= prompt.input.upper:
        return False
    call.prompt = replace(prompt, input=exact)
    return True
