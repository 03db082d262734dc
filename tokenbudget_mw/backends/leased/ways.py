"""
What a call of a leased backend asks the backend behind it, step by step, for both colours.

Each way is a generator. It yields what a backend is to be asked, as a function of that backend, and is sent the answer, or
thrown what was raised; whoever drives it calls, or calls and awaits.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from msgspec.structs import replace

from tokenbudget_mw.backends.debts import Debt
from tokenbudget_mw.backends.leased.portions import nothing_of

if TYPE_CHECKING:
    from tokenbudget_mw.backends.leased.portions import Portion
    from tokenbudget_mw.backends.leased.shapes import Refill
    from tokenbudget_mw.backends.leased.stock import Stock
    from tokenbudget_mw.values import Ask, Check, CheckState, Reply, Reservation

__all__ = ["Step", "Way", "crediting", "peeking", "renewing", "reserving", "telling"]

T = TypeVar("T")

Step: TypeAlias = Callable[[Any], Any]

Way: TypeAlias = Generator[Step, Any, T]


def reserving(stock: Stock, ask: Ask, now: float) -> Way[Reply]:
    """
    Ask for a portion to admit *ask* from; else, or where that is refused, for *ask* alone.
    """
    plan = stock.plan(ask, now)
    if plan.refill is not None:
        answered = yield from _refilling(stock, plan.refill, ask, now)
        if answered is not None:
            return answered
    reply: Reply = yield lambda backend: backend.reserve(ask, now)
    if not reply.admitted and stock.recall(ask.tag, _refusing(ask, reply)):
        # what refused it was held here, for others
        yield from telling(stock, now)
        reply = yield lambda backend: backend.reserve(ask, now)
    stock.note(plan, ask, reply)
    return reply


def _refilling(stock: Stock, refill: Refill, ask: Ask, now: float) -> Way[Reply | None]:
    # Returns the answer to *ask*; None where it is still to be asked.
    reply: Reply | None = None
    try:
        reply = yield lambda backend: backend.reserve(refill.ask, now)
    finally:
        is_filled = stock.fill(refill, reply)
    if is_filled:
        return stock.take(ask, now)
    if reply is not None and reply.admitted:
        nothing = nothing_of(refill.ask, reply.states)
        yield lambda backend: backend.settle(nothing, now)
        return None
    return reply if reply is not None and not reply.states else None


def _refusing(ask: Ask, reply: Reply) -> list[Check]:
    pairs = zip(ask.checks, reply.states, strict=False)
    return [check for check, state in pairs if check.enforced and not state.fits]


def peeking(stock: Stock, ask: Ask, now: float) -> Way[Reply]:
    """
    Let go back what is held and not open, and look; what stays held here is not used either.
    """
    if stock.recall(ask.tag, ask.checks):
        yield from telling(stock, now)
    reply: Reply = yield lambda backend: backend.peek(ask, now)
    is_served = not reply.admitted and bool(reply.states) and stock.serves(ask, now)
    states = [
        _corrected(check, state, stock.spare(ask.tag, check), is_served=is_served)
        for check, state in zip(ask.checks, reply.states, strict=False)
    ]
    return replace(reply, admitted=reply.admitted or is_served, states=tuple(states))


def _corrected(check: Check, state: CheckState, spare: int, *, is_served: bool) -> CheckState:
    if is_served:
        state = replace(state, fits=True, retry_after=0.0)
    return replace(state, remaining=min(check.cap, state.remaining + spare)) if spare else state


def crediting(stock: Stock, ask: Ask, now: float) -> Way[None]:
    """
    Let go back what is held of the counters of *ask*, so that no credit takes it, and take the costs off.
    """
    stock.withdraw(ask.tag, {check.counter for check in ask.checks})
    yield from telling(stock, now)
    yield lambda backend: backend.credit(ask, now)


def renewing(stock: Stock, reservation: Reservation, lease: float, now: float) -> Way[bool]:
    """
    Keep *reservation* open, or the portion that it was taken from.
    """
    portion = stock.portion_of(reservation)
    if portion is None:
        is_open: bool = yield lambda backend: backend.renew(reservation, lease, now)
        return is_open
    if not stock.outlives(portion, lease, now):
        longer = stock.terms.longer(lease)
        is_open = yield lambda backend: backend.renew(portion.reservation, longer, now)
        if is_open:
            stock.prolong(portion, lease, now)
        return is_open
    return True


def telling(stock: Stock, now: float) -> Way[None]:
    """
    Tell the backend what was used of portions that are over, and what is owed beyond them.
    """
    stock.sweep(now)
    while (news := stock.next_news()) is not None:
        is_told = False
        try:
            while isinstance(news, Debt) and not news.is_open:
                news = yield from _opening(news, now)
            yield _settling(news, now)
            is_told = True
        finally:
            if not is_told:
                # under the same id, so that it counts once though it may have been heard
                stock.keep_news(news)


def _settling(news: Portion | Debt, now: float) -> Step:
    settlement = news.settlement
    return lambda backend: backend.settle(settlement, now)


def _opening(debt: Debt, now: float) -> Way[Debt]:
    reply: Reply = yield lambda backend: backend.reserve(debt.ask, now)
    if reply.degraded and reply.admitted:
        nothing = nothing_of(debt.ask, reply.states)
        yield lambda backend: backend.settle(nothing, now)
    return debt.heard(reply)
