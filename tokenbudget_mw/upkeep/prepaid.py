"""
Accounts that must have money: one whose balance is used up is refused in every process until it is topped up.

The balance is what the database has committed; nothing else is believed. Each process remembers the accounts that it
serves, looks at their balances in one query a second, and hears at once from PostgreSQL when one is used up. So a balance
may go below zero by what passes between a write and the next look; what must never be passed is a limit.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from tokenbudget_mw import threads
from tokenbudget_mw.processes import PerProcess

__all__ = ["Balances", "Prepaid"]

log = logging.getLogger("tokenbudget_mw")

EVERY = 1.0
"""Seconds between two looks at the balances of accounts that ask."""

LISTEN = 0.25
"""Seconds for which a listener waits before it looks whether it shall end."""

TOGETHER = 0.05
"""Seconds in which many words are heard as one: so often at most are balances read because of them."""

FORGOTTEN = 60.0
"""Seconds after which what is known of an account that has not asked since is looked at anew before it passes."""

MOST_ACCOUNTS = 20_000
"""Most accounts that a process remembers; when there are more, all are looked at anew."""


class Balances(Protocol):
    """
    Where balances are read. See `database.balances.BalanceReader`.
    """

    def funded(self, accounts: Iterable[str]) -> set[str]:
        """
        Return those of *accounts* that have money. Any error means that this cannot be told now.
        """
        ...

    def listen(self) -> Any | None:
        """
        Return a connection with `notifies` and `close`, as psycopg's; None where there are only looks.
        """
        ...


class Prepaid:
    """
    Tells whether an account has money.

    Args:
        balances: Gives where they are read; asked when it is needed, not at start.

        every: Seconds between two looks.

        timer: Gives monotonic seconds.
    """

    def __init__(
        self,
        balances: Callable[[], Balances],
        *,
        every: float = EVERY,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._balances = balances
        self._every = every
        self._timer = timer
        self._mine: PerProcess[_Known] = PerProcess(_Known)

    def has_money(self, account: str | None) -> bool:
        """
        Tell whether *account* has money; asks the database where it was not heard of for long. Nobody pays for None.

        Where the database does not answer, what is known stands, and an account of which nothing is known passes.
        """
        known = self._quick(account)
        return self._look(account or "") if known is None else known

    async def ahas_money(self, account: str | None) -> bool:
        """
        The same, without blocking the event loop.
        """
        known = self._quick(account)
        return await asyncio.to_thread(self._look, account or "") if known is None else known

    def look(self, heard: Iterable[str] = ()) -> None:
        """
        Look at the balances of all accounts that have asked since the last look, and of those known ones that were *heard*
        of. The thread does so every second.
        """
        mine = self._mine.get()
        asked, mine.asked = mine.asked, {}
        accounts = {*tuple(asked), *(account for account in heard if account in mine.found)}
        if accounts:
            self._read(mine, accounts)

    def close(self) -> None:
        """
        End the thread. The next question starts it again.
        """
        mine = self._mine.get()
        mine.stopped.set()
        thread, mine.thread = mine.thread, None
        if thread is not None:
            thread.join(1.0)

    def _quick(self, account: str | None) -> bool | None:
        if account is None:
            return True
        mine = self._mine.get()
        mine.asked[account] = True
        if mine.thread is None:
            self._start(mine)
        found = mine.found.get(account)
        if found is None or self._timer() - found[1] > FORGOTTEN:
            return None
        return found[0]

    def _look(self, account: str) -> bool:
        mine = self._mine.get()
        self._read(mine, (account,))
        found = mine.found.get(account)
        return True if found is None else found[0]

    def _read(self, mine: _Known, accounts: Iterable[str]) -> None:
        accounts = tuple(accounts)
        try:
            funded = self._balances().funded(accounts)
        except Exception as exc:  # noqa: BLE001 - whatever a driver raises, requests go on
            if not mine.is_away:
                mine.is_away = True
                log.warning("The balances cannot be read (%s): what is known of them stands.", type(exc).__name__)
            return
        mine.is_away = False
        if len(mine.found) > MOST_ACCOUNTS:
            mine.found = {}
        now = self._timer()
        for account in accounts:
            mine.found[account] = (account in funded, now)

    def _start(self, mine: _Known) -> None:
        with mine.starting:
            if mine.thread is not None:
                return
            mine.stopped = threading.Event()
            arguments = (weakref.ref(self), self._balances, mine.stopped, self._every)
            mine.thread = threads.start(_run, *arguments, name="tokenbudget-prepaid")


class _Known:
    """
    What one process knows: account -> whether it has money, and when that was read.
    """

    def __init__(self) -> None:
        self.found: dict[str, tuple[bool, float]] = {}
        self.asked: dict[str, bool] = {}
        self.thread: threading.Thread | None = None
        self.stopped = threading.Event()
        self.starting = threading.Lock()
        self.is_away = False


def _run(
    reference: weakref.ref[Prepaid], balances: Callable[[], Balances], stopped: threading.Event, every: float
) -> None:
    listener, look_at = None, 0.0
    try:
        while not stopped.is_set():
            listener = listener or _listen(balances)
            listener, heard = _hear(listener, stopped, min(every, LISTEN))
            prepaid = reference()
            if prepaid is None:
                return
            if heard or time.monotonic() >= look_at:
                prepaid.look(heard)
                look_at = time.monotonic() + every
            del prepaid
    finally:
        if listener is not None:
            listener.close()


def _listen(balances: Callable[[], Balances]) -> Any | None:
    try:
        return balances().listen()
    except Exception as exc:  # noqa: BLE001 - whoever reads next says that the database is away
        log.debug("Balances cannot be listened to (%s).", type(exc).__name__)
        return None


def _hear(listener: Any, stopped: threading.Event, seconds: float) -> tuple[Any | None, list[str]]:
    """
    Wait up to *seconds* for a word, and a moment for what comes with it; return the listener, None where it broke.
    """
    if listener is None:
        stopped.wait(seconds)
        return None, []
    try:
        heard = [notice.payload for notice in listener.notifies(timeout=seconds, stop_after=1)]
        if heard:
            stopped.wait(TOGETHER)
            heard += [notice.payload for notice in listener.notifies(timeout=0)]
    except Exception as exc:  # noqa: BLE001 - the database went away: look until it can be listened to again
        log.debug("The listener for balances broke (%s).", type(exc).__name__)
        return None, []
    return listener, heard
