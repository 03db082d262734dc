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
    Limit one view, sync or async: ``@limit("10/minute")``.

    Args:
        texts: Limits, each counted for every key and this view alone.

        name: The view's name in counters; views of one name share them. Its dotted path by default.

    Raises:
        ConfigurationError: A limit makes no sense.
    """

    def decorate(view: View) -> View:
        declared = EndpointLimit.parse(texts, name=name or f"{view.__module__}.{view.__qualname__}")
        if iscoroutinefunction(view):

            @functools.wraps(view)
            async def alimited(request: Any, *args: Any, **kwargs: Any) -> Any:
                await declared.aadmit(core(), facts_of(request.META))
                return await view(request, *args, **kwargs)

            return alimited

        @functools.wraps(view)
        def limited(request: Any, *args: Any, **kwargs: Any) -> Any:
            declared.admit(core(), facts_of(request.META))
            return view(request, *args, **kwargs)

        return limited

    return decorate
