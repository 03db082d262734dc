"""
Random numbers of the package's own.

Whoever seeds Python's `random`, as tests and simulations do, must neither steer the ids of usage rows (two workers with one
seed would make the same ones, and their rows would be taken for each other) nor find its own numbers disturbed.
"""

from __future__ import annotations

import os
import random

__all__ = ["chance", "generator"]


class _Chance(random.Random):
    """
    Bits of one process's own. Forks made in C (uWSGI's workers) announce themselves to nobody, so the process is looked at:
    the first ids of two workers would be the same in one millisecond.
    """

    _process = os.getpid()

    def getrandbits(self, k: int, /) -> int:
        process = os.getpid()
        if process != self._process:
            self.seed()  # first: until then another thread may not take what was inherited
            self._process = process
        return super().getrandbits(k)


def generator() -> random.Random:
    """
    Return a generator that the system's randomness seeds, in a forked child anew. For where one's numbers can be guessed
    from those that are shown, another is needed.
    """
    made = _Chance()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=made.seed)
    return made


chance = generator()
"""For ids and for waits. Ids are shown, so nothing that is to stay secret may come from here."""
