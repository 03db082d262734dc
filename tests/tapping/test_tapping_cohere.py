"""
Cohere's version 1, whose streams are lines of JSON.
"""

# ruff: noqa: A002 - the words of the product

from __future__ import annotations

import json

import pytest

from tokenbudget_mw import tapping
from tokenbudget_mw.values import Usage

WHOLE = {
    "text": "two words",
    "generation_id": "g",
    "finish_reason": "COMPLETE",
    "meta": {
        "api_version": {"version": "1"},
        "billed_units": {"input_tokens": 9.0, "output_tokens": 30.0},
        "tokens": {"input_tokens": 70.0, "output_tokens": 31.0},
    },
}
EVENTS = [
    {"is_finished": False, "event_type": "stream-start", "generation_id": "g"},
    {"is_finished": False, "event_type": "text-generation", "text": "two "},
    {"is_finished": False, "event_type": "text-generation", "text": "words"},
    {"is_finished": True, "event_type": "stream-end", "finish_reason": "COMPLETE", "response": WHOLE},
]
MEANT = Usage(9, 30, provider="cohere")


def read(data: bytes, type: str, *, format: str = "cohere", size: int = 7) -> Usage:
    tap = tapping.open_tap(format, content_type=type, count_text=lambda text: len(text.split()))
    assert tap is not None
    for at in range(0, len(data), size):
        tap.feed(data[at : at + size])
    return tap.usage()


def lines(events: list[dict]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in events)


@pytest.mark.parametrize("format", ["cohere", "auto"])
@pytest.mark.parametrize("type", ["application/stream+json", "application/x-ndjson", "application/json", ""])
def test_a_stream(type: str, format: str) -> None:
    """A stream is charged what its last event bills, whatever it is labelled."""
    assert read(lines(EVENTS), type, format=format) == MEANT


@pytest.mark.parametrize("format", ["cohere", "auto"])
def test_events(format: str) -> None:
    """So is one that comes as events, and one body."""
    events = b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in EVENTS)

    assert read(events, "text/event-stream", format=format) == MEANT
    assert read(json.dumps(WHOLE).encode(), "application/json") == MEANT


def test_a_stream_that_breaks_off_is_counted() -> None:
    """Of a stream without its end the text counts, once."""
    found = read(lines(EVENTS[:-1]), "application/stream+json")
    failed = read(lines([*EVENTS[:-1], EVENTS[-1] | {"finish_reason": "ERROR"}]), "application/stream+json")

    assert (found.output_tokens, found.source, found.complete) == (2, "counted", False)
    assert (failed.output_tokens, failed.complete) == (30, False)
