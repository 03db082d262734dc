"""
Samples of long texts: unbiased, bounded, and of a size that does not depend on the text.
"""

from __future__ import annotations

import os
import random
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tokenbudget_mw.counting import sampling
from tokenbudget_mw.counting.encoders import default_encoders
from tokenbudget_mw.counting.sampling import PRECISE, USUAL, Sampling, sample, utf8_size

SMALL = Sampling(chunks=4, chars=8)


def count(text: str) -> int:
    return default_encoders().count(text, "o200k_base")


def words(rng: random.Random, chars: int) -> str:
    """
    A text of plain English words in random order.
    """
    vocabulary = [
        "the",
        "of",
        "and",
        "a",
        "to",
        "in",
        "is",
        "you",
        "that",
        "it",
        "he",
        "was",
        "for",
        "on",
        "are",
        "as",
        "with",
        "his",
        "they",
        "at",
        "be",
        "this",
        "have",
        "from",
        "or",
    ]
    return " ".join(rng.choices(vocabulary, k=chars // 3))[:chars]


class TestSample:
    def test_a_like_text_is_known_from_its_sample(self):
        """Where a text is alike all over, estimate, bound and truth are within a few percent of one another."""
        text = words(random.Random(1), 200_000)
        truth = count(text)

        found = sample(text, count)

        assert found.estimate == pytest.approx(truth, rel=0.02)
        assert truth <= found.upper < 1.05 * truth
        assert found.size == len(text)

    def test_it_is_right_on_average(self):
        """Over many samples of one uneven text the errors cancel, and the bound holds in nearly all of them."""
        rng = random.Random(3)
        text = "".join(words(rng, 4_000) + "的了是我不在人们" * 200 + "0x3fa9;\n" * 300 for _ in range(12))
        truth = count(text)

        found = [sample(text, count, draw=random.Random(seed).random) for seed in range(60)]

        assert sum(each.estimate for each in found) / len(found) == pytest.approx(truth, rel=0.02)
        assert sum(each.upper < truth for each in found) <= 1

    def test_the_error_says_how_far_estimates_scatter(self):
        """The standard error is about the standard deviation of many estimates."""
        rng = random.Random(4)
        text = "".join(rng.choice([words(rng, 2_000), "zq7 " * 500]) for _ in range(200))
        found = [sample(text, count, draw=random.Random(seed).random) for seed in range(80)]
        mean = sum(each.estimate for each in found) / len(found)
        scatter = (sum((each.estimate - mean) ** 2 for each in found) / len(found)) ** 0.5

        assert 0.6 * scatter < sum(each.error for each in found) / len(found) < 2 * scatter

    def test_a_larger_sample_is_closer(self):
        """The precise sample scatters less than the usual one."""
        rng = random.Random(5)
        text = "".join(rng.choice([words(rng, 500), "ß9 " * 150]) for _ in range(600))
        truth = count(text)

        def scatter(plan):
            found = [sample(text, count, plan, random.Random(seed).random).estimate - truth for seed in range(40)]
            return sum(error**2 for error in found)

        assert scatter(PRECISE) < 0.8 * scatter(USUAL)

    def test_hidden_bytes_raise_the_bound(self):
        """Dense characters that no chunk has met show in the text's bytes, and so in its bound."""
        text = "plain words " * 50_000
        dense = "".join(chr(0x20000 + number % 40_000) for number in range(1_500))
        hidden = text[:100] + dense + text[100:]

        found = sample(hidden, count, draw=lambda: 0.99)

        assert found.estimate < count(hidden) <= found.upper

    @given(st.text(min_size=33, max_size=400), st.randoms(use_true_random=False))
    @example("\ud800" * 40, random.Random(0))
    def test_estimate_and_bound_are_in_order(self, text, rng):
        """Of any text: 0 < estimate <= bytes, and the bound is between them."""
        found = sample(text, lambda piece: len(piece.encode("utf-8", "replace")), SMALL, rng.random)

        assert 0 < found.estimate <= found.size == utf8_size(text)
        assert found.estimate <= found.upper + 1
        assert found.upper <= found.size

    def test_a_dense_run_raises_the_bound_of_a_long_text(self):
        """Of a long text few bytes are looked at; a run of dense characters that no chunk has met shows all the same."""
        plain, dense = "plain words " * 80_000, "".join(chr(0x12000 + number % 1_000) for number in range(9_600))

        for share in (0.1, 0.5, 0.9):
            at = int(share * len(plain))
            hidden = plain[:at] + dense + plain[at:]
            truth = count(hidden)
            found = [sample(hidden, count, draw=random.Random(seed).random) for seed in range(12)]
            assert min(each.upper for each in found) >= 0.97 * truth

    def test_of_a_text_up_to_a_length_every_byte_is_looked_at(self):
        """Up to four times `LOOK_CHARS` characters, and in ASCII, the bound of the bytes is their number."""
        for text in ("é" * 4 * sampling.LOOK_CHARS, "a" * 10 * sampling.LOOK_CHARS):
            found = sample(text, len)
            assert found.size == utf8_size(text)

    @pytest.mark.parametrize("length", [70_000, 500_000, 5_000_000])
    def test_how_many_bytes_are_looked_at_does_not_depend_on_the_text(self, length, monkeypatch):
        """However long a text is, about as many of its characters are looked at."""
        looked = []
        real = sampling.utf8_size
        monkeypatch.setattr(sampling, "utf8_size", lambda piece: looked.append(len(piece)) or real(piece))

        found = sample("é plain words " * (length // 14), count)

        assert sampling.LOOK_CHARS / 2 <= looked[0] <= 2 * sampling.LOOK_CHARS
        assert sum(looked) <= 2 * sampling.LOOK_CHARS + USUAL.all_chars
        assert found.size == 4 * (length // 14 * 14)

    @pytest.mark.parametrize("period", [2, 3, 14, 37, 64, 100])
    def test_a_text_that_repeats_itself_is_not_taken_for_another(self, period):
        """Bytes that come back after so many characters are neither overlooked nor taken for more than they are."""
        text = ("é" + "plain words, and then some. " * 4)[:period] * (400_000 // period)
        truth = 400_000 // period

        found = [sampling._bytes(text, random.Random(seed).random)[1] for seed in range(40)]

        assert sum(found) / len(found) == pytest.approx(truth, rel=0.15)
        assert max(found) < 2 * truth

    @pytest.mark.parametrize("length", [16_385, 20_000, 100_000, 3_000_000])
    def test_its_size_does_not_depend_on_the_text(self, length):
        """64 chunks are counted, each at most a little longer than planned, whatever the text's length."""
        pieces = []

        sample("x" * length, lambda piece: pieces.append(len(piece)) or 1)

        assert len(pieces) == USUAL.chunks
        assert sum(pieces) <= USUAL.all_chars


class TestChunks:
    @given(st.integers(33, 10_000), st.randoms(use_true_random=False))
    def test_each_stratum_has_one(self, length, rng):
        """Chunks lie one in each stratum, in order, and do not overlap."""
        bounds = sampling._bounds(length, SMALL, rng.random)
        edges = [at * length // SMALL.chunks for at in range(SMALL.chunks + 1)]

        assert len(bounds) == SMALL.chunks
        assert all(
            low <= start < end <= high for (start, end), (low, high) in zip(bounds, pairwise(edges), strict=True)
        )

    def test_every_place_is_met(self):
        """Over many draws every character of a text is in some chunk."""
        rng = random.Random(1)
        met = set()
        for _ in range(300):
            for start, end in sampling._bounds(100, SMALL, rng.random):
                met.update(range(start, end))

        assert met == set(range(100))

    @pytest.mark.parametrize(
        ("start", "end", "expected"),
        [
            (0, 10, ("one two three", 0)),
            (1, 6, ("ne two", 1)),
            (1, 9, (" two t", 1)),
            (4, 18, (" three four", 0)),
            (9, 18, ("hree four", 1)),
            (8, 11, ("thr", 2)),
            (14, 18, ("four", 1)),
        ],
    )
    def test_both_ends_move_to_a_space(self, start, end, expected):
        """A chunk begins and ends at the next space; the text's own ends are no cuts."""
        assert sampling._piece("one two three four", start, end) == expected

    def test_ends_without_a_space_are_cuts(self):
        """In a run without spaces both ends are cuts, and stay where they are."""
        assert sampling._piece("x" * 300, 100, 200) == ("x" * 100, 2)


def test_places_are_secret(monkeypatch):
    """Two samples of one text look at different places: nobody can hide between them."""
    text, seen = words(random.Random(2), 500_000), []

    for _ in range(2):
        pieces = []
        sample(text, lambda piece, pieces=pieces: pieces.append(piece) or 1)
        seen.append(pieces)

    assert seen[0] != seen[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_process_draws_its_own(tmp_path):
    """After a fork the child looks at other places than its parent."""
    told = tmp_path / "child"
    child = os.fork()
    if child == 0:
        told.write_text(str(sampling._secret.random()))
        os._exit(0)
    os.waitpid(child, 0)

    assert told.read_text() != str(sampling._secret.random())


@settings(max_examples=50)
@given(st.text())
def test_utf8_size_is_that_of_the_encoded_text(text):
    """A text's size is the length of its UTF-8 form, a surrogate counting three."""
    assert utf8_size(text) == len(text.encode("utf-8", "surrogatepass"))
