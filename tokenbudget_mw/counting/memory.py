"""
Counts of texts seen lately: a conversation's next turn repeats all its former messages.
"""

from __future__ import annotations

import sys

__all__ = ["CountMemory"]

LONG_CHARS = 4_096
ENTRY_BYTES = 160


class CountMemory:
    """
    Text -> tokens, bounded by bytes.

    Two generations: what is asked for stays in the young one; when that is full it becomes the old one, and what was
    not asked for since the last change is forgotten. That keeps what is used, as an LRU does, at the price of a plain
    dict: a miss of an LRU costs as much as counting a short message.

    Threads need no lock: the worst that a race does is to forget a count.

    Args:
        limit: Most bytes it may hold, texts included.
    """

    __slots__ = ("_half", "_old", "_size", "_young")

    def __init__(self, limit: int = 8 * 2**20) -> None:
        self._half = limit // 2
        self._size = 0
        self._young: dict[str | tuple[int, int], int] = {}
        self._old: dict[str | tuple[int, int], int] = {}

    def get(self, text: str) -> int | None:
        """
        Return the tokens of *text*, None if they are not known.
        """
        key = text if len(text) <= LONG_CHARS else _short(text)
        found = self._young.get(key)
        if found is None:
            found = self._old.get(key)
            if found is not None:
                self._keep(key, found)
        return found

    def put(self, text: str, tokens: int) -> None:
        """
        Remember that *text* has *tokens* tokens.
        """
        self._keep(text if len(text) <= LONG_CHARS else _short(text), tokens)

    def _keep(self, key: str | tuple[int, int], tokens: int) -> None:
        if self._size > self._half:
            self._old, self._young, self._size = self._young, {}, 0
        self._young[key] = tokens
        self._size += ENTRY_BYTES + sys.getsizeof(key)


def _short(text: str) -> tuple[int, int]:
    # str hashes are keyed by a secret of the process; a collision of equal length is a matter of 2^-64.
    return hash(text), len(text)
