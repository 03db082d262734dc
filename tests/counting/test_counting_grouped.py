"""
The pattern that is compiled is grouped for speed, and every count is still what the published pattern makes.
"""

from __future__ import annotations

import random
import re

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.counting_corpus import ADVERSARIAL, adversarial, natural
from tokenbudget_mw.counting import engines, ranks
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
        "'\u017f",
        "é",
        "e\u0301",
        "\u0301",
        "ǅ",
        "ʰ",
    ),
    *(
        "的",
        "1",
        "12345",
        "½",
        "/",
        "//",
        "!",
        "...",
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
    tiktoken with the published pattern, and ours.
    """
    data = ranks.load(request.param)
    published = tiktoken.Encoding(
        "published", pat_str=data.pattern, mergeable_ranks=data.tokens, special_tokens={}
    ).encode_ordinary
    return lambda text: len(published(text)), default_encoders().get(request.param).count


def test_t19_thirty_thousand_texts_are_counted_as_published(both):
    """Texts of everything that the patterns treat apart: spaces of all kinds, marks, contractions, numbers, cases."""
    published, ours = both
    rng = random.Random(19)
    for _ in range(30_000):
        text = "".join(rng.choices(ATOMS, k=rng.randint(0, 12)))
        assert ours(text) == published(text), repr(text)


def test_any_text_is_counted_as_published(both):
    """Hypothesis finds no text that is counted in another way."""
    published, ours = both

    @settings(max_examples=500, deadline=None)
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


@pytest.mark.parametrize("name", ranks.NAMES)
def test_all_but_looking_ahead_is_one_group(name):
    """What an automaton can run is in one group, without look-around or possessive quantifiers."""
    pattern = engines.grouped(ranks.load(name).pattern)

    group, found, rest = pattern.partition(")" + engines.LOOKS_AHEAD)
    assert group.startswith("(?:")
    assert found
    assert rest in (r"|\s+", r"|\s")
    assert not re.search(r"\(\?[!=<]|(?:[?*+]|\d\})\+", group)


def test_a_pattern_of_another_kind_stays_as_it_is():
    """A future encoding whose pattern is not like these is compiled as it is published."""
    assert engines.grouped(r"\w++|\s+(?!\w)") == r"\w++|\s+(?!\w)"
