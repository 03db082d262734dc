"""
Limits on single views.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

from asgiref.sync import iscoroutinefunction

from tokenbudget_mw.limiting import EndpointLimit
from tokenbudget_mw.wsgi import facts_of
from tokenbudget_mw_django.conf import core

__all__ = ["limit", "path_of"]

P = ParamSpec("P")
R = TypeVar("R")


def limit(*texts: str, name: str | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """
    Limit one view, sync or async: ``@limit("10/minute")``; a class by ``@method_decorator(limit("10/minute"), name="dispatch")``.

    Args:
        texts: Limits, each counted for every key and this view alone.

        name: The view's name in counters; views of one name share them. Its dotted path by default.

    Raises:
        ConfigurationError: A limit makes no sense.
    """
    parsed = EndpointLimit.parse(texts, name=name or "")

    def decorate(view: Callable[P, R]) -> Callable[P, R]:
        declared = parsed if name else parsed.named(_name_of(view))
        asked: Callable[..., Any] = view  # by a request and what its path says
        if iscoroutinefunction(view):

            @functools.wraps(view)
            async def alimited(request: Any, *args: Any, **kwargs: Any) -> Any:
                await declared.aadmit(core(), facts_of(request.META, request.path_info))
                return await asked(request, *args, **kwargs)

            return cast("Callable[P, R]", alimited)

        @functools.wraps(view)
        def limited(request: Any, *args: Any, **kwargs: Any) -> Any:
            declared.admit(core(), facts_of(request.META, request.path_info))
            return asked(request, *args, **kwargs)

        return cast("Callable[P, R]", limited)

    return decorate


def _name_of(view: Callable[..., Any]) -> str:
    # all that Django's `as_view` makes has one name, and so has what the REST framework's makes
    kind = getattr(view, "view_class", None) or getattr(view, "cls", None)
    if kind is not None:
        return path_of(kind)
    # method_decorator gives, for each request, a partial that is dressed up as the method, which may be a base class's
    found: Any = inspect.unwrap(view, stop=lambda each: isinstance(each, functools.partial))
    while isinstance(found, functools.partial):
        found = found.func
    owner = getattr(found, "__self__", None)
    if owner is not None:
        return f"{path_of(owner if isinstance(owner, type) else type(owner))}.{found.__name__}"
    return path_of(found if hasattr(found, "__qualname__") else type(found))


def path_of(named: Any) -> str:
    """
    Return the dotted path of a class or function.
    """
    name: str = named.__qualname__
    if name.rpartition(".")[2] != named.__name__:
        name = named.__name__  # the REST framework gives its class for a function that name, and leaves the other
    return f"{named.__module__}.{name}"
