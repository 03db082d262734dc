"""
Encoders count what tiktoken counts, and survive any text.
"""

from __future__ import annotations

import random
import socket
import threading

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenbudget_mw.counting import encoders, engines, ranks
from tokenbudget_mw.counting.ranks import _fetch

WHITE = st.sampled_from([" ", "\n", "\r\n", "\t", "  ", "\u3000", "\n\n", " \n "])
WORDS = st.sampled_from(
    [
        "don't",
        "I'LL",
        "<|endoftext|>",
        "<|fim_prefix|>",
        "1234567",
        "é",
        "e\u0301",
        "👩‍👩‍👧",
        "的",
        "𠮷",
        "\x00",
        "/",
        "...",
        "foo_bar",
    ]
)
TEXTS = st.lists(st.one_of(st.text(max_size=40), WHITE, WORDS), max_size=40).map("".join)


@pytest.fixture(scope="module")
def reference() -> dict[str, tiktoken.Encoding]:
    """
    tiktoken's own encodings, special tokens and all.
    """
    return {
        name: tiktoken.Encoding(**_fetch.definition(name, ranks.load(name).tokens) | {"name": f"reference_{name}"})
        for name in ranks.NAMES
    }


@pytest.mark.parametrize("name", ranks.NAMES)
@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_a_count_is_that_of_tiktoken(reference, name, text):
    """Our count of any text is the length of tiktoken's own encoding of it, special tokens read as text."""
    expected = len(reference[name].encode(text, disallowed_special=()))

    assert encoders.default_encoders().count(text, name) == expected


@pytest.mark.parametrize("name", ranks.NAMES)
def test_long_texts_are_cut_where_their_counts_add_up(reference, name):
    """A text of many lines, cut into slices, has exactly the tokens of the whole."""
    rng = random.Random(7)
    lines = ["x = 1  # none", "", "\t- item/path", "/root", "  \u00e9t\u00e9", "的的的", "end.", "{", "}"]
    text = "\n".join(rng.choice(lines) for _ in range(30_000))

    assert len(text) > 2 * encoders.SLICE_CHARS
    assert encoders.default_encoders().count(text, name) == len(reference[name].encode(text, disallowed_special=()))


@given(st.text(alphabet="ab \n/", max_size=300), st.integers(1, 40))
def test_slices_make_up_the_text(text, size):
    """Slices are never too long and lose nothing."""
    parts = list(encoders.slices(text, size))

    assert "".join(parts) == text
    assert all(len(part) <= size for part in parts)


@pytest.mark.parametrize("name", ranks.NAMES)
@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        (" " * 1_000_000, 7_000, 9_000),
        ("\n" * 1_000_000, 1, 70_000),
        ("a" * 1_000_000, 125_000, 125_100),
        ("\ud800" * 1_000, 1, 3_000),
        ("ok \udfff ok", 3, 8),
        ("\x00" * 10_000, 1, 10_000),
        ("😀" * 5_000, 5_000, 20_000),
        ("<|endoftext|>" * 100, 500, 800),
        ("", 0, 0),
    ],
    ids=["spaces", "newlines", "a", "surrogates", "surrogate", "nul", "emoji", "special", "empty"],
)
def test_t19_no_text_makes_an_encoder_raise(name, text, least, most):
    """Runs of a million, special tokens, lone surrogates and NULs are counted."""
    assert least <= encoders.default_encoders().count(text, name) <= most


def test_t19_loading_and_counting_need_no_network(monkeypatch):
    """New encoders load and count while every socket is forbidden."""

    def forbidden(*_args, **_kwargs):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", forbidden)
    monkeypatch.setattr(socket, "create_connection", forbidden)
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    fresh = encoders.Encoders()

    fresh.warm()

    assert fresh.count("hello world", "o200k_base") == 2


def test_an_encoding_is_loaded_once(monkeypatch):
    """Threads that want an encoding at the same time share one load."""
    loads = []
    ready = threading.Barrier(8)
    counting = engines.Counting(len, lambda texts: [*map(len, texts)])
    monkeypatch.setattr(engines, "load", lambda _engine, name, _ranks: loads.append(name) or counting)
    fresh = encoders.Encoders()

    def use():
        ready.wait()
        fresh.count("text", "o200k_base")

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert loads == ["o200k_base"]


def test_threads_count_alike():
    """Several threads on one encoder get the counts that one thread gets."""
    shared = encoders.default_encoders()
    texts = [f"message {number} " * 20 for number in range(50)]
    expected = [shared.count(text, "o200k_base") for text in texts]
    found = []

    threads = [
        threading.Thread(target=lambda: found.append([shared.count(text, "o200k_base") for text in texts]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == [expected] * 4
