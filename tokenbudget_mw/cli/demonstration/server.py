"""
Real servers on loopback sockets, in a thread of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import uvicorn

from tokenbudget_mw.errors import ConfigurationError

__all__ = ["serve"]

HOST = "127.0.0.1"
START_SECONDS = 10.0


@contextlib.contextmanager
def serve(apps: Sequence[tuple[Any, int]]) -> Iterator[list[int]]:
    """
    Serve each app at its port (0 takes a free one), all on one event loop, and give the ports.

    Raises:
        ConfigurationError: A port is taken, or the servers do not start.
    """
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(_listen(port)) for _, port in apps]
        servers = [uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)) for app, _ in apps]
        ready = threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(_run(servers, sockets, ready)), name="demo-server")
        thread.start()
        try:
            if not ready.wait(START_SECONDS):
                raise ConfigurationError("The demonstration's server did not start.")
            yield [listener.getsockname()[1] for listener in sockets]
        finally:
            for server in servers:
                server.should_exit = True
            thread.join()


async def _run(servers: list[uvicorn.Server], sockets: list[socket.socket], ready: threading.Event) -> None:
    tasks = [
        asyncio.create_task(server.serve(sockets=[listener])) for server, listener in zip(servers, sockets, strict=True)
    ]
    while not _are_up(servers) and not any(task.done() for task in tasks):  # noqa: ASYNC110 - they tell it by a flag
        await asyncio.sleep(0.01)
    ready.set()
    await asyncio.gather(*tasks)


def _are_up(servers: list[uvicorn.Server]) -> bool:
    return all(server.started for server in servers)


def _listen(port: int) -> socket.socket:
    # asyncio sets TCP_NODELAY only where the protocol is named, and without it answers wait 40 ms for an ACK
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as exc:
        listener.close()
        raise ConfigurationError(
            f"Port {port} of {HOST} cannot be used: {exc.strerror}. Choose another by --port."
        ) from exc
    return listener
