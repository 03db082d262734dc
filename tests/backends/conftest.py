"""
Backends with all that stands around them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tokenbudget_mw.backends import open_async_backend, open_backend
from tokenbudget_mw.testing.asks import Blocking

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tokenbudget_mw.backends.base import Backend


@pytest.fixture(params=["threads", "loop"])
def opened(request: pytest.FixtureRequest) -> Iterator[Callable[..., Backend]]:
    """
    Open a backend with breaker and fallback, in each colour.
    """
    backends: list[Backend] = []

    def make(url: str, **options: Any) -> Backend:
        is_threads = request.param == "threads"
        backends.append(open_backend(url, **options) if is_threads else Blocking(open_async_backend(url, **options)))
        return backends[-1]

    yield make
    for backend in backends:
        backend.close()
