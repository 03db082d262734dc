"""
Transactions beside those of writers: where two wait for one another, the database ends one of them, and that is begun anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy.exc import DBAPIError

from tokenbudget_mw.database.faults import is_deadlock

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

__all__ = ["TRIES", "in_transaction"]

TRIES = 10
"""How often a transaction is begun."""

_T = TypeVar("_T")


def in_transaction(engine: Engine, do: Callable[[Connection], _T]) -> _T:
    """
    Return what *do* gives in a transaction; in another one, where a deadlock has ended it.
    """
    left = TRIES
    while True:
        left -= 1
        try:
            with engine.begin() as connection:
                return do(connection)
        except DBAPIError as exc:
            if not left or not is_deadlock(exc):
                raise
