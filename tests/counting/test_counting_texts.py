"""
Counts of single texts.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenbudget_mw.counting import count_text
from tokenbudget_mw.counting.encoders import default_encoders
from tokenbudget_mw.counting.meter import EXACT_CHARS
from tokenbudget_mw.counting.sampling import SNAP_CHARS, USUAL
from tokenbudget_mw.values import TokenCount


def test_a_short_text_is_exact():
    """A text within the threshold is the tokenizer's own count."""
    assert count_text("hello world", "gpt-4o") == TokenCount(2, 2, exact=True, method="exact")


def test_the_threshold_itself_is_exact_and_one_more_is_not():
    """The longest exact text has as many characters as the threshold says."""
    text = "word " * (EXACT_CHARS // 5 + 1)

    assert count_text(text[:EXACT_CHARS], "gpt-4o").exact
    assert not count_text(text[: EXACT_CHARS + 1], "gpt-4o").exact


@pytest.mark.parametrize("char", ["a", "é", "的", "😀", "\ud800", " "])
def test_a_long_text_is_sampled(char):
    """Above the threshold a text is sampled; where it is the same all over, the sample says nearly what is true."""
    text = (char * 9 + " ") * 5_000
    truth = default_encoders().count(text, "o200k_base")

    found = count_text(text, "gpt-4o")

    assert (found.exact, found.method) == (False, "sampled")
    assert found.estimate == pytest.approx(truth, rel=0.02)
    assert found.upper >= found.estimate


def test_a_factor_applies_to_models_without_an_encoding():
    """A Claude text is o200k's count times the family's factor, with room above it."""
    exact = count_text("The quick brown fox. " * 50, "gpt-4o").estimate

    found = count_text("The quick brown fox. " * 50, "claude-sonnet-4-5")

    assert not found.exact
    assert exact * 1.18 <= found.estimate < exact * 1.18 + 1
    assert found.upper > found.estimate


def test_aliases_reach_the_count():
    """A deployment's name counts as its model."""
    text = "お誕生日おめでとう"

    assert count_text(text, "mine", {"mine": "gpt-4"}) == TokenCount(9, 9, exact=True, method="exact")
    assert count_text(text, "mine", {"mine": "gpt-4o"}) == TokenCount(8, 8, exact=True, method="exact")


@settings(deadline=None)
@given(st.text(), st.sampled_from(["gpt-4o", "gpt-4", "claude-3-haiku", "claude-opus-5", "x", None]))
def test_t19_any_text_is_counted(text, model):
    """No text raises, no estimate passes its bound, no text is free."""
    found = count_text(text, model)

    assert 0 <= found.estimate <= found.upper
    assert (found.estimate > 0) == (text != "")


@pytest.mark.parametrize("text", [" " * 2_000_000, "a" * 1_000_000, "<|endoftext|>" * 10_000, "\x00" * 1_000_000])
def test_t19_of_long_texts_a_bounded_part_is_tokenised(text, monkeypatch):
    """However long a text is, no more than the sample's characters reach the tokenizer, in chunks."""
    pieces = []
    monkeypatch.setattr(
        "tokenbudget_mw.counting.encoders.Encoder.count", lambda _self, piece: pieces.append(len(piece)) or 1
    )

    count_text(text, "gpt-4o")

    assert len(pieces) == USUAL.chunks
    assert max(pieces) <= USUAL.chars + SNAP_CHARS
