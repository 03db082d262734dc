"""
What an account owes for some days: usage, what is free of charge, refunds, what turned up for days that are closed, cents.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from sqlalchemy import select

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.differences import exact_sum, joined_pairs
from tokenbudget_mw.database.ledger import REVERSAL

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection

__all__ = ["PICO_PER_CENT", "Invoice", "InvoiceItem", "decode", "drafted", "iso"]

PICO_PER_CENT = 10**10

_FIGURES = ("requests", "input_tokens", "output_tokens", "cost_pico")


@dataclass(frozen=True, slots=True)
class InvoiceItem:
    """
    What a model was used, and cost.

    Attributes:
        model: The model; empty where none is known.

        requests: Requests.

        input_tokens: Tokens.

        output_tokens: Tokens.

        cost_pico: Cost, in pico-dollars.
    """

    model: str
    requests: int
    input_tokens: int
    output_tokens: int
    cost_pico: int


@dataclass(frozen=True, slots=True)
class Invoice:
    """
    What an account owes for a period. All amounts but *due_cents* are whole pico-dollars.

    Attributes:
        account: Whose.

        starts_at: First moment, ISO 8601.

        ends_at: First moment after it.

        closed_at: When it was closed; None for a draft.

        items: Usage of its days by model, the dearest first.

        usage_pico: Their cost.

        earlier_pico: Usage of earlier periods that turned up, or was priced anew, after these were closed.

        refunds_pico: What was refunded since the period before, less refunds that were taken back.

        included_pico: What is free of charge in each period.

        overage_pico: What is to be paid: usage less refunds as far as it goes beyond what is included, and what closed
            periods cost more or less by now, each by what was included in it. Below zero where more was given back.

        carried_pico: What rounding had left over before; part of what is due now.

        due_cents: What is due, in whole cents: *overage_pico* and *carried_pico*, halves rounded to even.

        remainder_pico: What rounding leaves over now.
    """

    account: str
    starts_at: str
    ends_at: str
    closed_at: str | None
    items: tuple[InvoiceItem, ...]
    usage_pico: int
    earlier_pico: int
    refunds_pico: int
    included_pico: int
    overage_pico: int
    carried_pico: int
    due_cents: int
    remainder_pico: int

    @property
    def net_pico(self) -> int:
        """
        All usage less what was given back.
        """
        return self.usage_pico + self.earlier_pico - self.refunds_pico


def drafted(
    connection: Connection,
    account: str,
    starts: datetime,
    ends: datetime,
    included_pico: int,
    *,
    closed_at: str | None = None,
) -> Invoice:
    """
    Return what *account* owes from *starts* until *ends*, where that follows its last closed period.

    What turned up for closed periods costs what it would have, had it been there when they were closed: within what was
    included in them it is free, and no allowance of this one pays for it.
    """
    items = tuple(_items(connection, account, starts, ends))
    usage = sum(item.cost_pico for item in items)
    closed = _closed(connection, account)
    first = closed[0].starts if closed else starts
    by_now = _usage_by_now(connection, account, closed)
    refunds = _refunds(connection, account, first, ends) - sum(period.refunds for period in closed)
    later = sum(_overage(held - period.refunds, period.included) for held, period in zip(by_now, closed, strict=True))
    overage = _overage(usage - refunds, included_pico) + later - sum(period.overage for period in closed)
    carried = closed[-1].remainder if closed else 0
    due = overage + carried
    cents = _half_even(due)
    return Invoice(
        account=account,
        starts_at=iso(starts),
        ends_at=iso(ends),
        closed_at=closed_at,
        items=items,
        usage_pico=usage,
        earlier_pico=sum(by_now) - sum(period.usage for period in closed),
        refunds_pico=refunds,
        included_pico=included_pico,
        overage_pico=overage,
        carried_pico=carried,
        due_cents=cents,
        remainder_pico=due - cents * PICO_PER_CENT,
    )


def _half_even(pico: int) -> int:
    cents, rest = divmod(pico, PICO_PER_CENT)
    return cents + (rest * 2 > PICO_PER_CENT or (rest * 2 == PICO_PER_CENT and cents % 2 == 1))


def _items(connection: Connection, account: str, starts: datetime, ends: datetime) -> list[InvoiceItem]:
    rollup = tables.rollup_subjects.c
    sums = [part for name in _FIGURES for part in exact_sum(connection, rollup[name])]
    wanted = (
        select(rollup.model, *sums)
        .where(rollup.account == account, rollup.day >= starts, rollup.day < ends)
        .group_by(rollup.model)
    )
    items = [InvoiceItem(model, *joined_pairs(parts)) for model, *parts in connection.execute(wanted)]
    return sorted(items, key=lambda item: (-item.cost_pico, item.model))


def _refunds(connection: Connection, account: str, since: datetime, until: datetime) -> int:
    ledger = tables.ledger.c
    # a refund, and one that is taken back again
    kinds = ledger.kind.in_(("refund", REVERSAL)), ledger.contra == tables.REVENUE
    where = ledger.account == account, *kinds, ledger.created_at >= since, ledger.created_at < until
    return -_total(connection, ledger.amount_pico, *where)


def _total(connection: Connection, column: ColumnElement[Any], *where: ColumnElement[bool]) -> int:
    (total,) = joined_pairs(connection.execute(select(*exact_sum(connection, column)).where(*where)).one())
    return total


def iso(at: datetime) -> str:
    """
    Return *at*, which is in UTC, as invoices write it.
    """
    return at.isoformat().replace("+00:00", "Z")


def decode(document: str) -> Invoice:
    """
    Return the invoice that is kept as *document*.

    Raises:
        msgspec.MsgspecError: It is none.
    """
    return msgspec.json.decode(document, type=Invoice)


# -- what is closed ---------------------------------------------------------------------------------------------------


class _Closed(NamedTuple):
    """
    A closed period, and what stands on its invoice, in pico-dollars; *usage* with that of earlier periods.
    """

    starts: datetime
    ends: datetime
    usage: int
    refunds: int
    included: int
    overage: int
    remainder: int


def _closed(connection: Connection, account: str) -> list[_Closed]:
    periods = tables.periods.c
    wanted = select(tables.periods).where(periods.account == account).order_by(periods.starts_at)
    found = []
    for row in connection.execute(wanted):
        invoice = decode(row.document)
        amounts = row.usage_pico, row.refunds_pico, invoice.included_pico, invoice.overage_pico, row.remainder_pico
        found.append(_Closed(row.starts_at, row.ends_at, *amounts))
    return found


def _usage_by_now(connection: Connection, account: str, closed: Sequence[_Closed]) -> list[int]:
    """
    Return what the usage of each of the *closed* periods costs by now.
    """
    costs = [0] * len(closed)
    if not closed:
        return costs
    rollup = tables.rollup_subjects.c
    wanted = (
        select(rollup.day, *exact_sum(connection, rollup.cost_pico))
        .where(rollup.account == account, rollup.day >= closed[0].starts, rollup.day < closed[-1].ends)
        .group_by(rollup.day)
    )
    starts = [period.starts for period in closed]
    for day, *halves in connection.execute(wanted):
        (cost,) = joined_pairs(halves)
        costs[bisect(starts, day) - 1] += cost
    return costs


def _overage(net: int, included: int) -> int:
    """
    Return what of *net* goes beyond what is *included*; what is below zero was given back.
    """
    return min(net, 0) + max(net - included, 0)
