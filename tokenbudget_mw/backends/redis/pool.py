"""
The connections of a process's threads to one place.

They are opened aside, by a thread each: names are looked up, keys exchanged and passwords checked however long it takes,
while the call that wanted the connection waits for no more than its deadline. Where the host runs no threads but its own,
that call opens it.

A signal's handler may raise in whatever step a thread is, as queues do that end tasks by a time limit. So no `Condition` is
waited for, which such a handler finds without its lock; and what is open is counted by what there is.
"""

from __future__ import annotations

import os
import queue
import threading
import time
import weakref
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
            shelf.ring(1)

    def drop(self, wire: BlockingWire) -> None:
        """
        Close a connection that was lent.
        """
        wire.close()
        shelf = self._own()
        if wire.home is shelf:
            shelf.leave(wire)

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
        me, failures = object(), shelf.failures
        try:
            shelf.waiting.add(me)
            while True:
                with suppress(IndexError):
                    return shelf.idle.pop()
                if shelf.failures != failures:
                    raise RedisConnectionError("No connection could be opened.") from shelf.fault
                left = ends - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"None of {shelf.open} connections was free.")
                self._see_to_more(shelf)
                with suppress(queue.Empty):
                    shelf.rings.get(timeout=left)
        finally:
            shelf.waiting.discard(me)
            if shelf.idle and shelf.waiting:  # it may have heard what was meant for another
                shelf.ring(1)

    def _see_to_more(self, shelf: _Shelf) -> None:
        with shelf.lock:
            if shelf.open >= self._limit or shelf.connecting >= len(shelf.waiting):
                return
            # the thread waits for the lock before it counts on
            if threads.start(self._work, shelf, name="tokenbudget-connect") is not None:
                shelf.connecting += 1
            elif not shelf.open:
                raise RedisConnectionError("No thread is left that could open a connection.")

    def _open_here(self, shelf: _Shelf, ends: float) -> BlockingWire:
        wire = self._connect(ends - time.monotonic())
        shelf.enter(wire)
        return wire

    def _work(self, shelf: _Shelf) -> None:
        try:
            wire = self._connect(None)
        except Exception as exc:  # noqa: BLE001 - whoever waits is told, whatever it was
            with shelf.lock:
                shelf.fault = exc
                shelf.failures += 1
                shelf.connecting -= 1
            shelf.ring(len(shelf.waiting))
        else:
            with shelf.lock:
                shelf.enter(wire)
                shelf.connecting -= 1
            self.give(wire)


class _Shelf:
    """
    What a pool has in one process.

    Attributes:
        pid: The process.

        idle: Connections that are not lent.

        wires: All that there are, lent or idle. One that is lost on its way is missed by nobody.

        connecting: How many are about to be.

        waiting: One for each thread that waits for a connection.

        rings: Wake who waits.

        failures: How often opening one failed.

        fault: Why, the last time.

        lock: For what takes several steps. The garbage collector may come back to it within one of them.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.idle: deque[BlockingWire] = deque()
        self.wires: weakref.WeakSet[BlockingWire] = weakref.WeakSet()
        self.connecting = 0
        self.waiting: set[object] = set()
        self.rings: queue.SimpleQueue[None] = queue.SimpleQueue()  # not by name: gevent may take its place later
        self.failures = 0
        self.fault: Exception | None = None
        self.lock = threading.RLock()

    @property
    def open(self) -> int:
        """
        How many connections there are, lent, idle or about to be.
        """
        return len(self.wires) + self.connecting

    def enter(self, wire: BlockingWire) -> None:
        """
        Make *wire* one of these.
        """
        wire.home = self
        with self.lock:
            self.wires.add(wire)

    def leave(self, wire: BlockingWire) -> None:
        """
        Forget *wire*. Whoever waits may open another.
        """
        with self.lock:
            self.wires.discard(wire)
        self.ring(len(self.waiting))

    def ring(self, most: int) -> None:
        """
        Wake up to *most* of those that wait.
        """
        for _ in range(min(most, len(self.waiting) - self.rings.qsize())):
            self.rings.put(None)
