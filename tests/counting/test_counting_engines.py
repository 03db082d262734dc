"""
Engines: whichever library counts, the counts are the same.
"""

from __future__ import annotations

import importlib.util
import random
import tempfile
from types import SimpleNamespace

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenbudget_mw.counting import engines, ranks
from tokenbudget_mw.counting.encoders import Encoders, default_encoders
from tokenbudget_mw.errors import ConfigurationError

HAS_FAST = importlib.util.find_spec("fastokens") is not None
needs_fast = pytest.mark.skipif(not HAS_FAST, reason="fastokens is not installed: pip install 'tokenbudget-mw[fast]'")

SPECIMENS = [
    "",
    "<|endoftext|><|fim_prefix|>",
    "\ud800",
    "ok \udfff ok \ud83d\ude00",
    "\x00" * 500,
    " " * 50_000,
    "\n\t " * 10_000,
    "a" * 60_000,
    "😀👩\u200d👩\u200d👧" * 2_000,
    "令和七年十一月二十一日" * 2_000,
    "don't I'LL we'Ve ARE'n't\r\n\r\n  x",
    "".join(map(chr, range(0x250))),
]


def test_an_engine_that_is_not_installed_says_what_to_install(monkeypatch):
    """Asking for fastokens without the package names the extra."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)

    with pytest.raises(ConfigurationError, match=r"pip install 'tokenbudget-mw\[fast\]'"):
        Encoders("fastokens")


def test_the_process_shares_a_set_an_engine():
    """Everybody who asks for an engine gets the same encoders."""
    assert default_encoders() is default_encoders("tiktoken") is default_encoders(engine="tiktoken")
    assert default_encoders().engine == "tiktoken"


@pytest.fixture(scope="module")
def encoding() -> tiktoken.Encoding:
    data = ranks.load("cl100k_base")
    special = {engines.NEVER: engines.NEVER_RANK}
    return tiktoken.Encoding("x", pat_str=data.pattern, mergeable_ranks=data.tokens, special_tokens=special)


class TestCountingInABuffer:
    def test_this_tiktoken_can(self, encoding):
        """The tiktoken that is installed counts so, and the count is the same, of its own special token, too."""
        buffered = engines._buffered(encoding)

        assert buffered is not None
        for text in (*SPECIMENS, engines.NEVER * 20):
            # surrogates are repaired before
            if not any("\ud800" <= letter <= "\udfff" for letter in text):
                assert memoryview(buffered(text, frozenset())).nbytes == 4 * len(encoding.encode_ordinary(text))

    @pytest.mark.parametrize(
        "core",
        [
            SimpleNamespace(),
            SimpleNamespace(encode_to_tiktoken_buffer=lambda _text: b""),
            SimpleNamespace(encode_to_tiktoken_buffer=lambda _text, _allowed: None),
            SimpleNamespace(encode_to_tiktoken_buffer=lambda _text, _allowed: bytes(8)),
        ],
        ids=["gone", "other arguments", "no buffer", "other numbers"],
    )
    def test_another_tiktoken_counts_its_lists(self, core):
        """Where what is not public is gone, or has changed, the public way counts."""
        other = SimpleNamespace(_core_bpe=core, encode_ordinary=lambda text: [0] * len(text))

        assert engines._buffered(other) is None

    def test_counts_are_the_same_without_it(self, monkeypatch):
        """A text on either side of the length has the same count both ways."""
        texts = [("one word more " * 9)[:length] for length in range(90, 112)]
        with_it = engines.load("tiktoken", "cl100k_base", ranks.load("cl100k_base"))
        monkeypatch.setattr(engines, "_buffered", lambda _encoding: None)
        without = engines.load("tiktoken", "cl100k_base", ranks.load("cl100k_base"))

        assert (
            [*map(with_it.one, texts)] == [*map(without.one, texts)] == without.several(texts) == with_it.several(texts)
        )


def ends_and_beginnings(text: str) -> list[str]:
    """*text* cut into pieces at odd places, with an empty one: what stands on either side of a cut must not meet."""
    return [text[:3], "", text[3:50], text[50:51], text[51:3_000]]


@pytest.fixture(scope="module", params=ranks.NAMES)
def counting(request) -> engines.Counting:
    return engines.load("tiktoken", request.param, ranks.load(request.param))


class TestSeveralTexts:
    @pytest.mark.parametrize("text", SPECIMENS, ids=range(len(SPECIMENS)))
    def test_difficult_texts_count_as_by_themselves(self, counting, text):
        """Each of several texts has the tokens that it has alone, whatever stands before and behind it."""
        texts = ends_and_beginnings(text)

        assert counting.several(texts) == [*map(counting.one, texts)]

    def test_what_joins_texts_may_stand_in_one(self, counting):
        """A client that writes the mark between texts gains no token and loses none."""
        texts = [f"one{engines.NEVER}two", "three", engines.NEVER]

        assert counting.several(texts) == [*map(counting.one, texts)]

    @settings(max_examples=300, deadline=None)
    @given(texts=st.lists(st.text(), min_size=2))
    def test_any_texts_count_as_by_themselves(self, texts):
        """Any texts, counted together and remembered one by one, have the tokens that each has alone."""
        encoder = default_encoders().get("o200k_base")

        assert encoder.count_new(texts) == sum(map(encoder.count, texts))
        assert [encoder.memory.get(text) for text in texts] == [*map(encoder.count, texts)]


@pytest.fixture(scope="module")
def fast() -> Encoders:
    return Encoders("fastokens")


@needs_fast
@pytest.mark.parametrize("name", ranks.NAMES)
class TestFastokens:
    @pytest.mark.parametrize("text", SPECIMENS, ids=range(len(SPECIMENS)))
    def test_difficult_texts_count_alike(self, fast, name, text):
        """Special tokens, surrogates, NULs and runs count as with tiktoken."""
        assert fast.count(text, name) == default_encoders("tiktoken").count(text, name)

    @settings(max_examples=500, deadline=None)
    @given(text=st.text())
    def test_any_text_counts_alike(self, fast, name, text):
        """Any text counts as with tiktoken."""
        assert fast.count(text, name) == default_encoders("tiktoken").count(text, name)

    def test_random_unicode_counts_alike(self, fast, name):
        """Long texts of random characters, of all planes, count as with tiktoken."""
        rng = random.Random(5)
        text = "".join(chr(rng.randrange(0x110000)) for _ in range(40_000))

        assert fast.count(text, name) == default_encoders("tiktoken").count(text, name)


@needs_fast
def test_nothing_is_left_in_the_temporary_folder(tmp_path, monkeypatch):
    """The file that fastokens reads is gone when it has."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    count = engines.load("fastokens", "cl100k_base", ranks.load("cl100k_base"))

    assert count.one("hello world") == 2
    assert count.several(["hello world", "hello"]) == [2, 1]
    assert list(tmp_path.iterdir()) == []
