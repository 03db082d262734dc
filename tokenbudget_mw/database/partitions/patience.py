"""
Short transactions that need a strong lock on a table which everybody uses.

Whoever waits for such a lock makes all who come after wait, too. So it waits for an instant only, steps back, and tries again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy.exc import DBAPIError

from tokenbudget_mw.chance import chance
from tokenbudget_mw.database.faults import is_locked
from tokenbudget_mw.errors import TokenBudgetError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

__all__ = ["LOCK_MS", "BusyTableError", "again", "patiently"]

LOCK_MS = 40
"""Milliseconds that others may come to wait for a lock which we do not get."""

T = TypeVar("T")


class BusyTableError(TokenBudgetError):
    """
    Somebody holds a table of ours and does not let go of it. Try again later, or look into `pg_stat_activity`.
    """

    def __init__(self) -> None:
        super().__init__(
            "Somebody reads or writes our tables for a long time, so they cannot be changed now. Try again later; "
            "pg_stat_activity tells who."
        )


def patiently(
    engine: Engine,
    step: Callable[[Connection], T],
    *,
    patience: float = 60.0,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], object] = time.sleep,
) -> T:
    """
    Run *step* in a transaction that gives up any lock it does not get at once, again and again.

    Args:
        engine: The host's database.

        step: What to do; it may be begun several times, and is done once.

        patience: Seconds after which it is not tried again.

        clock: Monotonic seconds.

        pause: Waits for so many seconds.

    Raises:
        BusyTableError: The lock was never free.
    """

    def once() -> T:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_MS}ms'")
            return step(connection)

    return again(once, patience=patience, clock=clock, pause=pause)


def again(
    do: Callable[[], T],
    *,
    patience: float = 60.0,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], object] = time.sleep,
) -> T:
    """
    Call *do*, and again while it fails for a lock that it did not get, as `patiently` does.

    Raises:
        BusyTableError: The lock was never free.
    """
    end = clock() + patience
    while True:
        try:
            return do()
        except DBAPIError as exc:
            if not is_locked(exc):
                raise
            if clock() >= end:
                raise BusyTableError from exc
        pause(chance.uniform(0.05, 0.2))  # so that two do not step in time
