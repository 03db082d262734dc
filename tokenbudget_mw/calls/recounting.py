"""
Counting again: a prompt that only its bound keeps out is counted exactly, once, and asked for again.

Most requests are decided by a cheap count: the bound fits, or not even the estimate does. Between the two lies what an
exact count decides. It is made off the event loop, in bounded time, and stopped when the client goes.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Protocol

from msgspec.structs import replace

from tokenbudget_mw.counting.encoders import CountCancelledError
from tokenbudget_mw.rules.doubt import as_estimated, hinges_on_count, is_doubtful
from tokenbudget_mw.rules.pricing import estimate, moment_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from concurrent.futures import Future

    from tokenbudget_mw.core import Core
    from tokenbudget_mw.rules.admission import Request
    from tokenbudget_mw.values import Decision, Facts, Prompt, Route, Subject, TokenCount

__all__ = ["PATIENCE", "Asking", "arecount", "counted_by_now", "recount"]

PATIENCE = 2.0
"""Seconds that a request waits for its exact count, the wait for its turn included; then its refusal stands."""


class Asking(Protocol):
    """
    What asks the limits: a call, or a handler's reservation.

    Attributes:
        core: Every part, plugged together.

        facts: What is known of the HTTP request.

        route: How its body is read.

        started_at: When it began, in epoch seconds.

        prompt: What it asks of a model, a `Prompt`, or None where there was nothing to read; takes the exact count.
    """

    core: Core
    facts: Facts
    route: Route
    started_at: float
    prompt: Any

    @property
    def payer(self) -> Subject:
        """
        The subject that pays.
        """
        ...

    def request(self) -> Request:
        """
        Return what is asked of the limits.
        """
        ...


def recount(asking: Asking, body: bytes, decision: Decision) -> Decision:
    """
    Decide anew where *decision* refuses only for want of an exact count; else return it. For threads.

    Args:
        asking: What is refused.

        body: Its whole body.

        decision: What was decided on the bound.
    """
    if not _hinges(asking, decision):
        return decision
    core = asking.core
    end = core.timer() + PATIENCE
    try:
        exact = core.meter.recount(asking.route, body, asking.facts.path, is_cancelled=lambda: core.timer() >= end)
    except CountCancelledError:
        return decision
    return core.guard.admit(asking.request()) if _is_better(asking, exact) else decision


async def arecount(
    asking: Asking, body: bytes, decision: Decision, leave: Callable[[], Awaitable[object]] | None = None
) -> Decision:
    """
    The same for an event loop: the count is made in a thread.

    Args:
        asking: What is refused.

        body: Its whole body.

        decision: What was decided on the bound.

        leave: Returns when the client has gone; None where that shows otherwise.
    """
    if not _hinges(asking, decision):
        return decision
    core, stop = asking.core, threading.Event()
    leaving = asyncio.ensure_future((leave or _never)())
    leaving.add_done_callback(_ignore)
    try:
        await asyncio.sleep(0)  # a turn, in which a client that has gone already says so
        if leaving.done():
            return decision
        counting = core.meter.recount_aside(asking.route, body, asking.facts.path, is_cancelled=stop.is_set)
        if counting is None:
            return decision
        exact = await _first(asyncio.wrap_future(counting), leaving)
    finally:
        stop.set()
        leaving.cancel()
    return await core.async_guard.admit(asking.request()) if exact and _is_better(asking, exact) else decision


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
    either: set[asyncio.Future[Any]] = {counting, leaving}
    try:
        await asyncio.wait(either, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        return counting.result() if counting.done() else None
    finally:
        counting.cancel()


async def _never() -> None:
    await asyncio.Event().wait()


def _ignore(leaving: asyncio.Future[object]) -> None:
    # a server whose `receive` fails has lost its client; asyncio complains of errors that nobody looks at
    if not leaving.cancelled():
        leaving.exception()


def _hinges(asking: Asking, decision: Decision) -> bool:
    prompt: Prompt | None = asking.prompt
    if decision.admitted or prompt is None or not is_doubtful(prompt.input):
        return False
    core = asking.core
    moment = moment_of(asking.payer, prompt, asking.started_at)
    cost, _ = estimate(core.tariffs, as_estimated(prompt), moment, output_reserve=core.settings.output_reserve)
    return hinges_on_count(decision, cost)


def _is_better(asking: Asking, exact: TokenCount) -> bool:
    """
    Take the *exact* count for the call's; False where it says no more than the bound did.
    """
    prompt: Prompt | None = asking.prompt
    if prompt is None or exact.upper >= prompt.input.upper:
        return False
    asking.prompt = replace(prompt, input=exact)
    return True
