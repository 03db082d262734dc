"""
What a handler finds where the middleware is switched off (``enabled: False``): a call that nothing comes of.
"""

from __future__ import annotations

from contextlib import contextmanager
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import ref

from tokenbudget_mw.calls.call import Call, idle
from tokenbudget_mw.values import Facts, Route, Subject

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping

    from tokenbudget_mw.core import Core

__all__ = ["stand_in", "standing_in"]

KEY = "tokenbudget.idle"

R = TypeVar("R", bound="MutableMapping[str, Any]")


@contextmanager
def standing_in(core: Core) -> Iterator[None]:
    """
    Let `current()` find a call inside the block, and in what that starts with its context.
    """
    call = _idle_call(core)
    token = idle.set(lambda: call)
    try:
        yield
    finally:
        idle.reset(token)


def stand_in(core: Core, request: R, *, is_alone: bool = False) -> R:
    """
    Let `current()` find a call while a server's *request*, its environment, is there, and return that.

    Args:
        core: Every part, plugged together.

        request: The environment.

        is_alone: Whether the context is this request's alone, a task's of an event loop, so that the call may stay in it.
    """
    call, here = _idle_call(core), get_ident()

    def found() -> Call:
        return call

    # it goes with the request, whose body may be sent after this context has been left: a thread's, which nothing else ends.
    # Another thread has a copy of the context, and works on with that
    request[KEY] = found
    is_there = ref(found)
    idle.set(lambda: call if is_alone or is_there() is not None or get_ident() != here else None)
    return request


def _idle_call(core: Core) -> Call:
    # what handlers say to it is neither charged nor recorded, and no reservation is refused; its subject is nobody
    call = Call(core, Facts("", ""), Route("*"))
    call.subject = Subject()
    return call
