"""
How things are timed: contenders take turns, medians are compared, CPU time counts.

Wall time on a shared machine says more about the neighbours than about the code, so a figure is CPU time of this process
unless its unit says otherwise. Contenders run round by round in rotating order, so that what drifts, drifts for all.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

__all__ = ["Contender", "Measure", "Result", "Scale", "UnavailableError", "alternate", "compare", "microseconds"]


class UnavailableError(Exception):
    """
    A benchmark cannot run here; the message says what it lacks.
    """


@dataclass(frozen=True, slots=True)
class Scale:
    """
    How long to measure.

    Attributes:
        rounds: Turns of each contender.

        share: Factor on the number of calls a turn.
    """

    rounds: int = 9
    share: float = 1.0

    def calls(self, full: int) -> int:
        """
        Return *full* calls, scaled; never below 10.
        """
        return max(10, int(full * self.share))


QUICK = Scale(rounds=2, share=0.01)


@dataclass(frozen=True, slots=True)
class Result:
    """
    One figure.

    Attributes:
        value: What was measured.

        unit: Of what.

        baseline: What it is compared with.

        baseline_value: The same measure of the baseline, from the same run.

        goal: The goal in words.

        met: Whether it is reached.

        details: Further figures of the run.
    """

    value: float
    unit: str
    baseline: str
    baseline_value: float
    goal: str
    met: bool
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """
        Value over baseline.
        """
        return self.value / self.baseline_value

    def as_json(self) -> dict[str, Any]:
        """
        Return the JSON object, numbers rounded to four significant digits.
        """
        whole = asdict(self)
        details = whole.pop("details")
        met, goal = whole.pop("met"), whole.pop("goal")
        return _rounded({**whole, "ratio": self.ratio, "goal": goal, "met": met, "details": details})


@dataclass(frozen=True, slots=True)
class Contender:
    """
    One way to do the work.

    Attributes:
        run: Does it so many times.

        after: Tidies up after a turn; not timed.
    """

    run: Callable[[int], object]
    after: Callable[[], object] = lambda: None


Measure = Callable[[Contender, int], float]
"""Microseconds a call of one turn."""


def microseconds(contender: Contender, calls: int) -> float:
    """
    Return the CPU time of this process a call, all its threads together.
    """
    gc.collect()
    start = time.process_time()
    contender.run(calls)
    used = time.process_time() - start
    contender.after()
    return used * 1e6 / calls


def compare(
    contenders: dict[str, Contender], scale: Scale, *, calls: int, measure: Measure = microseconds
) -> dict[str, float]:
    """
    Let *contenders* take turns of *calls* calls, after one turn each that does not count.

    Returns:
        The median turn of each.
    """
    turns = scale.calls(calls)
    names, seen = list(contenders), {name: list[float]() for name in contenders}
    for name in names:
        measure(contenders[name], max(10, turns // 10))
    for number in range(scale.rounds):
        for name in _rotated(names, number):
            seen[name].append(measure(contenders[name], turns))
    return {name: median(values) for name, values in seen.items()}


def alternate(
    contenders: dict[str, Callable[[Any], object]], given: Callable[[str], list[Any]], scale: Scale
) -> dict[str, float]:
    """
    Let *contenders* take turns call by call, for what takes microseconds: a neighbour slows all of them alike, then.

    Args:
        contenders: Ways to do the work on one thing.

        given: Name of a contender -> what it works on in one round; all of one length, made while no clock runs.

        scale: How many rounds.

    Returns:
        The median call of each, in microseconds. What interrupts a call lengthens a few of them, and no median.
    """
    names, seen = list(contenders), {name: list[float]() for name in contenders}
    for _ in range(scale.rounds + 1):
        things = {name: given(name) for name in names}
        gc.collect()
        for at in range(len(things[names[0]])):
            for name in names:
                run, thing = contenders[name], things[name][at]
                start = time.perf_counter()
                run(thing)
                seen[name].append((time.perf_counter() - start) * 1e6)
    # the first round warms up
    return {name: median(calls[len(calls) // (scale.rounds + 1) :]) for name, calls in seen.items()}


def _rotated(names: Sequence[str], number: int) -> list[str]:
    at = number % len(names)
    return [*names[at:], *names[:at]]


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value
