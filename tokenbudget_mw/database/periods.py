"""
Billing periods: what an account owes for some days, as a draft that may be asked for at any time, and closed once for good.

Every pico-dollar of an account stands on exactly one invoice. What turns up for days that are closed (a spool that was found
late, a price that was corrected) stands on the next one, as usage of earlier periods.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import func, insert, select
from sqlalchemy.exc import IntegrityError

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.differences import Difference, exact_sum, joined_pairs
from tokenbudget_mw.database.engine import reader, snapshot
from tokenbudget_mw.database.invoices import PICO_PER_CENT, Invoice, InvoiceItem, decode, drafted, iso
from tokenbudget_mw.database.ledger import change_balance
from tokenbudget_mw.database.rollups import floor_day
from tokenbudget_mw.database.rows import clean_id, moment
from tokenbudget_mw.errors import TokenBudgetError
from tokenbudget_mw.units import format_usd

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

__all__ = [
    "PICO_PER_CENT",
    "Invoice",
    "InvoiceItem",
    "PeriodError",
    "before_all",
    "close",
    "closed",
    "draft",
    "period_differences",
]

_encode = msgspec.json.Encoder(order="sorted").encode


class PeriodError(TokenBudgetError):
    """
    The days are no period that can be drafted or closed.
    """


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
        return _known(connection, account, starts, ends, included_pico) or drafted(
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
            made = drafted(connection, account, starts, ends, included_pico or 0, closed_at=iso(now))
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
        return [decode(document) for document in connection.scalars(wanted)]


def before_all(engine: Engine, account: str, starts: datetime) -> int:
    """
    Return what *account* used before its first closed period, or before *starts* where it has none: no invoice ever asks
    for that. In pico-dollars.
    """
    account = clean_id(account, 255)
    rollup, periods = tables.rollup_subjects.c, tables.periods.c
    with reader(engine).connect() as connection:
        first = connection.scalar(select(func.min(periods.starts_at)).where(periods.account == account)) or starts
        wanted = select(*exact_sum(connection, rollup.cost_pico)).where(rollup.account == account, rollup.day < first)
        (cost,) = joined_pairs(connection.execute(wanted).one())
    return cost


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
        found = decode(row.document)
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
        told = row.account, iso(row.starts_at), iso(row.ends_at), iso(row.closed_at), *sums
        if expected != row.digest or _told(row.document) != told:
            day = f"{row.starts_at:%Y-%m-%d}"
            yield Difference("period", row.account, None, row.usage_pico, row.usage_pico, f"from {day}", day=day)
        before[row.account] = row.digest


def _told(document: str) -> tuple[Any, ...] | None:
    """
    Return what *document* says of its row's columns.
    """
    try:
        invoice = decode(document)
    except msgspec.MsgspecError:
        return None
    sums = invoice.usage_pico + invoice.earlier_pico, invoice.refunds_pico, invoice.remainder_pico
    return invoice.account, invoice.starts_at, invoice.ends_at, invoice.closed_at, *sums
