"""
The memory of counts is right, bounded, and holds no text.
"""

from __future__ import annotations

import gc
import sys

from hypothesis import given
from hypothesis import strategies as st

from tokenbudget_mw.counting.memory import ENTRY_BYTES, CountMemory


def held(memory: CountMemory) -> int:
    """Bytes of all that the memory holds."""
    halves = (memory._young, memory._old)
    return sum(map(sys.getsizeof, halves)) + sum(
        sys.getsizeof(item) for half in halves for pair in half.items() for item in pair
    )


@given(st.lists(st.tuples(st.text(max_size=5), st.integers(0, 99)), max_size=60))
def test_a_count_is_the_last_one_put_or_forgotten(puts):
    """A memory never makes a count up."""
    memory = CountMemory(limit=20 * ENTRY_BYTES)
    truth = {}
    for text, tokens in puts:
        memory.put([text], [tokens])
        truth[text] = tokens

    # the last one first: asking for others moves the generations on
    assert not puts or memory.get(puts[-1][0]) == puts[-1][1]
    assert all(memory.get(text) in (tokens, None) for text, tokens in truth.items())


def test_each_text_has_its_own_count():
    """Of several texts each has its own count, and one that was never put has none."""
    memory = CountMemory()
    for text, tokens in (("a", 1), ("b", 2), ("", 0)):
        memory.put([text], [tokens])

    assert [memory.get(text) for text in ("a", "b", "", "c")] == [1, 2, 0, None]


def test_it_holds_no_more_than_its_limit():
    """However many texts come, the bytes held stay below the limit, tables included."""
    for limit in (50_000, 2**20):
        memory = CountMemory(limit)

        most = 0
        for number in range(3 * limit // ENTRY_BYTES):
            memory.put([f"{number} " * 20], [number + 1_000])
            if not number % 97:
                most = max(most, held(memory))

        assert limit / 4 < most < limit


def test_what_is_asked_for_stays():
    """A text that keeps coming outlives any number of others."""
    memory = CountMemory(limit=50_000)
    memory.put(["system prompt"], [2])

    for number in range(2_000):
        memory.put([f"message {number}"], [number])
        assert memory.get("system prompt") == 2


def test_what_is_not_asked_for_is_forgotten():
    """A text that came once is gone after enough others."""
    memory = CountMemory(limit=50_000)
    memory.put(["once"], [1])

    for number in range(2_000):
        memory.put([f"message {number}"], [number])

    assert memory.get("once") is None


def test_no_text_is_kept():
    """Of a text only its hash is held: no prompt stays in the memory of the process."""
    memory = CountMemory()
    memory.put(["canary " * 3], [7])
    memory.put(["canary " * 5_000], [8])

    assert memory.get("canary " * 5_000) == 8
    assert {type(item) for pair in memory._young.items() for item in pair} == {int}
    assert not any(isinstance(item, str) for item in gc.get_referents(memory._young))


def test_a_sum_tells_what_is_known_and_what_is_not():
    """Several texts are looked up at once, young ones and old ones; long ones are not looked up at all."""
    memory = CountMemory(limit=8 * ENTRY_BYTES)
    for number in range(6):  # the first ones are old by now
        memory.put([f"text {number}"], [10 + number])

    assert memory.sum(["text 5", "new", "text 2", "text 5"], 100) == (15 + 12 + 15, ["new"])
    assert memory.sum(["text 5", "text 4"], 5) == (0, ["text 5", "text 4"])
