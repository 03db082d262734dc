"""
What a handler finds where the middleware is switched off (``enabled: False``): a call that nothing comes of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar
from weakref import ref

from tokenbudget_mw.call import Call, idle
from tokenbudget_mw.values import Facts, Route, Subject

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from tokenbudget_mw.core import Core

__all__ = ["stand_in"]

KEY = "tokenbudget.idle"

R = TypeVar("R", bound="MutableMapping[str, Any]")


def stand_in(core: Core, request: R) -> R:
    """
    Let `current()` find a call while a server's *request* (ASGI's scope, WSGI's environment) is there, and return that.

    What handlers say to it is neither charged nor recorded, and no reservation is refused; its subject is nobody.
    """
    call = Call(core, Facts("", ""), Route("*"))
    call.subject = Subject()
    # it goes with the request, whose body may be sent after this context has been left
    request[KEY] = call
    idle.set(ref(call))
    return request
