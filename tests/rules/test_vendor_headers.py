"""Limits in the vendors' own headers."""

import pytest

from tokenbudget_mw.rules.vendor_headers import VENDOR_HEADERS, anthropic_headers, duration, openai_headers
from tokenbudget_mw.values import CheckState, Limit, Tally, Window

NOW = 1_700_000_000.25


def tally(unit: str, amount: int, remaining: int, reset: float = 12.1, mode: str = "enforce") -> Tally:
    limit = Limit(f"{unit}-{amount}", unit, amount, Window(60.0), mode=mode)  # type: ignore[arg-type]
    return Tally(limit, CheckState(fits=True, remaining=remaining, reset=reset), 1)


TALLIES = [
    tally("requests", 1000, 5, 3600.0),
    tally("requests", 60, 7),
    tally("tokens", 40_000, 39_000, 0.0121),
    tally("input_tokens", 9_000, 8_000),
    tally("requests", 1, 0, mode="shadow"),
    tally("money", 5_000_000_000, 1),
    tally("concurrent", 4, 1),
]


def test_openai() -> None:
    """The request limit with the least left is told, and resets are Go's durations; no shadow, no money."""
    assert dict(openai_headers(TALLIES)) == {
        "x-ratelimit-limit-requests": "1000",
        "x-ratelimit-remaining-requests": "5",
        "x-ratelimit-reset-requests": "1h0m0s",
        "x-ratelimit-limit-tokens": "40000",
        "x-ratelimit-remaining-tokens": "39000",
        "x-ratelimit-reset-tokens": "13ms",
    }


def test_anthropic() -> None:
    """Each kind of tokens has its own; resets are moments, never before the true one."""
    found = dict(anthropic_headers(TALLIES, NOW))

    assert found["anthropic-ratelimit-requests-limit"] == "1000"
    assert found["anthropic-ratelimit-requests-reset"] == "2023-11-14T23:13:21Z"
    assert found["anthropic-ratelimit-input-tokens-remaining"] == "8000"
    assert found["anthropic-ratelimit-tokens-reset"] == "2023-11-14T22:13:21Z"
    assert not any("output" in name for name in found)


def test_only_announced_names() -> None:
    """All that can be sent is announced, so that it can be exposed and encoded beforehand."""
    every = [tally(unit, 10, 1) for unit in ("requests", "tokens", "input_tokens", "output_tokens")]

    sent = [name for name, _ in (*openai_headers(every), *anthropic_headers(every, NOW))]

    assert sorted(sent) == sorted(VENDOR_HEADERS)


def test_nothing_to_tell() -> None:
    """Without such limits there are no headers; a window without end is the last moment that can be written."""
    assert openai_headers([]) == anthropic_headers([], NOW) == []
    assert dict(anthropic_headers([tally("tokens", 1, 0, 1e15)], NOW))["anthropic-ratelimit-tokens-reset"].startswith(
        "9999"
    )


@pytest.mark.parametrize(("seconds", "text"), [(0.0, "0ms"), (0.9999, "1000ms"), (1.0, "1s"), (60.0, "1m0s")])
def test_duration(seconds: float, text: str) -> None:
    """Durations are rounded up."""
    assert duration(seconds) == text
