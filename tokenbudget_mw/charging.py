"""
Charges outside of any request: a script's, a notebook's, a worker's model calls go on the same books.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import TYPE_CHECKING

from tokenbudget_mw.calls.call import Call
from tokenbudget_mw.calls.recording import labels
from tokenbudget_mw.calls.reserving import take
from tokenbudget_mw.rules.settlement import Ending
from tokenbudget_mw.values import Decision, Facts, Prompt, Route, TokenCount

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenbudget_mw.core import Core
    from tokenbudget_mw.values import Subject, Usage

__all__ = ["charge", "open_call", "tags"]

NO_REQUEST = Facts("CHARGE", "")
"""What stands on the row of a charge that no HTTP request belongs to."""

WHOLE = Ending(HTTPStatus.OK, has_body=True, is_whole=True)


@contextmanager
def tags(**values: str) -> Iterator[None]:
    """
    Label the rows of whatever is charged inside the block.

    ``with tags(feature="search", user="u7"): …``. Inner labels go before outer ones. In async code they follow the task,
    and the tasks that it starts.
    """
    token = labels.set({**labels.get(), **{name: str(value) for name, value in values.items()}})
    try:
        yield
    finally:
        with suppress(ValueError):  # a generator goes on in another context than it began in
            labels.reset(token)


def charge(core: Core, subject: Subject, response: object, *, model: str | None = None) -> Usage:
    """
    Charge what a model call used to *subject*, where no request runs: on a row of its own, and to the counters.

    Waits for the backend; in async code, run it in a thread.

    Args:
        core: Every part, plugged together, as `wiring.wire` makes it.

        subject: Who pays.

        response: Any provider's response object or dict, a dict of token counts, or a `Usage`.

        model: Model, where the response does not name it.

    Returns:
        What was charged.

    Raises:
        TypeError: There is no usage in *response*.
    """
    call = open_call(core, subject, model=model)
    usage = call.charge(response, model=model)
    take(call, call.end(WHOLE), model or usage.model)
    return usage


def open_call(
    core: Core,
    subject: Subject,
    *,
    facts: Facts = NO_REQUEST,
    route: Route | None = None,
    model: str | None = None,
    age: float = 0.0,
) -> Call:
    """
    Return a call that was not asked of the limits, for what *subject* is charged. Whoever opens it ends it.

    Args:
        core: As of `charge`.

        subject: Who pays.

        facts: What is known of the HTTP request, if there was one.

        route: Where it went.

        model: Model that was asked for.

        age: How long ago it began, in seconds.
    """
    call = Call(core, facts, route or Route(facts.path))
    call.started_at -= age
    call.started -= age
    call.subject = subject
    call.decision = Decision(admitted=True)
    call.prompt = None if model is None else Prompt(model, TokenCount(0, 0))
    return call
