"""
A provider on a socket, and books of a script.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from provider_server import Books, ProviderServer


@pytest.fixture(scope="session")
def provider() -> Iterator[ProviderServer]:
    """The fake provider, for all tests here."""
    with ProviderServer() as running:
        yield running


@pytest.fixture
def books() -> Iterator[Books]:
    """Limits and books of a script, on a clock that stands still."""
    made = Books()
    yield made
    made.close()
