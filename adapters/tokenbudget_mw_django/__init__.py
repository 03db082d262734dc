"""
tokenbudget-mw for Django.

    INSTALLED_APPS += ["tokenbudget_mw_django"]
    MIDDLEWARE.insert(0, "tokenbudget_mw_django.TokenBudgetMiddleware")
    TOKENBUDGET = {...}

A project that is served by ASGI takes ``get_asgi_application`` from `tokenbudget_mw_django.asgi`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenbudget_mw.calls.call import current
    from tokenbudget_mw_django.conf import change_limits
    from tokenbudget_mw_django.decorators import limit
    from tokenbudget_mw_django.middleware import TokenBudgetMiddleware

__all__ = ["TokenBudgetMiddleware", "change_limits", "current", "limit"]

_HOMES = {
    "TokenBudgetMiddleware": "tokenbudget_mw_django.middleware",
    "change_limits": "tokenbudget_mw_django.conf",
    "current": "tokenbudget_mw.calls.call",
    "limit": "tokenbudget_mw_django.decorators",
}


def __getattr__(name: str) -> Any:
    # late, because Django imports this package before its settings and apps are ready
    home = _HOMES.get(name)
    if home is None:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(importlib.import_module(home), name)
