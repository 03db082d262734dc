"""
Limits on single views.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from asgiref.sync import iscoroutinefunction

from tokenbudget_mw.limiting import EndpointLimit
from tokenbudget_mw.wsgi import facts_of
from tokenbudget_mw_django.conf import core

__all__ = ["limit"]

View = Callable[..., Any]


def limit(*texts: str, name: str | None = None) -> Callable[[View], View]:
    """
    Limit one view, sync or async: ``@limit("10/minute")``; a class by ``@method_decorator(limit("10/minute"), name="dispatch")``.

    Args:
        texts: Limits, each counted for every key and this view alone.

        name: The view's name in counters; views of one name share them. Its dotted path by default.

    Raises:
        ConfigurationError: A limit makes no sense.
    """
    parsed = EndpointLimit.parse(texts, name=name or "")

    def decorate(view: View) -> View:
        declared = parsed if name else parsed.named(_name_of(view))
        if iscoroutinefunction(view):

            @functools.wraps(view)
            async def alimited(request: Any, *args: Any, **kwargs: Any) -> Any:
                await declared.aadmit(core(), facts_of(request.META, request.path_info))
                return await view(request, *args, **kwargs)

            return alimited

        @functools.wraps(view)
        def limited(request: Any, *args: Any, **kwargs: Any) -> Any:
            declared.admit(core(), facts_of(request.META, request.path_info))
            return view(request, *args, **kwargs)

        return limited

    return decorate


def _name_of(view: View) -> str:
    # method_decorator gives, for each request, a partial that is dressed up as the method, which may be a base class's
    bound: Any = view
    owner = getattr(bound.func if isinstance(view, functools.partial) else bound, "__self__", None)
    if owner is None:
        return f"{bound.__module__}.{bound.__qualname__}"
    kind = type(owner)
    return f"{kind.__module__}.{kind.__qualname__}.{bound.__name__}"
