"""
Refusals that only doubt makes: the bound of a prompt's count does not fit, its estimate would.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

if TYPE_CHECKING:
    from tokenbudget_mw.values import Cost, Decision, Prompt, TokenCount

__all__ = ["as_estimated", "hinges_on_count", "is_doubtful"]

LIMITING = frozenset({"limit", "money"})
"""Refusals that a smaller cost would have avoided."""

UNCOUNTED = frozenset({"sampled", "learned"})
"""Ways of counting that leave something to be counted exactly. ``none`` is a wish, and ``bytes`` cannot be helped."""


def is_doubtful(count: TokenCount) -> bool:
    """
    Tell whether an exact count of the same prompt may be lower than *count*'s bound.
    """
    return count.method in UNCOUNTED and count.estimate < count.upper


def as_estimated(prompt: Prompt) -> Prompt:
    """
    Return *prompt* as if its estimate were its bound.
    """
    return replace(prompt, input=replace(prompt.input, upper=prompt.input.estimate))


def hinges_on_count(decision: Decision, estimate: Cost) -> bool:
    """
    Tell whether *decision* refuses what may fit: every limit that refuses has room for the *estimate*.

    Args:
        decision: What was decided on the most that the request may cost.

        estimate: What it costs if its prompt has as many tokens as estimated.
    """
    if decision.admitted or decision.code not in LIMITING:
        return False
    refusing = [tally for tally in decision.tallies if tally.limit.name in decision.refused_by]
    return bool(refusing) and all(estimate.of(tally.limit.unit) <= tally.state.remaining for tally in refusing)
