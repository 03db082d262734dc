"""
The memory of counts is right, and bounded.
"""

from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st

from tokenbudget_mw.counting.memory import LONG_CHARS, CountMemory


def held(memory: CountMemory) -> int:
    return sum(sys.getsizeof(key) for half in (memory._young, memory._old) for key in half)


@given(st.lists(st.tuples(st.text(max_size=5), st.integers(0, 99)), max_size=60))
def test_a_count_is_the_last_one_put_or_forgotten(puts):
    """A memory never makes a count up."""
    memory = CountMemory(limit=2_000)
    truth = {}
    for text, tokens in puts:
        memory.put(text, tokens)
        truth[text] = tokens

    # the last one first: asking for others moves the generations on
    assert not puts or memory.get(puts[-1][0]) == puts[-1][1]
    assert all(memory.get(text) in (tokens, None) for text, tokens in truth.items())


def test_it_holds_no_more_than_its_limit():
    """However many texts come, the bytes held stay below the limit."""
    memory = CountMemory(limit=100_000)

    for number in range(5_000):
        memory.put(f"{number} " * 20, number)

    assert 0 < held(memory) < 100_000


def test_what_is_asked_for_stays():
    """A text that keeps coming outlives any number of others."""
    memory = CountMemory(limit=50_000)
    memory.put("system prompt", 2)

    for number in range(2_000):
        memory.put(f"message {number}", number)
        assert memory.get("system prompt") == 2


def test_what_is_not_asked_for_is_forgotten():
    """A text that came once is gone after enough others."""
    memory = CountMemory(limit=50_000)
    memory.put("once", 1)

    for number in range(2_000):
        memory.put(f"message {number}", number)

    assert memory.get("once") is None


def test_long_texts_are_not_kept():
    """Of a long text only its hash and length are held."""
    memory = CountMemory()
    text = "x" * (LONG_CHARS + 1)
    memory.put(text, 7)

    assert memory.get("x" * (LONG_CHARS + 1)) == 7
    assert held(memory) < 200
