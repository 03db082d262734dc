"""
Exact limits on requests, LLM tokens, money and concurrency, and exact usage books, inside your web app.

Importing this package loads no framework, driver, tokenizer or event loop; its names are loaded when they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenbudget_mw.asgi import ASGIMiddleware
    from tokenbudget_mw.calls.call import Call, current
    from tokenbudget_mw.errors import BudgetExceeded, ConfigurationError, RefusedError, TokenBudgetError
    from tokenbudget_mw.limiting import refusal_of
    from tokenbudget_mw.rules.refusals import Refusal
    from tokenbudget_mw.settings import Settings
    from tokenbudget_mw.settings.own_limits import own_limits
    from tokenbudget_mw.values import Decision, Facts, Subject, Usage
    from tokenbudget_mw.wsgi import WSGIMiddleware

__version__ = "0.1.0"
__all__ = [
    "ASGIMiddleware",
    "BudgetExceeded",
    "Call",
    "ConfigurationError",
    "Decision",
    "Facts",
    "Refusal",
    "RefusedError",
    "Settings",
    "Subject",
    "TokenBudgetError",
    "Usage",
    "WSGIMiddleware",
    "current",
    "own_limits",
    "refusal_of",
]

_HOMES = {
    "ASGIMiddleware": "asgi",
    "BudgetExceeded": "errors",
    "Call": "calls.call",
    "ConfigurationError": "errors",
    "Decision": "values",
    "Facts": "values",
    "Refusal": "rules.refusals",
    "RefusedError": "errors",
    "Settings": "settings",
    "Subject": "values",
    "TokenBudgetError": "errors",
    "Usage": "values",
    "WSGIMiddleware": "wsgi",
    "current": "calls.call",
    "own_limits": "settings.own_limits",
    "refusal_of": "limiting",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
