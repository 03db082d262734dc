"""
Texts are counted without looking ahead, and every count is what the published pattern makes.
"""

from __future__ import annotations

import random
import re
import sys

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.counting_corpus import ADVERSARIAL, adversarial, natural
from tokenbudget_mw.counting import ranks, spacing
from tokenbudget_mw.counting.encoders import default_encoders

ATOMS = (
    *(
        " ",
        "  ",
        "    ",
        "\t",
        "\n",
        "\r\n",
        "\r",
        "\x0b",
        "\x0c",
        "\x85",
        "\xa0",
        "\u1680",
        "\u2003",
        "\u2028",
        "\u3000",
    ),
    *(
        "\u180e",
        "\u200b",
        "\x1c",
        "\x1f",
        "\ufeff",
        "a",
        "Word",
        "'s",
        "'LL",
        "é",
        "e\u0301",
        "的",
        "1",
        "12345",
        "/",
        "//",
    ),
    *(
        "!",
        "...",
        spacing.MARK,
        f" {spacing.MARK}  ",
        "\ud800",
        "\ud83d\ude00",
        "<|endoftext|>",
        " x",
        "\n\n   return x",
    ),
)


@pytest.fixture(scope="module", params=ranks.NAMES)
def both(request):
    """
    tiktoken as it is published, and ours.
    """
    data = ranks.load(request.param)
    published = tiktoken.Encoding(
        "published", pat_str=data.pattern, mergeable_ranks=data.tokens, special_tokens={}
    ).encode_ordinary
    return lambda text: len(published(text)), default_encoders().get(request.param).count


def test_t19_random_spacing_is_counted_as_published(both):
    """Thirty thousand texts of everything that is a space somewhere, and of the mark itself."""
    published, ours = both
    rng = random.Random(19)
    for _ in range(30_000):
        text = "".join(rng.choices(ATOMS, k=rng.randint(0, 12)))
        assert ours(text) == published(text), repr(text)


def test_any_text_is_counted_as_published(both):
    """Hypothesis finds no text that is counted in another way."""
    published, ours = both

    @given(st.text(max_size=60))
    def check(text):
        assert ours(text) == published(text)

    check()


def test_real_texts_are_counted_as_published(both):
    """Documents in all languages, code and data, cut anywhere, and the adversarial layouts."""
    published, ours = both
    for kind, documents in natural().items():
        whole = "\n".join(documents[:20])
        for start in range(0, min(len(whole), 120_000), 30_001):
            part = whole[start : start + 30_000]
            assert ours(part) == published(part), kind
    for layout in ADVERSARIAL:
        text = adversarial(layout, 30_000)
        assert ours(text) == published(text), layout


def test_a_million_spaces_are_counted(both):
    """Without looking ahead nothing is left that overflows on a run of a million spaces."""
    _, ours = both

    assert 0 < ours(" " * 1_200_000 + "x") < 100_000


@pytest.mark.parametrize("name", ranks.NAMES)
def test_no_pattern_looks_ahead(name):
    """What the tokenizer compiles has no look-around and no possessive quantifier: an automaton can run it."""
    pattern = spacing.simplified(ranks.load(name).pattern)

    assert not re.search(r"\(\?[!=<]|(?:[?*+]|\d\})\+", pattern)


def test_a_pattern_of_another_kind_is_refused():
    """A future encoding whose pattern looks ahead elsewhere must not be counted wrong in silence."""
    for pattern in (r"\w+|\s+", r"a(?!b)|\s+(?!\S)|b(?!c)", r"(?=x)\w|\s+(?!\S)|\s"):
        with pytest.raises(ValueError, match="looks ahead"):
            spacing.simplified(pattern)


def test_rare_spaces_are_those_of_unicode():
    """The list is Python's, without its separators of files and records, which Unicode does not call white space."""
    pythons = {chr(code) for code in range(sys.maxunicode + 1) if chr(code).isspace()}

    assert set(spacing._RARE) == pythons - set(" \r\n\x1c\x1d\x1e\x1f")


@given(st.text(st.sampled_from([" ", "\t", "\xa0", "\n", "a", spacing.MARK]), max_size=30))
def test_marks_stand_where_parts_end(text):
    """Both ways of cutting a text cut at the same places, and lose nothing."""
    marked, number = spacing.marked(text)
    parts = spacing.parts(text)

    assert "".join(parts) == text
    assert len(parts) == number + 1
    assert marked == spacing.MARK.join(parts)


@given(st.text(st.sampled_from([" ", "\t", "\x0b", "\xa0", "\u3000", "\n", "a", "é"]), max_size=30))
def test_plain_texts_need_no_mark(text):
    """A text that is told to be plain has no place for a mark."""
    assert not spacing.is_plain(text) or spacing.marked(text)[1] == 0
