"""
A stream of any length passes in constant memory, read on its way: a gigabyte under ``tox -e chaos``, some megabytes elsewhere.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import time
import urllib.request
from collections.abc import Iterator

import pytest
from adapter_servers import Server, serving
from memory_of import peak
from raw_http import message

IS_CHAOS = bool(os.environ.get("TOKENBUDGET_TEST_CHAOS"))
MEGABYTES = 1_000 if IS_CHAOS else 40
BEFORE = 10
"""Megabytes of a first stream, after which a server holds all that it ever will."""
MOST_GROWTH = 16 << 20
"""Of the server's peak memory during the long stream, in bytes."""
BODY = json.dumps({"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": "one"}]}).encode()

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module", params=[("uvicorn", "stream_host"), ("gunicorn", "stream_wsgi_host")], ids="-".join)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of long streams."""
    with serving(*request.param, tmp_path_factory.mktemp("streams"), TOKENBUDGET_EXEMPT="/flush") as running:
        yield running


def stream(server: Server, path: str, key: str, megabytes: int, *, has_usage: bool) -> int:
    """How many bytes of a stream come; none of them is kept."""
    headers = {"x-subject": key, "x-megabytes": str(megabytes)} | ({"x-usage": "1"} if has_usage else {})
    come = 0
    with socket.create_connection(("127.0.0.1", server.port), timeout=300) as connection:
        connection.sendall(message("POST", path, headers, BODY))
        while piece := connection.recv(1 << 20):
            come += len(piece)
    return come


def booked(server: Server, key: str) -> list[tuple[int, str]]:
    """Output tokens and source of the rows of *key*."""
    urllib.request.urlopen(f"http://127.0.0.1:{server.port}/flush", timeout=60).close()
    connection = sqlite3.connect(server.database)
    query = "SELECT output_tokens, usage_source FROM tokenbudget_usage WHERE key_id = ?"
    found = connection.execute(query, (key,)).fetchall()
    connection.close()
    return found


@pytest.mark.parametrize(
    ("path", "has_usage"),
    [("/v1/chat/completions", True), ("/v1/chat/completions", False), ("/ended/v1", True)],
    ids=["usage", "counted", "bounded"],
)
def test_memory_is_flat_over_a_long_stream(server: Server, path: str, has_usage: bool) -> None:
    """Whether the stream says its usage, is counted, or ends with its budget: a hundred times the length is no more memory."""
    key = f"k-{path[1:6]}-{has_usage}"
    stream(server, path, key, BEFORE, has_usage=has_usage)
    before, begun = peak(server), time.monotonic()

    come = stream(server, path, key, MEGABYTES, has_usage=has_usage)

    grown, took = peak(server) - before, time.monotonic() - begun
    print(
        f"{come / 1e6:.0f} MB in {took:.1f} s; peak memory {before / 1e6:.1f} MB, and {grown / 1e6:.2f} MB more after it"
    )
    assert come >= MEGABYTES * 990_000
    assert grown < MOST_GROWTH
    (_, (tokens, source)) = booked(server, key)
    assert source == ("provider" if has_usage else "counted")
    assert tokens == 7 if has_usage else tokens > MEGABYTES * 100_000
