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
        tokens, unknown = self.sum([text])
        return None if unknown else tokens

    def sum(self, texts: Sequence[str]) -> tuple[int, list[str]]:
        """
        Return the tokens of those of *texts* that are known, together, and those that are not known.
        """
        young, old, tokens, unknown = self._young, self._old, 0, []
        for text in texts:
            key = hash(text)
            found = young.get(key)
            if found is None:
                found = old.get(key)
                if found is None:
                    unknown.append(text)
                    continue
                young[key] = found
            tokens += found
        self._age()
        return tokens, unknown

    def put(self, texts: Sequence[str], tokens: Sequence[int]) -> None:
        """
        Remember how many *tokens* each of *texts* has.
        """
        self._young.update(zip(map(hash, texts), tokens, strict=True))
        self._age()

    def _age(self) -> None:
        if len(self._young) > self._most:
            self._old, self._young = self._young, {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)
