"""
Traces and prompts: what a replay reads, and what it makes of it.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenbudget_mw.cli.replaying.prompts import LEAST, body_of
from tokenbudget_mw.cli.replaying.traces import Traced, read_trace
from tokenbudget_mw.counting.tokenizers import Tokenizers
from tokenbudget_mw.errors import ConfigurationError
from tokenbudget_mw.metering import TokenMeter
from tokenbudget_mw.values import Route

CHAT = Route("/v1/chat/completions", format="openai.chat")


def file(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_csv_is_read_in_order_of_time(tmp_path):
    """Rows come out by time, whatever their order in the file; seven digits of a second are cut to six."""
    text = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
        "2023-11-16 18:15:50.9951690,396,109\r\n"
        "2023-11-16 18:15:46.6805900,374,44\r\n"
    )

    trace = read_trace(file(tmp_path, "trace.csv", text))

    assert trace == [Traced(1700158546.68059, 374, 44), Traced(1700158550.995169, 396, 109)]


def test_jsonl_has_models_and_keys(tmp_path):
    """A JSON line may name model and key, and its time may be epoch seconds; blank lines do not count."""
    lines = [
        {"time": 2.5, "input_tokens": 1, "output_tokens": 2, "model": "m", "key": "k"},
        {"time": "1970-01-01T00:00:01Z", "input_tokens": 3, "output_tokens": 0},
    ]

    trace = read_trace(file(tmp_path, "trace.jsonl", "\n\n".join(map(json.dumps, lines))))

    assert trace == [Traced(1.0, 3, 0), Traced(2.5, 1, 2, "m", "k")]


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("a.txt", "", ".jsonl"),
        ("a.csv", "TIMESTAMP,ContextTokens\n", "GeneratedTokens"),
        ("a.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n", "no request"),
        ("a.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\nnow,1,1\n", "line 2"),
        ("a.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16,x,1\n", "'x'"),
        ("a.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16,1\n", "None"),
        ("a.jsonl", '{"time": 1}\n', "line 1"),
        ("a.jsonl", '{"input_tokens": 1, "output_tokens": 1}\n', "`time` is missing"),
        ("a.jsonl", '{"time": 1, "input_tokens": -1, "output_tokens": 1}\n', "-1"),
        ("a.jsonl", '{"time": 1, "input_tokens": true, "output_tokens": 1}\n', "True"),
        ("a.jsonl", '{"time": 1, "input_tokens": 4294967296, "output_tokens": 1}\n', "4294967296"),
        ("a.jsonl", "{}\n[1]\n", "line 1"),
        ("a.jsonl", "nonsense\n", "no JSON"),
        ("a.jsonl", "[1]\n", "object"),
    ],
)
def test_a_bad_trace_is_named(tmp_path, name, text, word):
    """What cannot be read is said with its line."""
    with pytest.raises(ConfigurationError, match=word):
        read_trace(file(tmp_path, name, text))


def test_a_missing_trace_is_named(tmp_path):
    """A file that is not there is said not to be."""
    with pytest.raises(ConfigurationError, match="No such file"):
        read_trace(tmp_path / "none.csv")


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4"])
@settings(deadline=None)  # the first one loads an encoder
@given(tokens=st.one_of(st.integers(0, 60), st.integers(0, 16_000)))
def test_a_prompt_counts_to_what_was_wanted(model, tokens):
    """What is short enough to be counted exactly (as real traces are) counts to the trace's tokens, in both encodings."""
    prompt = TokenMeter(Tokenizers()).read_prompt(CHAT, body_of(model, tokens, 7))

    assert prompt.input.exact
    assert prompt.input.estimate == max(tokens, LEAST)
    assert prompt.max_output == 7
    assert prompt.model == model
