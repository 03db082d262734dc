"""
Puts the books right where `books.verify` finds them wrong. The usage rows are the truth, and the ledger is only added to.

What an entry lacks, or has too much, is posted as another entry (kind ``repair``); balances, which are a cache, are made anew
from the ledger; rollups take the difference to their rows. Differences are added, never set, so writers may go on meanwhile.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import insert, select, text, update

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.deadlocks import in_transaction
from tokenbudget_mw.database.differences import (
    balance_differences,
    entry_gaps,
    exact_sum,
    joined_pairs,
    purged_differences,
)
from tokenbudget_mw.database.engine import snapshot, stay_open
from tokenbudget_mw.database.ledger import change_balance
from tokenbudget_mw.database.rollup_gaps import rollup_gaps
from tokenbudget_mw.database.rollups import ROLLUPS, Grain, floor_hour, sum_rows
from tokenbudget_mw.database.rows import COLUMNS, clean_text, moment
from tokenbudget_mw.database.upserts import add_to

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from tokenbudget_mw.database.differences import EntryGap
    from tokenbudget_mw.database.rollup_gaps import RollupGap
    from tokenbudget_mw.database.rollups import Grains, Rollup, Sums

__all__ = ["RepairReport", "repair"]

MOST = 1000
"""Entries of a transaction."""

_LOCK_NAME, _LOCK_NUMBER = "tokenbudget_repair", 7_205_759_403_792_794  # the same lock, as databases name them
_LOCK_SECONDS = 60

_T = TypeVar("_T")


@dataclass(slots=True)
class RepairReport:
    """
    What `repair` did.

    Attributes:
        entries: Entries it posted.

        posted_pico: Their sum, in pico-dollars; positive where accounts were charged too little.

        rollups: Lines of rollups to which it added.

        balances: Balances that it made anew.
    """

    entries: int = 0
    posted_pico: int = 0
    rollups: int = 0
    balances: int = 0


def repair(engine: Engine, *, note: str | None = None, clock: Callable[[], float] = time.time) -> RepairReport:
    """
    Make ledger, rollups and balances agree with the usage rows, and with what retention has kept of those it deleted.

    Two at once are as good as one: the second waits for the first.

    Args:
        engine: The host's database.

        note: Why; stands on every entry that is posted.

        clock: Epoch seconds.
    """
    report = RepairReport()
    at = moment(int(clock() * 1_000_000))
    why = None if note is None else clean_text(note, 512)
    with _alone(engine):
        # each part is held to what the one before has put right
        for gaps in _steps(engine, _entry_gaps, lambda c, found: _post(c, [_of_gap(gap) for gap in found], at, why)):
            _count(report, gaps)
        for _ in ROLLUPS:
            report.rollups += len(_step(engine, _rollup_changes, _change_rollups))
        for lacks in _steps(engine, _account_gaps, lambda c, found: _post(c, found, at, why)):
            report.entries += len(lacks)
            report.posted_pico += sum(lack["amount_pico"] for lack in lacks)
        report.balances = len(_step(engine, _wrong_balances, lambda c, found: _rebuild(c, found, at)))
    return report


def _step(
    engine: Engine, look: Callable[[Connection], list[_T]], mend: Callable[[Connection, list[_T]], object]
) -> list[_T]:
    """
    Look at one moment of the books, and mend what is found: on SQLite in one transaction, elsewhere under `_alone`'s lock.
    """
    if engine.dialect.name == "sqlite":
        with engine.begin() as connection:
            found = look(connection)
            if found:
                mend(connection, found)
        return found
    with snapshot(engine) as connection:
        found = look(connection)
    if found:
        in_transaction(engine, lambda connection: mend(connection, found))
    return found


def _steps(
    engine: Engine, look: Callable[[Connection], list[_T]], mend: Callable[[Connection, list[_T]], object]
) -> Iterator[list[_T]]:
    """
    Take steps until nothing is found any more; what a step did not mend, another would not mend either.
    """
    before: list[_T] = []

    def look_again(connection: Connection) -> list[_T]:
        found = look(connection)
        return [] if found == before else found

    while found := _step(engine, look_again, mend):
        yield found
        before = found


@contextmanager
def _alone(engine: Engine) -> Iterator[None]:
    if engine.dialect.name == "sqlite":  # its transactions are alone anyway
        yield
        return
    with engine.connect() as connection:
        stay_open(connection)  # it has nothing to do while others mend, and the lock would go with it
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT PG_ADVISORY_XACT_LOCK(:number)"), {"number": _LOCK_NUMBER})
        else:
            taken = text("SELECT GET_LOCK(:name, :seconds)")
            if not connection.scalar(taken, {"name": _LOCK_NAME, "seconds": _LOCK_SECONDS}):
                raise TimeoutError("Another repair of these books is under way.")
        try:
            yield
        finally:
            if engine.dialect.name != "postgresql":
                connection.execute(text("DO RELEASE_LOCK(:name)"), {"name": _LOCK_NAME})


# -- the ledger -------------------------------------------------------------------------------------------------------


def _entry_gaps(connection: Connection) -> list[EntryGap]:
    return list(islice(entry_gaps(connection), MOST))


def _of_gap(gap: EntryGap) -> dict[str, Any]:
    return {
        "account": gap.account,
        "amount_pico": gap.expected_pico - gap.found_pico,
        "write_id": gap.write_id,
        "instance_id": gap.instance_id,
        "first_sequence": gap.first_sequence,
        "last_sequence": gap.last_sequence,
        "entries": gap.rows - gap.entries,
    }


def _account_gaps(connection: Connection) -> list[dict[str, Any]]:
    return [
        {
            "account": lack.account,
            "amount_pico": lack.expected_pico - (lack.found_pico or 0),
            "write_id": None,
            "instance_id": None,
            "first_sequence": None,
            "last_sequence": None,
            "entries": 0,
        }
        for lack in islice(purged_differences(connection), MOST)
    ]


def _post(connection: Connection, lacks: list[dict[str, Any]], at: datetime, note: str | None) -> None:
    run = uuid.uuid4().hex
    entries = [_entry(lack, f"repair:{run}:{number}", at, note) for number, lack in enumerate(lacks)]
    connection.execute(insert(tables.ledger), entries)
    changes: dict[str, int] = {}
    for entry in entries:
        changes[entry["account"]] = changes.get(entry["account"], 0) - entry["amount_pico"]
    for account in sorted(changes):
        change_balance(connection, account, changes[account], at)


def _entry(lack: dict[str, Any], source: str, at: datetime, note: str | None) -> dict[str, Any]:
    return {
        **lack,
        "id": hashlib.md5(source.encode(), usedforsecurity=False).hexdigest(),
        "contra": tables.REVENUE,
        "kind": "repair",
        "source_id": source,
        "created_at": at,
        "note": note,
    }


def _count(report: RepairReport, gaps: list[EntryGap]) -> None:
    report.entries += len(gaps)
    report.posted_pico += sum(gap.expected_pico - gap.found_pico for gap in gaps)


# -- balances ---------------------------------------------------------------------------------------------------------


def _wrong_balances(connection: Connection) -> list[str]:
    return sorted(difference.account for difference in balance_differences(connection))


def _rebuild(connection: Connection, accounts: list[str], at: datetime) -> None:
    ledger, balances = tables.ledger.c, tables.balances.c
    for account in accounts:
        change_balance(connection, account, 0, at)  # makes the row where it is missing, and takes its lock
        wanted = select(*exact_sum(connection, ledger.amount_pico)).where(ledger.account == account)
        (total,) = joined_pairs(connection.execute(wanted).one())
        change = update(tables.balances).where(balances.account == account)
        connection.execute(change.values(balance_pico=-total, updated_at=at))


# -- rollups ----------------------------------------------------------------------------------------------------------

_Line = tuple["Rollup", tuple[Any, ...], list[int]]
"""A rollup, the key of one of its rows, and what is added to its figures."""


def _rollup_changes(connection: Connection) -> list[_Line]:
    gaps: dict[datetime, list[RollupGap]] = {}
    for gap in rollup_gaps(connection):
        gaps.setdefault(gap.keys[0], []).append(gap)
    purged = _purged_days(connection) if gaps else set()
    lines: list[_Line] = []
    for day, of_day in gaps.items():
        lines += _coarse(of_day) if day in purged else _fine(connection, day)
    return lines


def _purged_days(connection: Connection) -> set[datetime]:
    return set(connection.scalars(select(tables.purged_days.c.day).distinct()))


def _fine(connection: Connection, day: datetime) -> list[_Line]:
    """
    Return what the lines of *day* differ by from its rows, all of which are there.
    """
    lines: list[_Line] = []
    grains = _expected(connection, day)
    for rollup in ROLLUPS:
        expected, found = rollup.add_up(grains), _found(connection, rollup, day)
        nothing = [0] * len(tables.FIGURES)
        for key in sorted({*expected, *found}):
            wanted, held = expected.get(key, nothing), found.get(key, nothing)
            if wanted != held:
                lines.append((rollup, key, [a - b for a, b in zip(wanted, held, strict=True)]))
    return lines


def _expected(connection: Connection, day: datetime) -> Grains:
    usage, corrections = tables.usage.c, tables.corrections.c
    end = day + timedelta(days=1)
    rows = select(*(usage[name] for name in COLUMNS)).where(usage.created_at >= day, usage.created_at < end)
    grains = sum_rows(map(tuple, connection.execute(rows.execution_options(yield_per=1000))))
    cost = tables.FIGURES.index("cost_pico")
    changes = select(
        corrections.used_at, corrections.account, corrections.key_id, corrections.model, corrections.route,
        corrections.change_pico,
    ).where(corrections.used_at >= day, corrections.used_at < end)  # fmt: skip
    for used_at, account, key_id, model, route, change in connection.execute(changes):
        grain = Grain(account or "", key_id or "", model, route or "", floor_hour(used_at))
        grains.setdefault(grain, [0] * len(tables.FIGURES))[cost] += change
    return grains


def _found(connection: Connection, rollup: Rollup, day: datetime) -> Sums:
    columns = rollup.table.c
    wanted = select(*(columns[name] for name in (*rollup.keys, *tables.FIGURES))).where(
        columns[rollup.start] >= day, columns[rollup.start] < day + timedelta(days=1)
    )
    parts = len(rollup.keys)
    return {tuple(row[:parts]): [int(value) for value in row[parts:]] for row in connection.execute(wanted)}


def _coarse(gaps: list[RollupGap]) -> list[_Line]:
    """
    Return what the first rollup among *gaps* lacks of a day whose rows retention has deleted: which key, hour or route it
    belongs to nobody knows, so it goes to the line without one.
    """
    rollup = next(rollup for rollup in ROLLUPS for gap in gaps if rollup.table.name.endswith(gap.rollup))
    lines: dict[tuple[Any, ...], list[int]] = {}
    for gap in gaps:
        if rollup.table.name.endswith(gap.rollup):
            line = lines.setdefault(_place(gap), [0] * len(tables.FIGURES))
            line[tables.FIGURES.index(gap.figure)] += gap.expected - gap.found
    return [(rollup, key, lines[key]) for key in sorted(lines)]


def _place(gap: RollupGap) -> tuple[Any, ...]:
    if gap.rollup == "rollup_subjects":
        day, account, model = gap.keys
        return account, day, "", model
    if gap.rollup == "rollup_hours":
        return (*gap.keys, "")
    return gap.keys


def _change_rollups(connection: Connection, lines: list[_Line]) -> None:
    for rollup in ROLLUPS:
        sums = {key: figures for which, key, figures in lines if which is rollup}
        add_to(connection, rollup.addition(dict(sorted(sums.items()))))
