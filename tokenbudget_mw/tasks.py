"""
Work outside of requests that is charged as if in one: tasks of a queue, threads, commands. Inside, `current()` is there.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from tokenbudget_mw.calls.call import Call, current, running
from tokenbudget_mw.calls.recording import charges_of, cost_of, labels
from tokenbudget_mw.calls.reserving import take
from tokenbudget_mw.errors import TokenBudgetError
from tokenbudget_mw.values import Decision, Facts, Limit, Route, Subject

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tokenbudget_mw.calls.recording import Charge
    from tokenbudget_mw.core import Core
    from tokenbudget_mw.values import Usage

__all__ = ["TaskCall", "hand_over", "task"]

METHOD = "TASK"
"""What stands on a task's rows in the place of an HTTP method."""


class _HandedOver(msgspec.Struct, frozen=True):
    subject: dict[str, str]
    limits: tuple[Limit, ...] = ()
    tags: dict[str, str] = {}
    request_id: str | None = None
    traceparent: str | None = None


_WHO = ("key", "user", "team", "project", "tenant", "plan", "purpose", "source")


def hand_over(call: Call | None = None) -> dict[str, Any]:
    """
    Return who pays for what runs here, as JSON's own types: an argument for a task, which gives it to `task`.

    Whoever can write to the queue can charge anybody, so the queue must be yours.

    Args:
        call: Whose subject; the current one's by default.

    Raises:
        TokenBudgetError: No metered request runs here.
    """
    source = current() if call is None else call
    facts = source.facts
    handed = _HandedOver(
        {name: value for name in _WHO if (value := getattr(source.payer, name)) is not None},
        source.payer.limits,
        {**source.tags, **labels.get()},
        facts.header("x-request-id") or source.id,
        facts.header("traceparent"),
    )
    built: dict[str, Any] = msgspec.to_builtins(handed)
    return built


@contextmanager
def task(
    core: Core, payer: Subject | Mapping[str, Any], *, name: str = "task", flush: bool = False
) -> Iterator[TaskCall]:
    """
    Let *payer* pay for what runs in the block.

    ``with task(core, handed, name="summarise") as call: …``

    Each charge is a row of its own at once, and counts at once, so that what a long task has used is not lost with it; a block
    that raises has charged what it said. Works in sync code and on an event loop.

    Args:
        core: Every part, plugged together, as `wiring.wire` makes it; one for a process.

        payer: What `hand_over` returned, or a subject.

        name: What stands on the rows as path, and in routes.

        flush: Whether the rows are written when the block ends. For workers that end their process after each task; others
            write by themselves, some moments later.

    Raises:
        TokenBudgetError: *payer* is neither.
    """
    call = TaskCall(core, *_read(payer), name)
    before = running.set(call)
    try:
        yield call
    finally:
        with suppress(ValueError):  # a generator goes on in another context than it began in
            running.reset(before)
        call.leave()
        if flush:
            core.flush()


def _read(payer: Subject | Mapping[str, Any]) -> tuple[Subject, _HandedOver]:
    if isinstance(payer, Subject):
        return payer, _HandedOver({})
    try:
        handed = msgspec.convert(payer, _HandedOver)
        return Subject(**handed.subject, limits=handed.limits), handed
    except (msgspec.ValidationError, TypeError) as exc:
        message = f"A subject, or what hand_over() returned, is expected: {exc}."
        raise TokenBudgetError(message) from exc


class TaskCall(Call):
    """
    A call that no request belongs to. It is never refused itself; a reservation made in it may be.
    """

    def __init__(self, core: Core, subject: Subject, handed: _HandedOver, name: str) -> None:
        given = (("x-request-id", handed.request_id), ("traceparent", handed.traceparent))
        headers = tuple((header, value) for header, value in given if value is not None)
        super().__init__(core, Facts(METHOD, name, headers), Route(name))
        self.subject = subject
        self.tags = handed.tags
        self.decision = Decision(admitted=True)

    def add(self, usage: Usage, *, model: str | None = None) -> None:
        """
        Charge *usage*, now.
        """
        for charge in charges_of(self, usage, model, model) if self.core.settings.enabled else ():
            self.add_settled(charge, -1)
            self.core.off_loop(partial(take, self, cost_of([charge]), charge.usage.model))

    def add_settled(self, charge: Charge, place: int) -> None:
        """
        Add a *charge* whose reservation, marked at *place*, has been settled already.
        """
        del place  # whoever reserved clears the mark, now that there is a row
        self.duration = self.core.timer() - self.started
        self.core.outcomes.end("complete")
        self._record([charge], settle_reason="complete", is_first=False)

    def leave(self) -> None:
        """
        End the block: nothing that runs behind it is marked.
        """
        self.is_ended = True
        if self._marking is not None:
            self._marking.end()
            self._marking = None
