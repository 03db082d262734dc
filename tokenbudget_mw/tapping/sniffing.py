"""
The tap of a response whose content type names neither JSON nor an event stream.
"""

from __future__ import annotations

from tokenbudget_mw.tapping.base import CountText, Family, Tap
from tokenbudget_mw.tapping.stream import StreamTap
from tokenbudget_mw.tapping.unary import UnaryTap
from tokenbudget_mw.values import Usage

__all__ = ["SniffingTap"]


class SniffingTap:
    """
    Tells JSON from an event stream by the first byte that is no white space.

    Args:
        family: The format of the response.

        count_text: Counts the output text of a response without figures.
    """

    __slots__ = ("_count_text", "_family", "_tap")

    def __init__(self, family: Family, count_text: CountText | None) -> None:
        self._family = family
        self._count_text = count_text
        self._tap: Tap | None = None

    def feed(self, chunk: bytes) -> None:
        """
        Take the next piece of the body.
        """
        if self._tap is None:
            chunk = chunk.lstrip()
            if not chunk:
                return
            kind = UnaryTap if chunk[0] in b"{[" else StreamTap
            self._tap = kind(self._family, self._count_text)
        self._tap.feed(chunk)

    def usage(self) -> Usage:
        """
        Return what was read; of an empty body, that nothing was.
        """
        return (self._tap or StreamTap(self._family, self._count_text)).usage()
