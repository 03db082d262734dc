"""
Holds counters of limits against the books: where both know what was used in a period, they must say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from tokenbudget_mw.rules.seeding import questions

if TYPE_CHECKING:
    from tokenbudget_mw.operators import Look, Operators
    from tokenbudget_mw.rules.seeding import Question
    from tokenbudget_mw.values import Subject, Unit

__all__ = ["Compared", "compare"]

Read = Callable[[Sequence["Question"]], list[tuple[int, ...]]]


@dataclass(frozen=True, slots=True)
class Compared:
    """
    A limit of a calendar period, by its counter and by the books.

    Attributes:
        limit: The limit's name.

        counter: Whose count it is, for example ``tenant=acme``.

        unit: What is counted.

        counted: What the counter holds, in the unit; nano-dollars of money.

        booked: What the books say, in the same.

        slack: By how much the counter may hold more: costs of calls are rounded up to nano-dollars, one by one.
    """

    limit: str
    counter: str
    unit: Unit
    counted: int
    booked: int
    slack: int

    @property
    def lacks(self) -> bool:
        """
        Whether the counter holds less than was used: the limit admits too much.
        """
        return self.counted < self.booked

    @property
    def agrees(self) -> bool:
        """
        Whether they say the same. A counter holds more while calls run, and until what they used is written.
        """
        return 0 <= self.counted - self.booked <= self.slack


def compare(
    operators: Operators, read: Read, subjects: Iterable[Subject], clock: Callable[[], float]
) -> Iterator[Compared]:
    """
    Yield the limits of calendar periods of *subjects*, each counter once.

    Trailing windows are left out (they are cut into slots that the books do not know), and so are limits per model or per
    route, and counters that the backend does not know yet: those will start at what the books say.

    Args:
        operators: Looks at counters.

        read: Answers questions to the books: for each an amount a span.

        subjects: Whose limits.

        clock: Epoch seconds.
    """
    seen: set[tuple[str, ...]] = set()
    for subject in subjects:
        look = operators.look(subject)
        places: list[int] = []
        for at, (limit, check) in enumerate(zip(look.plan.limits, look.plan.ask.checks, strict=True)):
            key = (look.plan.ask.tag, check.counter, check.window)
            is_known = look.states and check.is_booked and at not in look.unknown
            if is_known and limit.window is not None and limit.window.period is not None and key not in seen:
                seen.add(key)
                places.append(at)
        yield from _compared(look, places, read, clock())


def _compared(look: Look, places: Sequence[int], read: Read, now: float) -> Iterator[Compared]:
    asked = questions(look.plan, places, look.request, now)
    rows = [replace(question, unit="requests") for question in asked.values()]
    answers = read((*asked.values(), *rows))
    for at, (booked,), (count,) in zip(asked, answers, answers[len(rows) :], strict=False):
        limit, check, state = look.plan.limits[at], look.plan.ask.checks[at], look.states[at]
        # nothing is left of a limit in debt either: by how much it is, its counter does not tell
        counted = limit.amount - state.remaining if state.remaining else max(limit.amount, booked)
        slack = count if limit.unit == "money" else 0
        yield Compared(limit.name, check.counter, limit.unit, counted, booked, slack)
