"""
Limits in the headers of OpenAI and Anthropic, for clients that read theirs.

Those have one figure a kind where a request may meet many limits: the one with the least left is told.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenbudget_mw.values import Tally, Unit

__all__ = ["VENDOR_HEADERS", "anthropic_headers", "openai_headers"]

_PARTS = ("limit", "remaining", "reset")
_OPENAI: tuple[tuple[Unit, str], ...] = (("requests", "requests"), ("tokens", "tokens"))
_ANTHROPIC: tuple[tuple[Unit, str], ...] = (
    ("requests", "requests"),
    ("tokens", "tokens"),
    ("input_tokens", "input-tokens"),
    ("output_tokens", "output-tokens"),
)

VENDOR_HEADERS = tuple(
    [f"x-ratelimit-{part}-{name}" for _, name in _OPENAI for part in _PARTS]
    + [f"anthropic-ratelimit-{name}-{part}" for _, name in _ANTHROPIC for part in _PARTS]
)
"""All that the functions here may return."""

MOST_SECONDS = 253_402_300_799
"""The end of the year 9999, which RFC 3339 can still write."""


def openai_headers(tallies: Sequence[Tally]) -> list[tuple[str, str]]:
    """
    Return ``x-ratelimit-{limit,remaining,reset}-{requests,tokens}``; a reset is a duration as Go writes it.
    """
    found = []
    for unit, name in _OPENAI:
        tally = _tightest(tallies, unit)
        if tally is not None:
            found += [
                (f"x-ratelimit-limit-{name}", str(tally.limit.amount)),
                (f"x-ratelimit-remaining-{name}", str(tally.state.remaining)),
                (f"x-ratelimit-reset-{name}", duration(tally.state.reset)),
            ]
    return found


def anthropic_headers(tallies: Sequence[Tally], now: float) -> list[tuple[str, str]]:
    """
    Return ``anthropic-ratelimit-{requests,tokens,…}-{limit,remaining,reset}``; a reset is a moment of RFC 3339.

    Args:
        tallies: The limits that the request met.

        now: Epoch seconds.
    """
    found = []
    for unit, name in _ANTHROPIC:
        tally = _tightest(tallies, unit)
        if tally is not None:
            found += [
                (f"anthropic-ratelimit-{name}-limit", str(tally.limit.amount)),
                (f"anthropic-ratelimit-{name}-remaining", str(tally.state.remaining)),
                (f"anthropic-ratelimit-{name}-reset", _moment(now + tally.state.reset)),
            ]
    return found


def _tightest(tallies: Sequence[Tally], unit: Unit) -> Tally | None:
    enforced = [tally for tally in tallies if tally.limit.unit == unit and tally.limit.mode == "enforce"]
    return min(enforced, key=lambda tally: tally.state.remaining, default=None)


def duration(seconds: float) -> str:
    """
    Write a duration as Go does, rounded up to whole seconds, or to milliseconds below one.

    >>> duration(0.0121), duration(17.2), duration(90), duration(90_000)
    ('13ms', '18s', '1m30s', '25h0m0s')
    """
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _moment(at: float) -> str:
    return datetime.fromtimestamp(min(math.ceil(at), MOST_SECONDS), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
