"""
The connections of a process's threads to one place.

They are opened aside, by a thread each: names are looked up, keys exchanged and passwords checked however long it takes,
while the call that wanted the connection waits for no more than its deadline. Where the host runs no threads but its own,
that call opens it.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from redis.exceptions import ConnectionError as RedisConnectionError

from tokenbudget_mw import threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenbudget_mw.backends.redis.client import BlockingWire

__all__ = ["Pool"]


class Pool:
    """
    Lends connections, the one that was used last first. A fork's child starts with none.

    Args:
        connect: Opens a connection, in no more than the seconds it is given; in its own time where that is None.

        limit: How many are open at most.
    """

    def __init__(self, connect: Callable[[float | None], BlockingWire], limit: int) -> None:
        self._connect = connect
        self._limit = limit
        self._shelf = _Shelf()

    def take(self, ends: float) -> BlockingWire:
        """
        Lend a connection.

        Args:
            ends: When the wait is over, by `time.monotonic`.

        Raises:
            TimeoutError: None was free until then.

            RedisError: None could be opened; the cause says why.
        """
        shelf = self._own()
        try:
            return shelf.idle.pop()
        except IndexError:
            return self._wait(shelf, ends) if threads.can_run() else self._open_here(shelf, ends)

    def give(self, wire: BlockingWire) -> None:
        """
        Take a connection back.
        """
        shelf = self._own()
        if wire.home is not shelf:  # lent before a fork, or before all were closed
            wire.close()
            return
        shelf.idle.append(wire)
        if shelf.waiting:
            with shelf.changed:
                shelf.changed.notify()

    def drop(self, wire: BlockingWire) -> None:
        """
        Close a connection that was lent.
        """
        wire.close()
        shelf = self._own()
        if wire.home is shelf:
            self._gone(shelf)

    def clear(self) -> None:
        """
        Close those that are not lent.
        """
        shelf = self._own()
        with suppress(IndexError):
            while True:
                self.drop(shelf.idle.pop())

    def close(self) -> None:
        """
        Close all, those that are lent as soon as they are given back. Whoever takes one later gets a new one.
        """
        old, self._shelf = self._own(), _Shelf()
        with suppress(IndexError):
            while True:
                old.idle.pop().close()

    def _own(self) -> _Shelf:
        if self._shelf.pid != os.getpid():
            self._shelf = _Shelf()  # what it holds belongs to the parent, and its lock may be held for ever
        return self._shelf

    def _wait(self, shelf: _Shelf, ends: float) -> BlockingWire:
        with shelf.changed:
            shelf.waiting += 1
            failures = shelf.failures
            try:
                while True:
                    with suppress(IndexError):
                        return shelf.idle.pop()
                    if shelf.failures != failures:
                        raise RedisConnectionError("No connection could be opened.") from shelf.fault
                    left = ends - time.monotonic()
                    if left <= 0:
                        raise TimeoutError(f"None of {shelf.open} connections was free.")
                    if shelf.open < self._limit and shelf.connecting < shelf.waiting:
                        self._start(shelf)
                    shelf.changed.wait(left)
            finally:
                shelf.waiting -= 1

    def _open_here(self, shelf: _Shelf, ends: float) -> BlockingWire:
        wire = self._connect(ends - time.monotonic())
        wire.home = shelf
        with shelf.changed:
            shelf.open += 1
        return wire

    def _start(self, shelf: _Shelf) -> None:
        # the thread waits for the lock before it counts on
        if threads.start(self._work, shelf, name="tokenbudget-connect") is not None:
            shelf.open += 1
            shelf.connecting += 1
        elif not shelf.open:
            raise RedisConnectionError("No thread is left that could open a connection.")

    def _work(self, shelf: _Shelf) -> None:
        try:
            wire = self._connect(None)
        except Exception as exc:  # noqa: BLE001 - whoever waits is told, whatever it was
            with shelf.changed:
                shelf.fault = exc
                shelf.failures += 1
                shelf.connecting -= 1
            self._gone(shelf)
        else:
            wire.home = shelf
            with shelf.changed:
                shelf.connecting -= 1
            self.give(wire)

    @staticmethod
    def _gone(shelf: _Shelf) -> None:
        with shelf.changed:
            shelf.open -= 1
            shelf.changed.notify_all()


class _Shelf:
    """
    What a pool has in one process.

    Attributes:
        pid: The process.

        idle: Connections that are not lent.

        open: How many there are, lent, idle or about to be.

        connecting: How many of them are about to be.

        waiting: How many threads wait for one.

        failures: How often opening one failed.

        fault: Why, the last time.

        changed: Told when any of this changes.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.idle: deque[BlockingWire] = deque()
        self.open = 0
        self.connecting = 0
        self.waiting = 0
        self.failures = 0
        self.fault: Exception | None = None
        self.changed = threading.Condition()
