"""
The pytest plugin: the fixture `tokenbudget`. Loaded at the start of every run, so it imports nothing that it need not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tokenbudget_mw.testing.budget import BudgetTester

__all__ = ["tokenbudget", "tokenbudget_settings"]

pytest.register_assert_rewrite(
    "tokenbudget_mw.testing.adapters", "tokenbudget_mw.testing.backends", "tokenbudget_mw.testing.budget"
)


@pytest.fixture
def tokenbudget_settings() -> Mapping[str, Any]:
    """
    Settings that the fixture `tokenbudget` takes; override it in a ``conftest.py`` to return those of your app.
    """
    return {}


@pytest.fixture
def tokenbudget(tokenbudget_settings: Mapping[str, Any]) -> Iterator[BudgetTester]:
    """
    Limits and books for a test: everything in memory, on a clock that stands still.

    Hand ``tokenbudget.core`` to the adapter in place of its settings.
    """
    from tokenbudget_mw.testing.budget import BudgetTester

    tester = BudgetTester(tokenbudget_settings)
    yield tester
    tester.close()
