"""
The marks of a call: what is kept on the spool while it runs, so that its process may die.

Marked is what there is something to bill of: a call whose request names what it asks of a model, a reservation that a
handler makes, and what a handler has charged. A request without any of that leaves no mark.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from tokenbudget_mw import threads
from tokenbudget_mw.calls.recording import LONGEST_METHOD, LONGEST_PATH, decision_of, limit_of, provider_of, trail_of
from tokenbudget_mw.rules.settlement import DEFAULT_SETTLE, ORPHANED
from tokenbudget_mw.values import Charged, Held, Opened

if TYPE_CHECKING:
    from tokenbudget_mw.calls.call import Call
    from tokenbudget_mw.calls.recording import Charge
    from tokenbudget_mw.calls.reserving import Reserved
    from tokenbudget_mw.values import Mark

__all__ = ["Marking", "charges_outliving", "end_marks"]

MICRO = 1_000_000
NOWHERE = (None, None)
DEFAULT_RULE = DEFAULT_SETTLE[ORPHANED]

_beginning = threads.lock()
"""Held for a moment by the first of a handler's threads that holds or charges something."""


class Marking:
    """
    The marks of one call, from its first to its end.
    """

    __slots__ = ("_call_id", "_first", "_further", "_spool")

    def __init__(self, call: Call) -> None:
        self._call_id = call.id
        self._spool = call.core.spool
        self._first = self._spool.mark(_opened(call))
        self._further: _Further | None = None  # few calls have any

    def hold(self, held: Reserved) -> int:
        """
        Mark what a handler's reservation holds, and return the mark's place.
        """
        place, prompt, cost = self._next_place(), held.prompt, held.upper
        model, tokens = prompt.model, prompt.input.estimate
        self._keep(place, Held(self._call_id, place, model, tokens, cost.input_tokens, cost.output_tokens))
        if self._further is not None:
            self._further.held[place] = held
        return place

    def outliving(self) -> list[Charge]:
        """
        Return what is charged already in reservations whose blocks go on when the call ends.
        """
        held = [] if self._further is None else list(self._further.held.values())
        return [charge for each in held for charge in each.outlive()]

    def charge(self, charge: Charge, instead_of: int) -> int:
        """
        Mark what a handler has charged, where it had reserved it in place of the mark at *instead_of*; return the place.
        """
        place, priced, tags = self._next_place(), charge.priced, dict(charge.tags) if charge.tags else None
        price = priced.cost_pico, priced.price_id, priced.kind
        self._keep(place, Charged(self._call_id, place, charge.usage, *price, tags, instead_of))
        return place

    def release(self, place: int) -> None:
        """
        Forget the mark at *place*: nothing is to be charged for it.
        """
        if self._further is None:
            return
        self._further.held.pop(place, None)
        slot = self._further.slots.pop(place, None)
        if slot is not None:
            self._spool.unmark(slot)

    def end(self) -> None:
        """
        Forget them all: the call's rows are on the spool. The first goes first; without it the others say nothing.
        """
        first, self._first = self._first, None
        if first is not None:
            self._spool.unmark(first)
        if self._further is not None:
            for place in tuple(self._further.slots):
                self.release(place)

    def _next_place(self) -> int:
        if self._further is None:
            with _beginning:
                self._further = self._further or _Further()
        return next(self._further.places)

    def _keep(self, place: int, mark: Mark) -> None:
        slot = self._spool.mark(mark)
        if slot is not None and self._further is not None:
            self._further.slots[place] = slot


class _Further:
    """
    Places and slots of the marks after the first, and the reservations whose blocks run.
    """

    __slots__ = ("held", "places", "slots")

    def __init__(self) -> None:
        self.places = count(1)  # next() is one step
        self.slots: dict[int, object] = {}
        self.held: dict[int, Reserved] = {}


def _opened(call: Call) -> Opened:
    facts, subject, prompt, route = call.facts, call.payer, call.prompt, call.route
    cost, server = call.upper, facts.server or NOWHERE
    decision = call.decision
    return Opened(
        call.id,
        int(call.started_at * MICRO),
        route.settle.get(ORPHANED, DEFAULT_RULE),
        facts.method[:LONGEST_METHOD],
        facts.path[:LONGEST_PATH],
        prompt.model if prompt is not None else None,
        prompt.input.estimate if prompt is not None else 0,
        cost.input_tokens,
        cost.output_tokens,
        route.path,
        provider_of(route),
        server[0],
        server[1],
        subject.key,
        subject.user,
        subject.team,
        subject.project,
        subject.tenant,
        call.plan,
        subject.source,
        subject.purpose,
        decision_of(decision),
        limit_of(decision),
        *(call.trail or trail_of(call)),
        prompt.service_tier if prompt is not None else None,
        dict(prompt.batch) if prompt is not None and prompt.batch else None,
    )


def end_marks(marking: Marking | None) -> None:
    """
    Forget the marks of a call, if it has any.
    """
    if marking is not None:
        marking.end()


def charges_outliving(marking: Marking | None) -> tuple[Charge, ...]:
    """
    Return what is charged already in reservations of a call that goes on when it ends, if it has any.
    """
    return () if marking is None else tuple(marking.outliving())
