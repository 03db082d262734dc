"""
What settings name by a dotted path.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from tokenbudget_mw.errors import ConfigurationError

__all__ = ["load", "load_callable"]


def load(path: str, setting: str, hint: str) -> Any:
    """
    Import what *path* names: ``package.module.name``, or with a colon before the name.

    Args:
        path: The dotted path.

        setting: Where it stands, for the error.

        hint: What may stand there, for the error.

    Raises:
        ConfigurationError: There is nothing of that name.
    """
    module, _, name = path.replace(":", ".").rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as exc:
        message = f"at `{setting}`: cannot import {path!r} ({exc}). {hint}"
        raise ConfigurationError(message) from exc


def load_callable(path: str, setting: str, hint: str) -> Callable[..., Any]:
    """
    Import a callable; the rest as of `load`.

    Raises:
        ConfigurationError: There is nothing of that name, or it cannot be called.
    """
    found = load(path, setting, hint)
    if not callable(found):
        message = f"at `{setting}`: {path!r} is a {type(found).__name__}, not a callable."
        raise ConfigurationError(message)
    return found  # type: ignore[no-any-return]
