"""
Settings of token counting, from the dict to the meter.
"""

from __future__ import annotations

import json
import sys

import pytest

from tokenbudget_mw.accounting.sinks import CallableSink
from tokenbudget_mw.errors import ConfigurationError
from tokenbudget_mw.settings import Settings
from tokenbudget_mw.values import Route, TokenCount
from tokenbudget_mw.wiring import wire

CHAT = Route("/v1/chat/completions", format="openai.chat")


class Letters:
    """
    A counter of characters.
    """

    def count(self, text: str) -> int:
        return len(text)


letters = Letters()
nothing = object()


def core_of(**given):
    return wire({"identify": lambda _facts: None, **given}, sink=CallableSink(lambda _records: None))


def test_long_prompts_are_exact_up_to_a_setting():
    """`exact_chars` moves the threshold between exact and sampled counts."""
    text = "word " * 8_000

    assert core_of().meter.count(text, "gpt-4o").method == "sampled"
    assert core_of(exact_chars=50_000).meter.count(text, "gpt-4o").exact


def test_precise_counts_look_at_twice_as_much():
    """With `precise_counts` a text of up to 32,768 characters is no longer than its sample, and so exact."""
    text = "word " * 6_000

    assert core_of().meter.count(text, "gpt-4o").method == "sampled"
    assert core_of(precise_counts=True).meter.count(text, "gpt-4o").exact


def test_the_size_of_a_sample_is_a_setting():
    """`sample_chunks` says in how many places a long prompt is tokenised; a text no longer than that is exact."""
    text = "word " * 6_000

    assert core_of(sample_chunks=100).meter.count(text, "gpt-4o").method == "sampled"
    assert core_of(sample_chunks=120).meter.count(text, "gpt-4o").exact
    assert core_of(sample_chunks=60, precise_counts=True).meter.count(text, "gpt-4o").exact


@pytest.mark.parametrize("counter", [letters, f"{__name__}.letters", f"{__name__}:letters"])
def test_a_counter_of_ones_own_is_an_object_or_a_path(counter, monkeypatch):
    """`counters` takes the object, or the path to it, and the model is counted by it."""
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    meter = core_of(counters={"mine*": counter}).meter
    body = json.dumps({"model": "mine-7b", "messages": [{"role": "user", "content": "abc"}]}).encode()

    assert meter.count("abc", "mine-7b") == TokenCount(3, 3, exact=True, method="exact")
    assert meter.read_prompt(CHAT, body).input.estimate == 3 + len("user") + 3 + 3


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no.such.module", "cannot import 'no.such.module'"),
        (f"{__name__}.nothing", "has no method `count`"),
        (f"{__name__}.Letters", "is a type, which has no method `count`"),
    ],
)
def test_a_path_that_leads_to_no_counter_fails_at_start(path, message, monkeypatch):
    """A wrong path is told when the app starts, with the setting's name."""
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])

    with pytest.raises(ConfigurationError, match=r"at `counters\.mine`") as caught:
        core_of(counters={"mine": path})

    assert message in str(caught.value)


def test_the_environment_names_counters_too():
    """`TOKENBUDGET_COUNTERS` is JSON, `TOKENBUDGET_EXACT_CHARS` a number."""
    found = Settings.from_env({"TOKENBUDGET_COUNTERS": '{"mine": "app.tokens.mine"}', "TOKENBUDGET_EXACT_CHARS": "9"})

    assert found.counters == {"mine": "app.tokens.mine"}
    assert found.exact_chars == 9


def test_what_usage_teaches_moves_the_meter():
    """A meter that was told what a prompt really had counts the next one by it."""
    meter = core_of().meter
    text = "The quick brown fox jumps over the lazy dog. " * 300
    before = meter.count(text, "claude-opus-4")

    for _ in range(20):
        meter.learn("claude-opus-4", before, round(before.estimate * 1.2))

    assert meter.count(text, "claude-opus-4").estimate == pytest.approx(before.estimate * 1.2, rel=0.02)
