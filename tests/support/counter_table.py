"""
A storage that is a dict, and programs of `steps` that run on it as far as a test wants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenbudget_mw.backends.limits_storage.steps import Add, Get, Program, Step, Steps
from tokenbudget_mw.testing.asks import START, ask, check

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Table", "finish", "looked"]


class Table:
    """
    A storage without end of life.
    """

    def __init__(self) -> None:
        self.counters: dict[str, int] = {}
        self.fails: Callable[[Step], bool] = lambda _: False

    def do(self, step: Step) -> int:
        if self.fails(step):
            raise OSError("gone")
        if isinstance(step, Add):
            self.counters[step.key] = self.counters.get(step.key, 0) + step.amount
        elif not isinstance(step, Get):
            self.counters.pop(step.key, None)
        return self.counters.get(step.key, 0)

    def run(self, program: Program[Any]) -> Any:
        try:
            step = next(program)
            while True:
                step = program.send(self.do(step))
        except StopIteration as done:
            return done.value
        finally:
            program.close()

    def used(self, now: float = START, **options: Any) -> int:
        """
        Return what a window counts, as a process sees it that knows nothing else.
        """
        reply = self.run(Steps().peek(ask(check(0, 10**6, **options)), now))
        return 10**6 - reply.states[0].remaining


def looked(table: Table, program: Program[Any]) -> Step:
    """
    Run *program* up to its first charge, and return that.
    """
    step = next(program)
    while not isinstance(step, Add):
        step = program.send(table.do(step))
    return step


def finish(table: Table, program: Program[Any], step: Step) -> Any:
    """
    Run *program* from *step* to its end.
    """
    try:
        while True:
            step = program.send(table.do(step))
    except StopIteration as done:
        return done.value
