"""
The official Python SDKs, sync and async, against the demonstration's app and against apps that refuse: the right
exception, the right wait, and no attempt in vain.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sdk_calls import acall_all, call_all
from sdk_cases import CASES, SdkServers, sdk_servers
from sdk_checks import check

LIBRARIES = ("openai", "anthropic")


@pytest.fixture(scope="module")
def servers() -> Iterator[SdkServers]:
    """All servers."""
    with sdk_servers() as running:
        yield running


@pytest.fixture(scope="module")
def sync_seen(servers: SdkServers) -> dict[str, Any]:
    """What the sync clients saw."""
    return call_all(servers.jobs(*LIBRARIES))


@pytest.fixture(scope="module")
def async_seen(servers: SdkServers) -> dict[str, Any]:
    """What the async clients saw."""
    return acall_all(servers.jobs(*(f"{library}-async" for library in LIBRARIES)))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("library", LIBRARIES)
def test_sync(servers: SdkServers, sync_seen: dict[str, Any], library: str, name: str) -> None:
    """A sync client sees what the table says."""
    id_ = f"{library}: {name}"

    check(name, sync_seen[id_], servers.seen[id_])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("library", LIBRARIES)
def test_async(servers: SdkServers, async_seen: dict[str, Any], library: str, name: str) -> None:
    """An async client sees the same."""
    id_ = f"{library}-async: {name}"

    check(name, async_seen[id_], servers.seen[id_])
