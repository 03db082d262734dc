"""
Factors learned from usage bring every family's estimates to a few percent, whatever its traffic: the simulation of the docs.
"""

from __future__ import annotations

import pytest

from benchmarks.counting_factors import APPS, FAMILIES, learning, table
from tokenbudget_mw.counting.models import resolve


@pytest.mark.parametrize("app", APPS)
@pytest.mark.parametrize("model", FAMILIES)
def test_a_hundred_responses_bring_estimates_to_a_few_percent(model, app):
    """After 100 responses all estimates together are within 4 %, after 500 within 2.5 %, of what the provider reports."""
    errors = learning(model, app, (100, 500)).errors

    assert abs(errors[100]) < 0.04
    assert abs(errors[500]) < 0.025


def test_there_was_something_to_learn():
    """The families' first factors are off by as much as a quarter on some traffic."""
    first = [abs(learning(model, app, (0,)).errors[0]) for model in FAMILIES for app in APPS]

    assert max(first) > 0.2
    assert all(not resolve(model).exact for model in FAMILIES)


def test_learning_does_not_depend_on_luck():
    """Other requests lead to the same few percent."""
    for seed in range(2, 12):
        assert abs(learning("claude-sonnet-4-5", "Russian", (100,), seed).errors[100]) < 0.05


def test_the_table_has_a_line_for_each():
    """The table of the documentation names every model and app."""
    lines = list(table())

    assert len(lines) == 2 + len(FAMILIES) * len(APPS)
    assert all(line.count("|") == 8 for line in lines)
