"""
Settling what a call holds. On an event loop the client may go away meanwhile, and nobody can cancel it for good.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tokenbudget_mw.values import NOTHING, Cost

if TYPE_CHECKING:
    from tokenbudget_mw.calls.call import Call

__all__ = ["asettle_held", "keep", "settle_held"]


_kept: set[asyncio.Future[Any]] = set()
"""Work that outlives its request; an event loop holds tasks weakly (`asyncio.create_task`)."""


def keep(work: asyncio.Future[Any]) -> None:
    """
    Hold *work* until it is done.
    """
    _kept.add(work)
    work.add_done_callback(_kept.discard)


def settle_held(call: Call, actual: Cost) -> None:
    """
    Settle all that *call* holds: what it was admitted with at its true cost, its extensions at nothing.
    """
    guard = call.core.guard
    for reservation in call.held:
        guard.settle(reservation, actual)
    for reservation in call.extensions:
        guard.settle(reservation, NOTHING)


async def asettle_held(call: Call, actual: Cost) -> None:
    """
    The same for an event loop.
    """
    try:
        await _settle(call, actual)
    except asyncio.CancelledError:
        # settling twice is settling once, so do it again where nobody can cancel it
        keep(asyncio.ensure_future(_settle(call, actual)))
        raise


async def _settle(call: Call, actual: Cost) -> None:
    guard = call.core.async_guard
    for reservation in call.held:
        await guard.settle(reservation, actual)
    for reservation in call.extensions:
        await guard.settle(reservation, NOTHING)
