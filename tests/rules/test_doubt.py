"""
When a refusal hinges on a count: pure values.
"""

from __future__ import annotations

import pytest

from tokenbudget_mw.rules.doubt import as_estimated, hinges_on_count, is_doubtful
from tokenbudget_mw.values import CheckState, Cost, Decision, Limit, Prompt, Tally, TokenCount, Window

TOKENS = Limit("tokens", "tokens", 1_000, Window(60.0))
INPUT = Limit("input", "input_tokens", 1_000, Window(60.0))
MONEY = Limit("money", "money", 1_000, Window(60.0))
REQUESTS = Limit("requests", "requests", 10, Window(60.0))
COST = Cost(1, 300, 100, 50, 1)


def refused(*left: tuple[Limit, int], fitting: tuple[tuple[Limit, int], ...] = (), code: str = "limit") -> Decision:
    tallies = [Tally(limit, CheckState(False, amount), 900) for limit, amount in left]
    tallies += [Tally(limit, CheckState(True, amount), 900) for limit, amount in fitting]
    return Decision(False, code, 429, tallies=tuple(tallies), refused_by=tuple([limit.name for limit, _ in left]))


@pytest.mark.parametrize(
    ("decision", "hinges"),
    [
        (refused((TOKENS, 400)), True),
        (refused((TOKENS, 399)), False),
        (refused((INPUT, 300)), True),
        (refused((INPUT, 299)), False),
        (refused((MONEY, 50), code="money"), True),
        (refused((MONEY, 49), code="money"), False),
        (refused((TOKENS, 400), (INPUT, 299)), False),
        (refused((TOKENS, 400), fitting=((INPUT, 0),)), True),
        (refused((TOKENS, 400), (REQUESTS, 0)), False),
        (refused((TOKENS, 400), code="backend"), False),
        (refused(code="credits"), False),
        (refused(), False),
        (Decision(True, tallies=(Tally(TOKENS, CheckState(True, 400), 900),)), False),
    ],
)
def test_a_refusal_hinges_on_the_count_where_the_estimate_fits_all_that_refuse(decision, hinges):
    """Every limit that refuses must have room for the estimate; a refusal of another kind is none of the count's."""
    assert hinges_on_count(decision, COST) is hinges


@pytest.mark.parametrize(
    ("method", "upper", "doubtful"),
    [
        ("sampled", 120, True),
        ("learned", 400, True),
        ("learned", 100, False),
        ("exact", 120, False),
        ("bytes", 400, False),
        ("none", 400, False),
        ("given", 100, False),
    ],
)
def test_what_an_exact_count_could_lower(method, upper, doubtful):
    """Samples and learned estimates can be counted exactly; what was counted, or shall not or cannot be, stays."""
    assert is_doubtful(TokenCount(100, upper, method=method)) is doubtful


def test_an_estimate_for_a_bound():
    """The prompt is the same, but for its bound."""
    prompt = Prompt("m", TokenCount(100, 140, method="learned", base=80, frame=5), 50, True)

    assert as_estimated(prompt) == Prompt("m", TokenCount(100, 100, method="learned", base=80, frame=5), 50, True)
