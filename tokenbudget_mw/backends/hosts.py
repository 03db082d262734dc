"""
What the host does with threads of ours, and with processes.
"""

from __future__ import annotations

import os
import sys
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["in_children", "threads_run"]


def threads_run() -> bool:
    """
    Tell whether a thread that is started runs: uWSGI without ``enable-threads`` runs none but the one that serves.
    """
    uwsgi = sys.modules.get("uwsgi")
    return uwsgi is None or bool(uwsgi.opt.get("enable-threads") or uwsgi.opt.get("threads"))


def in_children(method: Callable[[], None]) -> None:
    """
    Call *method* in each process that is forked from this one, as long as its object lives.
    """
    if sys.platform == "win32":
        return
    reference = weakref.WeakMethod(method)

    def call() -> None:
        living = reference()
        if living is not None:
            living()

    os.register_at_fork(after_in_child=call)
