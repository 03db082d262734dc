"""
The handler of a signal that raises, as that of a queue does which ends tasks by a time limit, in every step of some work.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator

__all__ = ["Struck", "strikes"]


class Struck(BaseException):
    """What the handler raises."""


class _Handler:
    """
    Raises where the handler of a signal may: behind the *at*-th call that a thread makes, or as it begins.
    """

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, _frame: object, event: str, _argument: object) -> None:
        if event in {"call", "c_return"}:
            self.left -= 1
            if not self.left:
                raise Struck


def strikes(work: Callable[[], object]) -> Iterator[BaseException | None]:
    """
    Do *work* again and again, each time struck one step later, until it is done before. Gives what came out of it, None where
    nothing did; the last one was not struck.
    """
    for at in itertools.count(1):
        handler, raised = _Handler(at), None
        try:
            try:
                sys.setprofile(handler)
                work()
            finally:
                sys.setprofile(None)
        except BaseException as exc:  # an exit, too
            raised = exc
        yield raised
        if handler.left > 0:
            return
