"""
Counts of texts seen lately: a conversation's next turn repeats all its former messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ENTRY_BYTES", "CountMemory"]

ENTRY_BYTES = 128
"""What an entry takes: two numbers, and its place in a table that is never quite full."""


class CountMemory:
    """
    Text -> tokens, bounded by bytes. Holds no text.

    A text is known by its hash, which Python keys by a secret of the process: that two texts share one is a matter of
    2^-64. (Who runs Python with a hash seed that others know, gives them the work of 2^32 hashes for a text that counts as
    another of theirs, until the provider's usage says what it had.) Keeping the texts would cost more than looking them up:
    memory that is written and not read again pushes everything else out of the processor's caches.

    Two generations: what is asked for stays in the young one; when that is full it becomes the old one, and what was
    not asked for since the last change is forgotten. That keeps what is used, as an LRU does, at the price of a plain
    dict: a miss of an LRU costs as much as counting a short message.

    Threads need no lock: the worst that a race does is to forget a count.

    Args:
        limit: Most bytes it may hold.
    """

    __slots__ = ("_most", "_old", "_young")

    def __init__(self, limit: int = 2 * 2**20) -> None:
        self._most = limit // ENTRY_BYTES // 2
        self._old: dict[int, int] = {}
        self._young: dict[int, int] = {}

    def get(self, text: str) -> int | None:
        """
        Return the tokens of *text*, None if they are not known.
        """
        tokens, unknown = self.sum([text], len(text))
        return None if unknown else tokens

    def sum(self, texts: Sequence[str], most: int) -> tuple[int, list[str]]:
        """
        Return the tokens of those of *texts* that are known, together, and those that are not known.

        Args:
            texts: What to look up.

            most: Most characters of a text that is: the hash of a long one alone would cost as much as a part of its sample.
        """
        get, tokens, unknown = self._young.get, 0, []
        for text in texts:
            found = get(hash(text)) if len(text) <= most else None
            if found is None:
                unknown.append(text)
            else:
                tokens += found
        if unknown and self._old:
            again, unknown = self._sum_old(unknown, most)
            tokens += again
        return tokens, unknown

    def _sum_old(self, texts: list[str], most: int) -> tuple[int, list[str]]:
        """
        Do the same with what was known before, and is young again if it is found.
        """
        old, tokens, unknown = self._old, 0, []
        for text in texts:
            found = old.get(hash(text)) if len(text) <= most else None
            if found is None:
                unknown.append(text)
            else:
                self._young[hash(text)] = found
                tokens += found
        if len(self._young) > self._most:
            self._age()
        return tokens, unknown

    def put(self, texts: Sequence[str], tokens: Sequence[int]) -> None:
        """
        Remember how many *tokens* each of *texts* has.
        """
        young = self._young
        for text, number in zip(texts, tokens, strict=True):
            young[hash(text)] = number
        if len(young) > self._most:
            self._age()

    def _age(self) -> None:
        self._old, self._young = self._young, {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)
