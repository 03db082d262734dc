"""
The part of memcached's text protocol that counters need, in a thread: for machines without the real server.

https://github.com/memcached/memcached/blob/master/doc/protocol.txt
"""

from __future__ import annotations

import socketserver
import threading
import time

__all__ = ["MemcachedServer"]

MONTH = 30 * 86_400


class MemcachedServer(socketserver.ThreadingTCPServer):
    """
    Listens on a port of its own until it is closed.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Talk)
        self.items: dict[bytes, tuple[bytes, float]] = {}
        self.lock = threading.Lock()
        self.url = f"limits+memcached://127.0.0.1:{self.server_address[1]}"
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join(5)

    def get(self, key: bytes) -> bytes | None:
        value, ends = self.items.get(key, (b"", 0.0))
        return value if ends > time.time() else None

    def put(self, key: bytes, value: bytes, expiry: int) -> None:
        # above a month it is a moment since the epoch
        self.items[key] = (value, float(expiry) if expiry > MONTH else time.time() + (expiry or MONTH))


class _Talk(socketserver.StreamRequestHandler):
    server: MemcachedServer

    def handle(self) -> None:
        while line := self.rfile.readline():
            command, *words = line.split()
            with self.server.lock:
                reply = getattr(self, f"do_{command.decode()}")(*words)
            self.wfile.write(reply)

    def do_get(self, *keys: bytes) -> bytes:
        found = [(key, self.server.get(key)) for key in keys]
        items = [b"VALUE %s 0 %d\r\n%s\r\n" % (key, len(value), value) for key, value in found if value is not None]
        return b"".join(items) + b"END\r\n"

    def do_add(self, key: bytes, _: bytes, expiry: bytes, size: bytes) -> bytes:
        value = self.rfile.read(int(size) + 2)[:-2]
        if self.server.get(key) is not None:
            return b"NOT_STORED\r\n"
        self.server.put(key, value, int(expiry))
        return b"STORED\r\n"

    def do_incr(self, key: bytes, amount: bytes) -> bytes:
        return self._change(key, int(amount))

    def do_decr(self, key: bytes, amount: bytes) -> bytes:
        return self._change(key, -int(amount))

    def do_delete(self, key: bytes) -> bytes:
        return b"DELETED\r\n" if self.server.items.pop(key, None) else b"NOT_FOUND\r\n"

    def do_flush_all(self) -> bytes:
        self.server.items.clear()
        return b"OK\r\n"

    def _change(self, key: bytes, amount: int) -> bytes:
        old = self.server.get(key)
        if old is None:
            return b"NOT_FOUND\r\n"
        new = b"%d" % max(0, int(old) + amount)
        # as the real one: a value that has become shorter keeps its length
        self.server.items[key] = (new.ljust(len(old)), self.server.items[key][1])
        return new + b"\r\n"
