"""
The official JavaScript SDKs on Node, the newest and the oldest that are supported, as `test_sdk_refusals` has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import javascript
import pytest
from sdk_cases import CASES, SdkServers, sdk_servers
from sdk_checks import check

LIBRARIES = ("openai", "anthropic", "openai-oldest", "anthropic-oldest")


@pytest.fixture(scope="module")
def servers() -> Iterator[SdkServers]:
    """All servers."""
    with sdk_servers() as running:
        yield running


@pytest.fixture(scope="module")
def seen(servers: SdkServers, javascript_sdks: Path) -> dict[str, Any]:
    """What the clients saw."""
    return javascript.run_probe(javascript_sdks, servers.jobs(*LIBRARIES))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("library", LIBRARIES)
def test_javascript(servers: SdkServers, seen: dict[str, Any], library: str, name: str) -> None:
    """A client sees what the table says."""
    id_ = f"{library}: {name}"

    check(name, seen[id_], servers.seen[id_])
