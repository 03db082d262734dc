"""
Threads of the package's own: daemons, which keep no process from its end. And locks that outlive a fork.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import RLock

__all__ = ["Bell", "can_run", "lock", "own", "start"]


def start(work: Callable[..., object], *arguments: object, name: str) -> threading.Thread | None:
    """
    Do *work* in a thread called *name*; return None where none can start: the system has no thread left (a container may
    have few), or the interpreter ends. No request fails for that, and whoever needs the thread next tries again.
    """
    thread = threading.Thread(target=work, args=arguments, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return None
    return thread


def can_run() -> bool:
    """
    Tell whether a thread that is started runs: uWSGI without ``enable-threads`` runs none but the one that serves, though they
    look alive.
    """
    uwsgi = sys.modules.get("uwsgi")
    return uwsgi is None or bool(uwsgi.opt.get("enable-threads") or uwsgi.opt.get("threads"))


def lock() -> RLock:
    """
    Return a lock that its thread may take again, and that a forked child finds free: a fork copies a lock that another thread
    holds at that moment, and not the thread, so the child would wait for ever. For what is made once, not for each request.
    """
    made = threading.RLock()
    if hasattr(made, "_at_fork_reinit"):  # gevent's has none, nor any thread to hold it
        _freed.add(made)
    return made


def own(lock: RLock) -> None:
    """
    Take *lock* unless this thread holds it: a signal's handler may raise while the lock is waited for as well as behind its
    taking, and whoever releases it in a `finally` must not hide what the handler raised.
    """
    if not lock._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001 - as `threading.Condition` does
        lock.acquire()


_freed: weakref.WeakSet[Any] = weakref.WeakSet()


def _free() -> None:
    for each in list(_freed):
        each._at_fork_reinit()  # noqa: SLF001 - as the standard library does with its own


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free)


class Bell:
    """
    Wakes one thread that waits. Unlike an `Event` it may be rung in the midst of itself, and of its own wait: the garbage collector
    closes streams, which ring, in whatever step a thread is.
    """

    __slots__ = ("_rings",)

    def __init__(self) -> None:
        self._rings: queue.SimpleQueue[None] = queue.SimpleQueue()  # not by name: gevent may take its place later

    def ring(self) -> None:
        """
        Wake whoever waits, or comes to wait.
        """
        if self._rings.empty():  # one is enough, should nobody wait for long
            self._rings.put(None)

    def wait(self, timeout: float | None) -> None:
        """
        Wait until it rings, for at most *timeout* seconds, and forget how often it did.
        """
        with suppress(queue.Empty):
            self._rings.get(timeout=timeout)
            while True:
                self._rings.get_nowait()
