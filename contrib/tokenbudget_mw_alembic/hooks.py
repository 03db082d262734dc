"""
Hooks that keep our tables out of a host's ``alembic revision --autogenerate``.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

from tokenbudget_mw.database.tables import PREFIX

__all__ = ["include_name", "include_object"]

IncludeName = Callable[[str | None, Any, MutableMapping[Any, str | None]], bool]
IncludeObject = Callable[[Any, str | None, Any, bool, Any], bool]


def _is_ours(name: str | None, type_: str) -> bool:
    return type_ == "table" and name is not None and name.startswith(PREFIX)


def include_name(host: IncludeName | None = None) -> IncludeName:
    """
    Return an ``include_name`` hook for Alembic that leaves out our tables.

    Args:
        host: The host's own hook, asked about everything else.

    >>> hook = include_name()
    >>> hook("tokenbudget_usage", "table", {}), hook("orders", "table", {})
    (False, True)
    """

    def include(name: str | None, type_: Any, parent_names: MutableMapping[Any, str | None]) -> bool:
        if _is_ours(name, type_):
            return False
        return host is None or host(name, type_, parent_names)

    return include


def include_object(host: IncludeObject | None = None) -> IncludeObject:
    """
    Return an ``include_object`` hook for Alembic that leaves out our tables, for hosts that filter this way already.

    Args:
        host: The host's own hook, asked about everything else.
    """

    def include(item: Any, name: str | None, type_: Any, reflected: bool, compare_to: Any) -> bool:
        if _is_ours(name, type_):
            return False
        return host is None or host(item, name, type_, reflected, compare_to)

    return include
