"""
Work on many rows in turns, so that the thread that does it does not hold up an event loop beside it.

CPython hands the interpreter over when another thread has waited for five milliseconds (`sys.getswitchinterval`), and never
within one call into C. A flusher that stops of its own accord keeps a loop waiting for a fraction of that.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

__all__ = ["SUMMED", "in_turns"]

T = TypeVar("T")

ROWS = 50
"""Rows of a turn that converts them: a fraction of a millisecond of work."""

SUMMED = 100
"""Rows of a turn that only adds them up."""

PAUSE = 0.0001
"""Seconds between two turns. Letting go without a pause is not enough: whoever waits must wake up before it is taken again."""


def in_turns(rows: Iterable[T], most: int = ROWS) -> Iterator[list[T]]:
    """
    Give *rows*, *most* at a time, and let other threads run in between.

    >>> [len(some) for some in in_turns(range(60))]
    [50, 10]
    """
    waiting = iter(rows)
    while some := list(islice(waiting, most)):
        yield some
        if len(some) == most:
            time.sleep(PAUSE)
