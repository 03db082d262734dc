"""
A proxy before a server that passes bytes on, or does to them what bad networks do.
"""

from __future__ import annotations

import socket
import struct
import threading
from typing import Literal

__all__ = ["FaultProxy"]

Mode = Literal["pass", "refuse", "blackhole", "slow", "drip", "reset"]

SLOW = 0.3
DRIP = 0.02


class FaultProxy:
    """
    Listens on a port of its own; *mode* may change while connections are open.

    Args:
        port: The server's port, on this host.
    """

    def __init__(self, port: int) -> None:
        self.mode: Mode = "pass"
        self._target = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._over = threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def become(self, mode: Mode) -> None:
        """
        Change the mode; ``refuse`` and ``reset`` end what is open, too.
        """
        self.mode = mode
        if mode in ("refuse", "reset"):
            for one in self._sockets:
                _end(one, is_reset=mode == "reset")

    def close(self) -> None:
        """
        End everything.
        """
        self._over.set()
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for one in self._sockets:
            _end(one)
        for thread in self._threads:
            thread.join(5)

    def _start(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            if self.mode in ("refuse", "reset"):
                _end(client, is_reset=self.mode == "reset")
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                _end(client)
                continue
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets += (client, server)
            self._start(self._pump, client, server, False)
            self._start(self._pump, server, client, True)

    def _pump(self, source: socket.socket, sink: socket.socket, is_reply: bool) -> None:
        try:
            while data := source.recv(65_536):
                self._pass_on(data, sink, is_reply)
        except OSError:
            pass  # the other pump, or the test, has ended the connection
        finally:
            _end(sink)

    def _pass_on(self, data: bytes, sink: socket.socket, is_reply: bool) -> None:
        while self.mode == "blackhole" and not self._over.is_set():
            self._over.wait(DRIP)
        if is_reply and self.mode == "slow":
            self._over.wait(SLOW)
        if not (is_reply and self.mode == "drip"):
            sink.sendall(data)
            return
        for at in range(len(data)):
            if self.mode == "drip":
                self._over.wait(DRIP)
            sink.sendall(data[at : at + 1])


def _end(one: socket.socket, *, is_reset: bool = False) -> None:
    try:
        if is_reset:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # its own pump is woken; only where there is no reset the other side is told of an orderly end
        one.shutdown(socket.SHUT_RD if is_reset else socket.SHUT_RDWR)
    except OSError:
        pass  # ended before
    one.close()
