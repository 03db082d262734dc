"""
Proves the books: what usage rows cost = what the ledger took = what the balances lost, to the pico-dollar.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, case, func, literal, select, type_coerce, union_all

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.engine import reader

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Engine, Select

__all__ = ["BooksReport", "Difference", "totals", "verify"]

MOST_DIFFERENCES = 1000

_HALF = 2**31
"""SQLite's SUM gives up at 2^63: there, the upper and lower halves of the amounts are summed, and joined in Python."""

_TOKENS = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "reasoning_tokens",
)


@dataclass(frozen=True, slots=True)
class Difference:
    """
    One place where the books do not agree.

    Attributes:
        kind: ``entry`` (usage rows of a write against their ledger entry) or ``balance`` (ledger against balance).

        account: Whose.

        write_id: Which write; None for a balance.

        expected_pico: What it should be, in pico-dollars: the rows' cost, or minus the ledger's sum.

        found_pico: What it is; None where the entry or the balance is missing.
    """

    kind: str
    account: str
    write_id: str | None
    expected_pico: int
    found_pico: int | None

    def __str__(self) -> str:
        where = f" of write {self.write_id}" if self.write_id else ""
        found = "missing" if self.found_pico is None else str(self.found_pico)
        return f"{self.kind} of {self.account}{where}: expected {self.expected_pico} pico-dollars, found {found}"


@dataclass(frozen=True, slots=True)
class BooksReport:
    """
    What `verify` found.

    Attributes:
        rows: Usage rows.

        tokens: Sum of each token column.

        usage_pico: Cost of all usage rows that have an account, in pico-dollars.

        unowned_pico: Cost of those that have none: nobody's ledger takes it.

        ledger_usage_pico: Sum of all ledger entries of kind ``usage``.

        ledger_pico: Sum of all ledger entries.

        balance_pico: Sum of all balances; minus *ledger_pico* where the books agree.

        differences: Where they do not, at most `MOST_DIFFERENCES`.

        truncated: Whether there are more.
    """

    rows: int
    tokens: Mapping[str, int]
    usage_pico: int
    unowned_pico: int
    ledger_usage_pico: int
    ledger_pico: int
    balance_pico: int
    differences: tuple[Difference, ...] = ()
    truncated: bool = False

    @property
    def verified(self) -> bool:
        """
        Whether the books agree everywhere.
        """
        return not self.differences


def verify(engine: Engine) -> BooksReport:
    """
    Hold usage rows, ledger and balances against one another, in one snapshot, while others may write.

    Every usage entry must be the sum of its rows, and every balance minus the sum of its account's entries.
    """
    with _snapshot(engine) as connection:
        sums = _sums(connection)
        found = list(
            islice(chain(_entry_differences(connection), _balance_differences(connection)), MOST_DIFFERENCES + 1)
        )
    return BooksReport(
        rows=sums["rows"],
        tokens={name: sums[name] for name in _TOKENS},
        usage_pico=sums["cost_pico"] - sums["unowned_pico"],
        unowned_pico=sums["unowned_pico"],
        ledger_usage_pico=sums["ledger_usage_pico"],
        ledger_pico=sums["ledger_pico"],
        balance_pico=sums["balance_pico"],
        differences=tuple(found[:MOST_DIFFERENCES]),
        truncated=len(found) > MOST_DIFFERENCES,
    )


def totals(engine: Engine) -> dict[str, int]:
    """
    Return what the books hold: ``rows``, the sum of every token column, ``cost_pico``, ``unowned_pico``, ``ledger_pico``,
    ``ledger_usage_pico`` and ``balance_pico``.
    """
    with _snapshot(engine) as connection:
        return _sums(connection)


def _snapshot(engine: Engine) -> Connection:
    connection = reader(engine).connect()
    if engine.dialect.name != "sqlite":  # where a read transaction is a snapshot anyway
        connection = connection.execution_options(isolation_level="REPEATABLE READ")
    return connection


# -- exact sums -------------------------------------------------------------------------------------------------------


def _sum(connection: Connection, column: ColumnElement[Any]) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    if connection.dialect.name != "sqlite":
        return literal(0), func.coalesce(func.sum(column), 0)
    whole = type_coerce(column, BigInteger)
    return func.coalesce(func.sum(whole // _HALF), 0), func.coalesce(func.sum(whole % _HALF), 0)


def _joined(upper: Any, lower: Any) -> int:
    return int(upper) * _HALF + int(lower)


def _pairs(row: Iterable[Any]) -> list[int]:
    values = list(row)
    return [_joined(*values[at : at + 2]) for at in range(0, len(values), 2)]


def _sums(connection: Connection) -> dict[str, int]:
    usage, ledger, balances = tables.usage.c, tables.ledger.c, tables.balances.c
    unowned = case((usage.account.is_(None), usage.cost_pico), else_=0)
    of_usage = case((ledger.kind == "usage", ledger.amount_pico), else_=0)
    sums: dict[str, int] = {"rows": connection.scalar(select(func.count()).select_from(tables.usage)) or 0}
    for columns in (
        {**{name: usage[name] for name in _TOKENS}, "cost_pico": usage.cost_pico, "unowned_pico": unowned},
        {"ledger_pico": ledger.amount_pico, "ledger_usage_pico": of_usage},
        {"balance_pico": balances.balance_pico},
    ):
        wanted = select(*chain.from_iterable(_sum(connection, column) for column in columns.values()))
        sums.update(zip(columns, _pairs(connection.execute(wanted).one()), strict=True))
    return sums


# -- differences ------------------------------------------------------------------------------------------------------


def _entry_differences(connection: Connection) -> Iterator[Difference]:
    """
    Yield the writes whose usage rows and ledger entry differ, for each account: a full join, by one grouping of both.
    """
    usage, ledger = tables.usage.c, tables.ledger.c
    both = union_all(
        select(
            usage.account,
            usage.write_id,
            usage.instance_id,
            usage.cost_pico.label("rows_pico"),
            literal(1).label("row_count"),
            literal(0).label("entry_pico"),
            literal(0).label("entry_count"),
        ).where(usage.account.is_not(None), usage.cost_pico > 0),
        select(
            ledger.account,
            ledger.write_id,
            ledger.instance_id,
            literal(0),
            literal(0),
            ledger.amount_pico,
            ledger.entries,
        ).where(ledger.kind == "usage"),
    ).subquery("both")
    group = both.c.account, both.c.write_id, both.c.instance_id
    wanted = select(
        *group,
        func.sum(both.c.row_count),
        func.sum(both.c.entry_count),
        *_sum(connection, both.c.rows_pico),
        *_sum(connection, both.c.entry_pico),
    ).group_by(*group)
    for account, write_id, _instance, rows, entries, *amounts in _stream(connection, wanted):
        expected, found = _pairs(amounts)
        if expected != found or rows != entries:
            yield Difference("entry", account, write_id, expected, found if entries else None)


def _balance_differences(connection: Connection) -> Iterator[Difference]:
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
        *_sum(connection, both.c.ledger_pico),
        *_sum(connection, both.c.balance_pico),
    ).group_by(both.c.account)
    for account, balances_of_account, *amounts in _stream(connection, wanted):
        ledger_pico, found = _pairs(amounts)
        if -ledger_pico != found:
            yield Difference("balance", account, None, -ledger_pico, found if balances_of_account else None)


def _stream(connection: Connection, wanted: Select[Any]) -> Iterator[Any]:
    with connection.execute(wanted.execution_options(yield_per=1000)) as result:
        yield from result
