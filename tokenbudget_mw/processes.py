"""
State that belongs to one process: a forked child starts with its own.
"""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PerProcess", "call_at_exit", "call_in_children"]

T = TypeVar("T")


class PerProcess(Generic[T]):
    """
    A value that every process builds for itself.

    A fork copies queues, locks (perhaps held) and thread objects (without their threads). None of them may be used in
    the child, so the child builds new ones. Forks made by Python announce themselves; those made in C (uWSGI) do not,
    so the process id is looked at on every access as well.

    Args:
        build: Makes the value of a process.

        discard: Gives back, in the child, what it has inherited: open files, mapped memory.
    """

    __slots__ = ("__weakref__", "_build", "_discard", "_values")

    def __init__(self, build: Callable[[], T], discard: Callable[[T], None] | None = None) -> None:
        self._build = build
        self._discard = discard
        self._values = {os.getpid(): build()}
        call_in_children(self.renew)

    def get(self) -> T:
        """
        Return the value of the process that asks.
        """
        value = self._values.get(os.getpid())
        return self._adopt() if value is None else value

    def renew(self) -> None:
        """
        Forget every value; the next `get` builds one.
        """
        inherited, self._values = self._values, {}
        self._give_back(inherited)

    def _adopt(self) -> T:
        # setdefault is one step, so two threads of a new process end with the same value.
        pid = os.getpid()
        value = self._values.setdefault(pid, self._build())
        inherited, self._values = self._values, {pid: value}
        self._give_back({owner: each for owner, each in inherited.items() if owner != pid})
        return value

    def _give_back(self, inherited: dict[int, T]) -> None:
        if self._discard is not None:
            for value in inherited.values():
                self._discard(value)


def call_in_children(method: Callable[[], None]) -> None:
    """
    Call *method* of an object, as long as that lives, in every process that is forked from this one.
    """
    if sys.platform == "win32":
        return
    os.register_at_fork(after_in_child=_weakly(method))


def call_at_exit(method: Callable[[], None]) -> None:
    """
    Call *method* of an object, as long as that lives, when this process ends by itself.

    A child of `multiprocessing` (granian's workers are such) ends without `atexit`: it has an end of its own. One of Celery's
    pool ends without either, and tells whoever listens to Celery's signal.
    """
    call = _weakly(method)
    celery = sys.modules.get("celery.signals")
    if celery is not None:
        celery.worker_process_shutdown.connect(lambda **_: call(), weak=False)
    processes = sys.modules.get("multiprocessing.process")
    if processes is None or processes.parent_process() is None:
        atexit.register(call)
        return
    from multiprocessing.util import Finalize

    Finalize(None, call, exitpriority=0)


def _weakly(method: Callable[[], None]) -> Callable[[], None]:
    reference = weakref.WeakMethod(method)

    def call() -> None:
        living = reference()
        if living is not None:
            living()

    return call
