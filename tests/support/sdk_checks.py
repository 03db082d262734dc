"""
Holds what an SDK saw to the table of `sdk_cases`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from sdk_cases import CASES, ERRORS, TYPES, Attempt

SLACK = 0.02
"""Seconds by which the clocks of two processes' timers may differ."""

PATIENCE = 1.5
"""Seconds that a busy machine may add to a wait; an SDK that waited as it does untold would wait less than it was told."""


def check(name: str, seen: dict[str, Any], attempts: list[Attempt]) -> None:
    """
    Assert that case *name* gave what it has to, in as many attempts, with the waits that were told.
    """
    case = CASES[name]

    assert len(attempts) == case.attempts, seen
    if case.status == 200:
        _check_answer(name, seen)
    else:
        _check_error(name, seen)
    for before, after in pairwise(attempts):
        if before.status in (429, 503):
            wait, waited = int(before.headers["retry-after-ms"]) / 1000, after.arrived - before.answered
            assert wait - SLACK <= waited < wait + PATIENCE
    if case.status in (400, 401, 402, 429):
        assert attempts[-1].headers["x-should-retry"] == "false"


def _check_answer(name: str, seen: dict[str, Any]) -> None:
    case = CASES[name]
    assert "ok" in seen, seen
    for field, wanted in case.seen.items():
        found = seen["ok"][field]
        assert found in wanted if isinstance(wanted, tuple) else found == wanted
    if case.style == "raw":
        assert seen["ok"]["limits"].startswith('"requests-minute";r=')


def _check_error(name: str, seen: dict[str, Any]) -> None:
    case = CASES[name]
    assert seen.get("error") in ERRORS[case.status], seen
    assert case.message in seen["message"]
    if case.status:
        assert seen["status"] == case.status
        assert seen["type"] == TYPES[case.status]
        assert seen["code"] == case.code
