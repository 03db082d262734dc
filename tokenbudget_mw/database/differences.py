"""
Where the books may differ, and the exact sums that show it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import BigInteger, func, literal, null, or_, select, type_coerce, union_all

from tokenbudget_mw.database import tables

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, CompoundSelect, Connection, Executable, Select

    _Part = Select[Any] | CompoundSelect[Any]

__all__ = [
    "HALF",
    "Difference",
    "EntryGap",
    "balance_differences",
    "entry_differences",
    "entry_gaps",
    "exact_sum",
    "exact_sum_in",
    "joined_pairs",
    "purged_differences",
    "stream",
]

HALF = 2**31
"""SQLite's SUM gives up at 2^63: there, the upper and lower halves of the amounts are summed, and joined in Python."""


@dataclass(frozen=True, slots=True)
class Difference:
    """
    One place where the books do not agree.

    Attributes:
        kind: ``entry`` (usage rows of a write against their ledger entry), ``balance`` (ledger against balance),
            ``rollup`` (a rollup against the rows, or against another rollup), ``ledger`` (the rollup of an account with
            purged rows against its usage entries), ``grant`` (the ledger against a grant) or ``period`` (a closed period
            against itself).

        account: Whose; empty where no account is compared.

        write_id: Which write; None for a balance and a rollup.

        expected_pico: What it should be, in pico-dollars: the rows' cost, or minus the ledger's sum. For a rollup in the
            unit of *figure*.

        found_pico: What it is; None where the entry or the balance is missing.

        place: Which rollup, and where in it: its day, account, key, model, route. Which grant, and what of it. Of a period,
            when it begins.

        figure: Which column of the rollup.

        day: Day of it in UTC, ``2027-01-31``: of the rollup, or of the entry's first row; empty where it has none.
    """

    kind: str
    account: str
    write_id: str | None
    expected_pico: int
    found_pico: int | None
    place: str = ""
    figure: str = "cost_pico"
    day: str = ""

    def __str__(self) -> str:
        if self.kind == "period":
            return f"period of {self.account} {self.place}: it, or the one before it, is not what was closed"
        if self.kind == "rollup":
            return f"{self.place}: expected {self.figure} {self.expected_pico}, found {self.found_pico}"
        where = f" of write {self.write_id}" if self.write_id else f" ({self.place})" if self.place else ""
        found = "missing" if self.found_pico is None else str(self.found_pico)
        return f"{self.kind} of {self.account}{where}: expected {self.expected_pico} pico-dollars, found {found}"


# -- exact sums -------------------------------------------------------------------------------------------------------


def exact_sum(connection: Connection, column: ColumnElement[Any]) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    """
    Return the sum of *column* in two halves, which `joined_pairs` joins.
    """
    return exact_sum_in(connection.dialect.name, column)


def exact_sum_in(dialect: str, column: ColumnElement[Any]) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    """
    Do the same for the databases of *dialect*.
    """
    if dialect != "sqlite":
        return literal(0), func.coalesce(func.sum(column), 0)
    whole = type_coerce(column, BigInteger)
    return func.coalesce(func.sum(whole // HALF), 0), func.coalesce(func.sum(whole % HALF), 0)


def _joined(upper: Any, lower: Any) -> int:
    return int(upper) * HALF + int(lower)


def joined_pairs(row: Iterable[Any]) -> list[int]:
    """
    Return the sums in *row*, whose values are the halves of `exact_sum`, one pair after the other.
    """
    values = list(row)
    return [_joined(*values[at : at + 2]) for at in range(0, len(values), 2)]


# -- money ------------------------------------------------------------------------------------------------------


class EntryGap(NamedTuple):
    """
    What a write's rows, or a re-rating's corrections, are for an account, and what its ledger entries say.
    """

    account: str
    write_id: str
    instance_id: str | None
    rows: int
    entries: int
    first_sequence: int | None
    last_sequence: int | None
    at: datetime
    expected_pico: int
    found_pico: int


def entry_differences(connection: Connection) -> Iterator[Difference]:
    """
    Yield the writes whose usage rows, or corrections, and ledger entries differ, for each account.
    """
    for gap in entry_gaps(connection):
        found = gap.found_pico if gap.entries else None
        day = f"{gap.at:%Y-%m-%d}"
        yield Difference("entry", gap.account, gap.write_id, gap.expected_pico, found, day=day)


def entry_gaps(connection: Connection) -> Iterator[EntryGap]:
    """
    Yield the same, with all that a repair needs: a full join, by one grouping of both.
    """
    both = _rows_and_entries().subquery("both")
    group = both.c.account, both.c.write_id, both.c.instance_id
    wanted = select(
        *group,
        func.sum(both.c.row_count),
        func.sum(both.c.entry_count),
        func.min(both.c.first_sequence),
        func.max(both.c.last_sequence),
        func.min(both.c.at),
        *exact_sum(connection, both.c.rows_pico),
        *exact_sum(connection, both.c.entry_pico),
    ).group_by(*group)
    purged = _purged_ranges(connection)
    for account, write_id, instance, rows, entries, first, last, at, *amounts in stream(connection, wanted):
        expected, found = joined_pairs(amounts)
        if rows < entries and expected <= found and _overlap(purged.get(instance, ()), first, last):
            continue  # retention has deleted rows of it; `purged_differences` holds their account to the rollup
        if expected != found or rows != entries:
            yield EntryGap(account, write_id, instance, int(rows), int(entries), first, last, at, expected, found)


def _rows_and_entries() -> CompoundSelect[Any]:
    usage, corrections, ledger = tables.usage.c, tables.corrections.c, tables.ledger.c
    rows = select(
        usage.account,
        usage.write_id,
        usage.instance_id,
        usage.cost_pico.label("rows_pico"),
        literal(1).label("row_count"),
        literal(0).label("entry_pico"),
        literal(0).label("entry_count"),
        usage.sequence.label("first_sequence"),
        usage.sequence.label("last_sequence"),
        usage.created_at.label("at"),
    ).where(usage.account.is_not(None), usage.cost_pico > 0)
    # a correction belongs to no process: its entry has neither instance nor sequences
    changes = select(
        corrections.account,
        corrections.write_id,
        null(),
        corrections.change_pico,
        literal(1),
        literal(0),
        literal(0),
        null(),
        null(),
        corrections.created_at,
    ).where(corrections.account.is_not(None))
    entries = select(
        ledger.account,
        ledger.write_id,
        ledger.instance_id,
        literal(0),
        literal(0),
        ledger.amount_pico,
        ledger.entries,
        ledger.first_sequence,
        ledger.last_sequence,
        ledger.created_at,
        # a repair of no write in particular is held to the rollup, by `purged_differences`
    ).where(
        ledger.kind.in_(tables.CHARGES), or_(ledger.kind != "repair", ledger.write_id.is_not(None), ledger.entries != 0)
    )
    parts: list[Any] = [rows, changes, entries]
    return union_all(*parts)


def _purged_ranges(connection: Connection) -> dict[str, list[tuple[int, int]]]:
    purged = tables.purged_ranges.c
    found: dict[str, list[tuple[int, int]]] = {}
    for instance, first, last in connection.execute(
        select(purged.instance_id, purged.first_sequence, purged.last_sequence)
    ):
        found.setdefault(instance, []).append((first, last))
    return found


def _overlap(ranges: Iterable[tuple[int, int]], first: int, last: int) -> bool:
    return any(start <= last and first <= end for start, end in ranges)


def purged_differences(connection: Connection) -> Iterator[Difference]:
    """
    Yield the accounts with purged rows whose usage entries are not the sum of their rollup.
    """
    rollup, ledger = tables.rollup_subjects.c, tables.ledger.c
    accounts = select(tables.purged_days.c.account).where(tables.purged_days.c.account != "").distinct()
    both = union_all(
        select(rollup.account, rollup.cost_pico.label("rollup_pico"), literal(0).label("entry_pico")).where(
            rollup.account.in_(accounts)
        ),
        select(ledger.account, literal(0), ledger.amount_pico).where(
            ledger.kind.in_(tables.CHARGES), ledger.account.in_(accounts)
        ),
    ).subquery("both")
    wanted = select(
        both.c.account, *exact_sum(connection, both.c.rollup_pico), *exact_sum(connection, both.c.entry_pico)
    ).group_by(both.c.account)
    for account, *amounts in stream(connection, wanted):
        expected, found = joined_pairs(amounts)
        if expected != found:
            yield Difference("ledger", account, None, expected, found)


def balance_differences(connection: Connection) -> Iterator[Difference]:
    """
    Yield the accounts whose balance is not minus the sum of their ledger entries.
    """
    ledger, balances = tables.ledger.c, tables.balances.c
    both = union_all(
        select(
            ledger.account,
            ledger.amount_pico.label("ledger_pico"),
            literal(0).label("balance_pico"),
            literal(0).label("balances"),
        ),
        select(balances.account, literal(0), balances.balance_pico, literal(1)),
    ).subquery("both")
    wanted = select(
        both.c.account,
        func.sum(both.c.balances),
        *exact_sum(connection, both.c.ledger_pico),
        *exact_sum(connection, both.c.balance_pico),
    ).group_by(both.c.account)
    for account, balances_of_account, *amounts in stream(connection, wanted):
        ledger_pico, found = joined_pairs(amounts)
        if -ledger_pico != found:
            yield Difference("balance", account, None, -ledger_pico, found if balances_of_account else None)


def stream(connection: Connection, wanted: Executable) -> Iterator[Any]:
    """
    Yield the rows of *wanted*, some at a time.
    """
    with connection.execute(wanted.execution_options(yield_per=1000)) as result:
        yield from result
