"""
TLS before a server that speaks none: not every redis-server is built with it.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from private_servers import ServerMissingError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Certificate", "make_certificate", "tls_front"]


class Certificate(NamedTuple):
    """
    A certificate that vouches for itself.

    Attributes:
        cert: Its file.

        key: Its private key's.
    """

    cert: Path
    key: Path


def make_certificate(folder: Path, name: str) -> Certificate:
    """
    Make a certificate for *name*, as subjectAltName has it: ``IP:127.0.0.1``, ``DNS:localhost``.
    """
    openssl = shutil.which("openssl")
    if openssl is None:
        raise ServerMissingError("no openssl on the PATH")
    made = Certificate(folder / "cert.pem", folder / "key.pem")
    request = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tests"]
    files = ["-keyout", str(made.key), "-out", str(made.cert)]
    subprocess.run([*request, *files, "-addext", f"subjectAltName={name}"], check=True, capture_output=True)
    return made


@contextmanager
def tls_front(target: int, certificate: Certificate, *, ask_client: bool = False, pause: float = 0.0) -> Iterator[int]:
    """
    Listen with TLS before loopback port *target*; give the port.

    Args:
        target: Where the server listens.

        certificate: Shown to clients.

        ask_client: Whether a client must show the same.

        pause: Seconds that pass before the handshake begins.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert, certificate.key)
    if ask_client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificate.cert)
    front = _Front(target, context, pause)
    thread = threading.Thread(target=front.run)
    thread.start()
    front.is_ready.wait(10)
    try:
        yield front.port
    finally:
        front.stop()
        thread.join(10)


class _Front:
    def __init__(self, target: int, context: ssl.SSLContext, pause: float) -> None:
        self.port = 0
        self.is_ready = threading.Event()
        self._target = target
        self._context = context
        self._pause = pause
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._clients: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()
        asyncio.set_event_loop(None)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)

    async def _serve(self) -> None:
        server = socket.create_server(("127.0.0.1", 0))
        server.setblocking(False)
        self.port = server.getsockname()[1]
        self._loop.add_reader(server, self._accept, server)
        self.is_ready.set()
        await self._over.wait()
        self._loop.remove_reader(server)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # transports close their sockets in the loop's next turn
        for each in (server, *self._clients):  # of some no step was done
            each.close()

    def _accept(self, server: socket.socket) -> None:
        with suppress(BlockingIOError):  # who came has left already
            client, _ = server.accept()
            client.setblocking(False)
            self._clients.append(client)
            self._tasks.add(self._loop.create_task(self._serve_one(client)))

    async def _serve_one(self, client: socket.socket) -> None:
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        await asyncio.sleep(self._pause)
        try:
            transport, _ = await self._loop.connect_accepted_socket(lambda: protocol, client, ssl=self._context)
        except OSError:
            return  # whoever connected sees it, too
        writer = asyncio.StreamWriter(transport, protocol, reader, self._loop)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
            try:
                await asyncio.gather(_pump(reader, back), _pump(there, writer))
            finally:
                back.transport.abort()  # a pump that is cancelled before its first step aborts nothing
        except OSError:
            pass  # as above
        finally:
            transport.abort()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65_536):
            sink.write(data)
            await sink.drain()
    finally:
        sink.transport.abort()
