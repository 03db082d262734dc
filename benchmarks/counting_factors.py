"""
How fast the factors of models without a public tokenizer are learned from the usage that providers report: a simulation.

What is real in it are the tokens of a family's own vocabulary a token of o200k, by kind of text, where that vocabulary is
public (Claude's is that of its second generation, scaled to the third's and fourth's usual factor). What is simulated are
requests: their lengths, their kinds by the traffic of three apps, and some scatter from text to text.

``python -m benchmarks.counting_factors`` prints the table of docs/counting.md.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tokenbudget_mw.counting.learning import Factors
from tokenbudget_mw.counting.models import resolve
from tokenbudget_mw.values import TokenCount

__all__ = ["APPS", "FAMILIES", "Learning", "learning", "table"]

KINDS = ("en", "code", "JSON", "zh", "ja", "ko", "ru", "fr", "hi")

FAMILIES: Mapping[str, Sequence[float]] = {
    "claude-sonnet-4-5": (1.10, 1.18, 1.13, 1.26, 1.34, 1.51, 1.73, 1.27, 1.60),
    "gemini-2.5-pro": (1.04, 1.19, 1.17, 1.02, 0.85, 1.11, 1.06, 1.07, 1.18),
    "llama-3.1-70b": (1.01, 0.99, 0.98, 1.01, 0.96, 1.02, 1.10, 1.07, 1.09),
    "qwen2.5-72b": (1.01, 1.02, 1.01, 0.97, 0.93, 1.08, 1.16, 1.11, 1.33),
    "deepseek-chat": (1.03, 1.06, 1.06, 0.95, 0.95, 1.10, 1.13, 1.11, 1.14),
    "mistral-large": (1.04, 1.07, 1.07, 1.18, 1.00, 1.05, 1.14, 1.10, 1.09),
}
"""Model -> its tokens a token of o200k, for each of `KINDS`."""

APPS: Mapping[str, Sequence[int]] = {
    "English and code": (6, 3, 1, 0, 0, 0, 0, 0, 0),
    "East Asia": (1, 0, 1, 3, 3, 2, 0, 0, 0),
    "Russian": (1, 1, 0, 0, 0, 0, 8, 0, 0),
}
"""App -> how often each of `KINDS` is in its prompts."""

SCATTER = 0.05


@dataclass(frozen=True, slots=True)
class Learning:
    """
    How far a model's estimates are off in one app.

    Attributes:
        model: The model.

        app: The app.

        errors: Requests that were learned from -> relative error of all the tokens of the requests that come next.
    """

    model: str
    app: str
    errors: Mapping[int, float]


def learning(model: str, app: str, after: Sequence[int] = (0, 20, 100, 500), seed: int = 1) -> Learning:
    """
    Simulate *app*'s requests to *model*, and look at its estimates *after* so many of them.
    """
    rng = random.Random(f"{model}{app}{seed}")
    factors, errors = Factors(), {}
    for number in range(max(after) + 1):
        if number in after:
            errors[number] = _error(factors.resolve(model).factor, model, app, rng)
        base, actual = _request(model, app, rng)
        factors.learn(model, TokenCount(base, base, base=base), actual)
    return Learning(model, app, errors)


def _error(factor: float, model: str, app: str, rng: random.Random) -> float:
    requests = [_request(model, app, rng) for _ in range(2_000)]
    return sum(base * factor for base, _ in requests) / sum(actual for _, actual in requests) - 1


def _request(model: str, app: str, rng: random.Random) -> tuple[int, int]:
    (kind,) = rng.choices(range(len(KINDS)), APPS[app])
    base = max(20, round(rng.lognormvariate(6, 1)))
    return base, round(base * FAMILIES[model][kind] * rng.gauss(1, SCATTER))


def table() -> Iterable[str]:
    """
    Yield the lines of a table of all models and apps.
    """
    after = (0, 20, 100, 500)
    yield f"| model | traffic | first factor | {' | '.join(f'after {number}' for number in after)} |"
    yield f"|---|---|---:|{'---:|' * len(after)}"
    for model in FAMILIES:
        for app in APPS:
            errors = learning(model, app, after).errors
            cells = " | ".join(f"{errors[number]:+.1%}" for number in after)
            yield f"| {model} | {app} | {resolve(model).factor:g} | {cells} |"


if __name__ == "__main__":
    for line in table():
        print(line)
