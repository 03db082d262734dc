"""
Storages of the ``limits`` package for the tests of this folder.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest
from memcached_server import MemcachedServer

if TYPE_CHECKING:
    from collections.abc import Iterator


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
