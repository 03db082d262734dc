"""
Balances as guards ask for them: which of some accounts have money, and word from PostgreSQL when one has none any more.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from tokenbudget_mw.database.engine import reader
from tokenbudget_mw.database.rows import clean_id
from tokenbudget_mw.database.tables import balances

if TYPE_CHECKING:
    from sqlalchemy import Engine

__all__ = ["CHANNEL", "BalanceReader"]

log = logging.getLogger("tokenbudget_mw")

CHANNEL = "tokenbudget_depleted"
"""What `writers/postgresql.sql` notifies, with the account."""

_AT_ONCE = 500
"""Accounts a statement."""


class BalanceReader:
    """
    Reads balances, and listens where the database can tell of them.

    Args:
        engine: From `open_engine`, or the host's own.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._has_told = False

    def funded(self, accounts: Iterable[str]) -> set[str]:
        """
        Return those of *accounts* whose balance is above zero, as it is committed. One that never had money has none.

        Raises:
            SQLAlchemyError: The database does not answer.
        """
        names: dict[
            str, list[str]
        ] = {}  # as the books write them, so that an odd one neither misses its money nor is an error
        for account in accounts:
            names.setdefault(clean_id(account, 255), []).append(account)
        asked, found = sorted(names), set[str]()
        wanted = select(balances.c.account).where(balances.c.balance_pico > 0)
        with reader(self._engine).connect() as connection:
            for at in range(0, len(asked), _AT_ONCE):
                some = wanted.where(balances.c.account.in_(asked[at : at + _AT_ONCE]))
                found.update(connection.execute(some).scalars())
        return {account for name in found for account in names[name]}

    def listen(self) -> Any | None:
        """
        Return a connection of its own that hears of balances that are used up; None where the database cannot tell.
        """
        if self._engine.dialect.name != "postgresql" or self._engine.dialect.driver != "psycopg":
            return None
        try:
            fairy = self._engine.raw_connection()
            driver = fairy.driver_connection
            fairy.detach()  # no part of the pool any more: nobody else gets it, and nobody waits for it
            driver.rollback()  # type: ignore[union-attr]  # it is there
            driver.autocommit = True  # type: ignore[union-attr]
            driver.execute(f"LISTEN {CHANNEL}")  # type: ignore[union-attr]
        except Exception as exc:  # noqa: BLE001 - looking at the balances does as well
            if not self._has_told:
                self._has_told = True
                log.warning(
                    "PostgreSQL cannot be listened to (%s): balances are looked at instead.", type(exc).__name__
                )
            return None
        self._has_told = False
        return driver
