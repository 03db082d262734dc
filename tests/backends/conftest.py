"""
Backends with all that stands around them, and storages of the ``limits`` package, for the tests of this folder.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

import pytest
from memcached_server import MemcachedServer

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


@pytest.fixture(scope="session")
def memcached() -> Iterator[str]:
    """
    URL of a memcached: the one in ``TOKENBUDGET_TEST_MEMCACHED_URL`` (``memcached://host:port``), else a stand-in's.
    """
    url = os.environ.get("TOKENBUDGET_TEST_MEMCACHED_URL")
    if url:
        yield f"limits+{url}"
        return
    server = MemcachedServer()
    yield server.url
    server.close()


@pytest.fixture
def empty_memcached(memcached: str) -> str:
    """
    URL of an empty memcached.
    """
    host, _, port = memcached.rpartition("://")[2].partition(":")
    with socket.create_connection((host, int(port)), 5) as talk:
        talk.sendall(b"flush_all\r\n")
        assert talk.recv(64) == b"OK\r\n"
    return memcached


@pytest.fixture
def storage(request: pytest.FixtureRequest, storage_name: str) -> str:
    """
    URL of an empty storage.
    """
    if storage_name == "memory":
        return "limits+memory://"
    if storage_name == "redis":
        return f"limits+{request.getfixturevalue('redis_db')}"
    url: str = request.getfixturevalue("empty_memcached")
    return url
