"""
Proves the books: what usage rows cost = what the rollups say = what the ledger took = what the balances lost, to the pico-dollar.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING

from sqlalchemy import case, func, select

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.differences import (
    Difference,
    balance_differences,
    entry_differences,
    exact_sum,
    joined_pairs,
    purged_differences,
)
from tokenbudget_mw.database.engine import snapshot
from tokenbudget_mw.database.grants import grant_differences
from tokenbudget_mw.database.periods import period_differences
from tokenbudget_mw.database.rollup_gaps import rollup_differences

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

__all__ = ["BooksReport", "Difference", "totals", "verify"]

MOST_DIFFERENCES = 1000


@dataclass(frozen=True, slots=True)
class BooksReport:
    """
    What `verify` found.

    Attributes:
        rows: Usage rows.

        tokens: Sum of each token column.

        usage_pico: Cost of all usage rows that have an account, in pico-dollars.

        unowned_pico: Cost of those that have none: nobody's ledger takes it.

        corrected_pico: What costs of rows were corrected by later; see `rerating`.

        ledger_usage_pico: Sum of the ledger entries that stand for usage: it is *usage_pico*, with what of *corrected_pico*
            has an account, as long as no row was purged.

        ledger_pico: Sum of all ledger entries.

        balance_pico: Sum of all balances; minus *ledger_pico* where the books agree.

        rollup_pico: Sum of the costs in the rollup by subject, of all subjects.

        purged: Rows that retention has deleted.

        purged_pico: Their cost; with it, the rows that are left cost what the rollup says.

        differences: Where they do not, at most `MOST_DIFFERENCES`.

        truncated: Whether there are more.
    """

    rows: int
    tokens: Mapping[str, int]
    usage_pico: int
    unowned_pico: int
    corrected_pico: int
    ledger_usage_pico: int
    ledger_pico: int
    balance_pico: int
    rollup_pico: int
    purged: int
    purged_pico: int
    differences: tuple[Difference, ...] = ()
    truncated: bool = False

    @property
    def verified(self) -> bool:
        """
        Whether the books agree everywhere.
        """
        return not self.differences


_DIFFERENCES = (
    entry_differences,
    balance_differences,
    rollup_differences,
    purged_differences,
    grant_differences,
    period_differences,
)


def verify(engine: Engine) -> BooksReport:
    """
    Hold usage rows, rollups, ledger and balances against one another, in one snapshot, while others may write.

    Every usage entry must be the sum of its rows, and that of a re-rating the sum of its corrections, every balance minus
    the sum of its account's entries, and every rollup the sum of its day's rows and corrections. Where retention has
    deleted rows, the sums it kept of them stand in for them, and the account's usage entries must be the sum of its
    rollup. Grants must have their entries, and entries their grants. Closed periods must be as they were closed.
    """
    with snapshot(engine) as connection:
        sums = _sums(connection)
        found = list(islice(chain(*(differ(connection) for differ in _DIFFERENCES)), MOST_DIFFERENCES + 1))
    return BooksReport(
        rows=sums["rows"],
        tokens={name: sums[name] for name in tables.TOKENS},
        usage_pico=sums["cost_pico"] - sums["unowned_pico"],
        unowned_pico=sums["unowned_pico"],
        corrected_pico=sums["corrected_pico"],
        ledger_usage_pico=sums["ledger_usage_pico"],
        ledger_pico=sums["ledger_pico"],
        balance_pico=sums["balance_pico"],
        rollup_pico=sums["rollup_pico"],
        purged=sums["purged"],
        purged_pico=sums["purged_pico"],
        differences=tuple(found[:MOST_DIFFERENCES]),
        truncated=len(found) > MOST_DIFFERENCES,
    )


def totals(engine: Engine) -> dict[str, int]:
    """
    Return what the books hold: ``rows``, the sum of every token column, ``cost_pico``, ``unowned_pico``,
    ``corrected_pico``, ``ledger_pico``, ``ledger_usage_pico``, ``balance_pico``, ``rollup_pico``,
    ``purged`` and ``purged_pico``.
    """
    with snapshot(engine) as connection:
        return _sums(connection)


# -- sums -------------------------------------------------------------------------------------------------------------


def _sums(connection: Connection) -> dict[str, int]:
    usage, ledger, balances = tables.usage.c, tables.ledger.c, tables.balances.c
    unowned = case((usage.account.is_(None), usage.cost_pico), else_=0)
    of_usage = case((ledger.kind.in_(tables.CHARGES), ledger.amount_pico), else_=0)
    sums: dict[str, int] = {"rows": connection.scalar(select(func.count()).select_from(tables.usage)) or 0}
    for columns in (
        {**{name: usage[name] for name in tables.TOKENS}, "cost_pico": usage.cost_pico, "unowned_pico": unowned},
        {"ledger_pico": ledger.amount_pico, "ledger_usage_pico": of_usage},
        {"corrected_pico": tables.corrections.c.change_pico},
        {"balance_pico": balances.balance_pico},
        {"rollup_pico": tables.rollup_subjects.c.cost_pico},
        {"purged": tables.purged_days.c.requests, "purged_pico": tables.purged_days.c.cost_pico},
    ):
        wanted = select(*chain.from_iterable(exact_sum(connection, column) for column in columns.values()))
        sums.update(zip(columns, joined_pairs(connection.execute(wanted).one()), strict=True))
    return sums
