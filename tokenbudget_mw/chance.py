"""
Random numbers of the package's own.

Whoever seeds Python's `random`, as tests and simulations do, must neither steer the ids of usage rows (two workers with one
seed would make the same ones, and their rows would be taken for each other) nor find its own numbers disturbed.
"""

from __future__ import annotations

import os
import random

__all__ = ["chance", "generator"]


def generator() -> random.Random:
    """
    Return a generator that the system's randomness seeds, in a forked child anew. For where one's numbers can be guessed
    from those that are shown, another is needed.
    """
    made = random.Random()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=made.seed)
    return made


chance = generator()
"""For ids and for waits. Ids are shown, so nothing that is to stay secret may come from here."""
