"""
What a tokenizer of your own must do.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["Counter"]


class Counter(Protocol):
    """
    Counts tokens as one model's tokenizer does.

    Called on the event loop with up to some 16,000 characters at a time, from several threads at once. It must count any
    text, lone surrogates included, and never raise. Counts of texts are remembered, so equal texts must have equal counts.
    """

    def count(self, text: str) -> int:
        """
        Return the tokens of *text*, without special tokens around it.
        """
        ...
