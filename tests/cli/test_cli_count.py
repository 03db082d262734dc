"""
`tokenbudget-mw count`: tokens of a file or of the standard input.
"""

from __future__ import annotations

import io
import sys

import pytest

TEXT = "The quick brown fox jumps over the lazy dog. "


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "prompt.txt"
    path.write_text(TEXT)
    return path


def test_a_file_is_counted(run, text_file):
    """A short text for OpenAI's model is exact, and priced by the price book."""
    ran = run("count", text_file, "--model", "gpt-4o", "--json")

    assert ran.code == 0
    assert ran.json["characters"] == ran.json["bytes"] == len(TEXT)
    [count] = ran.json["counts"]
    assert float(count.pop("ms")) >= 0
    assert count == {
        "model": "gpt-4o",
        "estimate": 11,
        "upper": 11,
        "exact": True,
        "method": "exact",
        "price": "$0.0000275",
        "price_kind": "known",
    }


def test_several_models_are_told_side_by_side(run, text_file):
    """Each model has a line, with its own factor."""
    ran = run("count", text_file, "--model", "gpt-4o", "--model", "claude-sonnet-4-5")

    lines = ran.out.splitlines()
    assert lines[0] == f"{len(TEXT)} characters"
    assert [line.split()[:2] for line in lines[2:]] == [["gpt-4o", "11"], ["claude-sonnet-4-5", "13"]]


def test_the_standard_input_is_a_file_too(run, monkeypatch):
    """`-` reads what comes in; bytes that are no UTF-8 are counted as replaced."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"hello world\xff")))

    ran = run("count", "-", "--model", "gpt-4o", "--json")

    assert ran.json["characters"] == 12
    assert ran.json["counts"][0]["estimate"] == 3


def test_a_standard_input_that_is_closed(run, monkeypatch):
    """`-` without anything to read says so, and is a mistake of whoever called."""
    monkeypatch.setattr(sys, "stdin", None)

    ran = run("count", "-", "--model", "gpt-4o")

    assert ran.code == 2
    assert "Cannot read the standard input: it is closed." in ran.err


@pytest.mark.parametrize(("option", "method"), [(None, "sampled"), ("--precise", "exact"), ("--exact", "exact")])
def test_how_deep_is_an_option(run, tmp_path, option, method):
    """A text of 25,000 characters is sampled, covered by the precise sample, or tokenised when asked to."""
    path = tmp_path / "long.txt"
    path.write_text("word " * 5_000)

    ran = run("count", path, "--model", "gpt-4o", "--json", *([option] if option else []))

    assert ran.json["counts"][0]["method"] == method


def test_settings_give_aliases_and_tariffs(run, text_file, tmp_path):
    """A deployment's name is counted as its model, at the host's own price; no database is opened."""
    config = tmp_path / "budget.json"
    config.write_text(
        '{"database": "postgresql+psycopg://nobody@127.0.0.1:1/none", "models": {"mine": "gpt-4o"},'
        ' "tariffs": [{"model": "gpt-4o", "input": "1", "output": "2", "per": "1M tokens"}]}'
    )

    ran = run("count", text_file, "--model", "mine", "--config", config, "--json")

    assert ran.json["counts"][0]["exact"]
    assert ran.json["counts"][0]["price"] == "$0.000011"


def test_a_file_that_is_not_there_is_bad_use(run, tmp_path):
    """A missing file ends with 2 and its name."""
    ran = run("count", tmp_path / "none.txt", "--model", "gpt-4o")

    assert ran.code == 2
    assert "none.txt" in ran.err
    assert "Traceback" not in ran.err
