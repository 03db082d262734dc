"""
Threads of the package's own: daemons, which keep no process from its end.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["start"]


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
