"""
A batch as one JSON array of objects, for databases that read rows out of a parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tokenbudget_mw.database.fitting import fit
from tokenbudget_mw.database.turns import in_turns

if TYPE_CHECKING:
    from tokenbudget_mw.values import UsageRecord

__all__ = ["encode_rows"]


def encode_rows(records: Sequence[UsageRecord]) -> bytes:
    """
    Return *records*, of which there are some, as a JSON array in UTF-8, every value fit for its column, moments as whole microseconds.

    Raises:
        PermanentSinkError: A value does not fit its column.
    """
    parts = [b"["]
    for some in in_turns(records):
        parts += (fit(some)[1][1:-1], b",")
    parts[-1] = b"]"
    return b"".join(parts)  # some megabytes are copied once, and never decoded
