"""
Billing periods: what an account owes for some days, as a draft that may be asked for at any time, and closed once for good.

Every pico-dollar of an account stands on exactly one invoice. What turns up for days that are closed (a spool that was found
late, a price that was corrected) stands on the next one, as usage of earlier periods.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.differences import Difference, exact_sum, joined_pairs
from tokenbudget_mw.database.engine import reader, snapshot
from tokenbudget_mw.database.ledger import REVERSAL, change_balance
from tokenbudget_mw.database.rollups import floor_day
from tokenbudget_mw.database.rows import clean_id, moment
from tokenbudget_mw.errors import TokenBudgetError
from tokenbudget_mw.units import format_usd

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Engine

__all__ = ["Invoice", "InvoiceItem", "PeriodError", "close", "closed", "draft", "period_differences"]

PICO_PER_CENT = 10**10

_FIGURES = ("requests", "input_tokens", "output_tokens", "cost_pico")
_encode = msgspec.json.Encoder(order="sorted").encode


class PeriodError(TokenBudgetError):
    """
    The days are no period that can be drafted or closed.
    """


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

        overage_pico: What goes beyond that; below zero where more was given back than was used.

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


def draft(
    engine: Engine, account: str, starts: datetime, ends: datetime, *, included_pico: int | None = None
) -> Invoice:
    """
    Return what *account* owes for its usage from *starts* until *ends* by what the books hold now.

    A period that is closed is returned as it was closed.

    Args:
        engine: The host's database.

        account: For example ``tenant:acme``.

        starts: Midnight, UTC.

        ends: A later midnight, not included.

        included_pico: What is free of charge in the period: nothing, where None, or what it was closed with.

    Raises:
        PeriodError: The days overlap closed ones, or leave some out after these.
    """
    account = clean_id(account, 255)
    _check(starts, ends, included_pico)
    with snapshot(engine) as connection:
        return _known(connection, account, starts, ends, included_pico) or _drafted(
            connection, account, starts, ends, included_pico or 0
        )


def close(
    engine: Engine,
    account: str,
    starts: datetime,
    ends: datetime,
    *,
    included_pico: int | None = None,
    clock: Callable[[], float] = time.time,
) -> Invoice:
    """
    Close a period, and return its invoice, which never changes from then on. Arguments and errors are those of `draft`.

    Closing it again returns the same invoice. Whatever comes for its days afterwards stands on the next one.

    Raises:
        PeriodError: The period is not over, or was closed with another allowance.
    """
    account = clean_id(account, 255)
    _check(starts, ends, included_pico)
    now = moment(int(clock() * 1_000_000))
    if ends > now:
        raise PeriodError(f"The period ends at {ends}, which lies ahead; a draft can be had at any time.")
    while True:
        with snapshot(engine) as connection:
            known = _known(connection, account, starts, ends, included_pico)
            if known is not None:
                return known
            made = _drafted(connection, account, starts, ends, included_pico or 0, closed_at=_iso(now))
            before = _last(connection, account)
        try:
            with engine.begin() as connection:
                change_balance(connection, account, 0, now)  # takes the account's lock: another `close` waits
                if _last(connection, account) == before:
                    connection.execute(insert(tables.periods), _row(made, starts, ends, now, before))
                    return made
        except IntegrityError:
            pass
        # somebody was quicker; the next look finds it


def closed(engine: Engine, account: str) -> list[Invoice]:
    """
    Return the invoices of the closed periods of *account*, the oldest first.
    """
    periods = tables.periods.c
    wanted = select(periods.document).where(periods.account == clean_id(account, 255)).order_by(periods.starts_at)
    with reader(engine).connect() as connection:
        return [_decode(document) for document in connection.scalars(wanted)]


def _check(starts: datetime, ends: datetime, included_pico: int | None) -> None:
    for at in (starts, ends):
        if at.utcoffset() != timedelta(0) or at != floor_day(at):
            raise PeriodError(f"A period begins and ends at midnight UTC, got {at}.")
    if ends <= starts:
        raise PeriodError("A period ends after its beginning.")
    if included_pico is not None and included_pico < 0:
        raise PeriodError("What is included in a period is not below 0.")


# -- what is closed ---------------------------------------------------------------------------------------------------


def _known(
    connection: Connection, account: str, starts: datetime, ends: datetime, included_pico: int | None
) -> Invoice | None:
    periods = tables.periods.c
    overlapping = periods.account == account, periods.starts_at < ends, periods.ends_at > starts
    for row in connection.execute(select(tables.periods).where(*overlapping)):
        if (row.starts_at, row.ends_at) != (starts, ends):
            raise PeriodError(f"{row.starts_at:%Y-%m-%d} to {row.ends_at:%Y-%m-%d} is closed for {account} already.")
        found = _decode(row.document)
        if included_pico is not None and found.included_pico != included_pico:
            ours, given = format_usd(found.included_pico), format_usd(included_pico)
            raise PeriodError(f"The period was closed with {ours} included, not {given}.")
        return found
    last = _last(connection, account)
    if last is not None and last.ends_at != starts:
        raise PeriodError(f"The next period of {account} begins on {last.ends_at:%Y-%m-%d}, where the last one ended.")
    return None


def _last(connection: Connection, account: str) -> Any:
    periods = tables.periods.c
    wanted = select(tables.periods).where(periods.account == account).order_by(periods.starts_at.desc()).limit(1)
    return connection.execute(wanted).one_or_none()


def _row(invoice: Invoice, starts: datetime, ends: datetime, now: datetime, before: Any) -> dict[str, Any]:
    document = _encode(invoice).decode()
    return {
        "id": uuid.uuid4().hex,
        "account": invoice.account,
        "starts_at": starts,
        "ends_at": ends,
        "closed_at": now,
        "usage_pico": invoice.usage_pico + invoice.earlier_pico,
        "refunds_pico": invoice.refunds_pico,
        "remainder_pico": invoice.remainder_pico,
        "document": document,
        "digest": _digest("" if before is None else before.digest, document),
    }


def _digest(before: str, document: str) -> str:
    return hashlib.sha256(f"{before}\n{document}".encode()).hexdigest()


def _decode(document: str) -> Invoice:
    return msgspec.json.decode(document, type=Invoice)


def _iso(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def period_differences(connection: Connection) -> Iterator[Difference]:
    """
    Yield the closed periods that are no longer what was closed, and those that follow a changed or missing one.
    """
    periods = tables.periods.c
    wanted = select(tables.periods).order_by(periods.account, periods.starts_at)
    before: dict[str, str] = {}
    for row in connection.execute(wanted.execution_options(yield_per=100)):
        expected = _digest(before.get(row.account, ""), row.document)
        sums = row.usage_pico, row.refunds_pico, row.remainder_pico
        told = row.account, _iso(row.starts_at), _iso(row.ends_at), _iso(row.closed_at), *sums
        if expected != row.digest or _told(row.document) != told:
            day = f"{row.starts_at:%Y-%m-%d}"
            yield Difference("period", row.account, None, row.usage_pico, row.usage_pico, f"from {day}", day=day)
        before[row.account] = row.digest


def _told(document: str) -> tuple[Any, ...] | None:
    """
    Return what *document* says of its row's columns.
    """
    try:
        invoice = _decode(document)
    except msgspec.MsgspecError:
        return None
    sums = invoice.usage_pico + invoice.earlier_pico, invoice.refunds_pico, invoice.remainder_pico
    return invoice.account, invoice.starts_at, invoice.ends_at, invoice.closed_at, *sums


# -- what is due ------------------------------------------------------------------------------------------------------


def _drafted(
    connection: Connection,
    account: str,
    starts: datetime,
    ends: datetime,
    included_pico: int,
    *,
    closed_at: str | None = None,
) -> Invoice:
    items = tuple(_items(connection, account, starts, ends))
    usage = sum(item.cost_pico for item in items)
    so_far = _so_far(connection, account)
    first = so_far["first"] or starts
    earlier = _usage(connection, account, first, starts) - so_far["usage_pico"]
    refunds = _refunds(connection, account, first, ends) - so_far["refunds_pico"]
    net = usage + earlier - refunds
    overage = min(net, 0) + max(net - included_pico, 0)
    due = overage + so_far["remainder_pico"]
    cents = _half_even(due)
    return Invoice(
        account=account,
        starts_at=_iso(starts),
        ends_at=_iso(ends),
        closed_at=closed_at,
        items=items,
        usage_pico=usage,
        earlier_pico=earlier,
        refunds_pico=refunds,
        included_pico=included_pico,
        overage_pico=overage,
        carried_pico=so_far["remainder_pico"],
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


def _usage(connection: Connection, account: str, since: datetime, until: datetime) -> int:
    rollup = tables.rollup_subjects.c
    where = rollup.account == account, rollup.day >= since, rollup.day < until
    return _total(connection, rollup.cost_pico, *where)


def _refunds(connection: Connection, account: str, since: datetime, until: datetime) -> int:
    ledger = tables.ledger.c
    # a refund, and one that is taken back again
    kinds = ledger.kind.in_(("refund", REVERSAL)), ledger.contra == tables.REVENUE
    where = ledger.account == account, *kinds, ledger.created_at >= since, ledger.created_at < until
    return -_total(connection, ledger.amount_pico, *where)


def _total(connection: Connection, column: ColumnElement[Any], *where: ColumnElement[bool]) -> int:
    (total,) = joined_pairs(connection.execute(select(*exact_sum(connection, column)).where(*where)).one())
    return total


def _so_far(connection: Connection, account: str) -> Mapping[str, Any]:
    """
    Return when the account's first closed period began, and what stands on all of its invoices together.
    """
    periods = tables.periods.c
    wanted = select(periods.starts_at, periods.usage_pico, periods.refunds_pico, periods.remainder_pico).where(
        periods.account == account
    )
    rows = connection.execute(wanted.order_by(periods.starts_at)).all()
    return {
        "first": rows[0].starts_at if rows else None,
        "usage_pico": sum(row.usage_pico for row in rows),
        "refunds_pico": sum(row.refunds_pico for row in rows),
        "remainder_pico": rows[-1].remainder_pico if rows else 0,
    }
