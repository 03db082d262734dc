"""
Prices usage rows again, by the tariffs of today's knowledge, and posts what their cost changes by. The rows stay as they are.

A row keeps what was charged for it first. What was added later stands in `tables.corrections`, one after the other; the ledger,
the balances and the rollups take the same change in the same transaction, so the books close as before.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, func, insert, literal_column, or_, select

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.deadlocks import in_transaction
from tokenbudget_mw.database.engine import reader
from tokenbudget_mw.database.ledger import change_balance
from tokenbudget_mw.database.rollups import ROLLUPS, Grain, floor_hour, model_of
from tokenbudget_mw.database.rows import clean_text, moment
from tokenbudget_mw.database.upserts import add_to
from tokenbudget_mw.rules.pricing import Moment, price_usage
from tokenbudget_mw.values import Usage

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Select

    from tokenbudget_mw.database.rollups import Grains
    from tokenbudget_mw.rules.pricing import Priced
    from tokenbudget_mw.rules.tariffs import Tariffs

__all__ = ["RerateReport", "Selection", "rerate", "without_price"]

BATCH = 500
"""Rows of a transaction."""

_MOST_PARAMETERS = 250

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Selection:
    """
    Which rows are looked at.

    Attributes:
        since: Rows of this moment and later.

        until: Rows of before this moment.

        model: Only of this model, as it answered or, where that is not known, as it was asked for.

        account: Only of this account.

        unpriced: Only those that had no price of their own, and so were charged the ceiling or nothing.
    """

    since: datetime
    until: datetime
    model: str | None = None
    account: str | None = None
    unpriced: bool = False


@dataclass(slots=True)
class RerateReport:
    """
    What `rerate` did, or would do.

    Attributes:
        rows: Rows that were looked at.

        changed: Rows whose cost changes, or that had no price and have one now.

        unpriced: Rows for which there is still no price; they stay as they are.

        change_pico: By how much all costs change together, in pico-dollars; positive where they rise.

        accounts: The same by account; what nobody owns is under the empty text.
    """

    rows: int = 0
    changed: int = 0
    unpriced: int = 0
    change_pico: int = 0
    accounts: dict[str, int] = field(default_factory=dict)

    def add(self, part: RerateReport) -> None:
        """
        Add what was done with some more rows.
        """
        self.rows += part.rows
        self.changed += part.changed
        self.unpriced += part.unpriced
        self.change_pico += part.change_pico
        for account, change in part.accounts.items():
            self.accounts[account] = self.accounts.get(account, 0) + change


def rerate(
    engine: Engine,
    tariffs: Tariffs,
    selection: Selection,
    *,
    apply: bool = False,
    note: str | None = None,
    clock: Clock = time.time,
) -> RerateReport:
    """
    Price rows again, each by what was valid at its time, and with *apply* post the changes.

    Doing it again changes nothing more, and two at once are as good as one. It may be stopped at any moment.

    Args:
        engine: The host's database.

        tariffs: The prices, those of the database among them.

        selection: Which rows.

        apply: Post the changes; otherwise only tell them.

        note: For people; stands with every correction.

        clock: Epoch seconds.
    """
    report = RerateReport()
    place: tuple[datetime, str] | None = None

    def step(connection: Connection) -> tuple[Sequence[Any], RerateReport]:
        # with *apply*, rows are locked until their corrections are there; without it nobody waits
        rows, part = connection.execute(_batch(selection, place, lock=apply)).all(), RerateReport()
        changes = _changes(connection, tariffs, rows, part)
        if apply and changes:
            _post(connection, changes, moment(int(clock() * 1_000_000)), note)
        return rows, part

    while True:
        rows, part = in_transaction(engine if apply else reader(engine), step)
        report.add(part)
        if len(rows) < BATCH:
            return report
        place = rows[-1].created_at, rows[-1].id


def without_price(engine: Engine, selection: Selection) -> dict[str, int]:
    """
    Return how many rows of *selection* have no price to this day, by what they are charged: ``unpriced`` (nothing) or
    ``ceiling``. Rows that retention has deleted are not known any more.
    """
    usage, corrections = tables.usage.c, tables.corrections.c
    is_corrected = select(corrections.id).where(corrections.usage_id == usage.id).exists()
    counted: Any = select(usage.price_kind, func.count().label("number"))
    rows = _selected(counted, replace(selection, unpriced=True)).where(~is_corrected).group_by(usage.price_kind)
    with reader(engine).connect() as connection:
        found = {row.price_kind: int(row.number) for row in connection.execute(rows)}
    return {kind: found.get(kind, 0) for kind in ("unpriced", "ceiling")}


def _batch(selection: Selection, place: tuple[datetime, str] | None, *, lock: bool) -> Select[Any]:
    usage = tables.usage.c
    wanted = _selected(select(tables.usage), selection).order_by(usage.created_at, usage.id).limit(BATCH)
    if place is not None:
        at, last = place
        wanted = wanted.where(
            usage.created_at >= at, or_(usage.created_at > at, and_(usage.created_at == at, usage.id > last))
        )
    return wanted.with_for_update() if lock else wanted


def _selected(wanted: Select[Any], selection: Selection) -> Select[Any]:
    usage = tables.usage.c
    wanted = wanted.where(
        usage.created_at >= selection.since,
        usage.created_at < selection.until,
        usage.input_tokens + usage.output_tokens > 0,
    )
    if selection.model is not None:
        wanted = wanted.where(model_of(usage) == selection.model)
    if selection.account is not None:
        wanted = wanted.where(usage.account == selection.account)
    if selection.unpriced:
        wanted = wanted.where(usage.price_kind != literal_column("'known'"))  # as the partial index has it
    return wanted


# -- what changes -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Change:
    row: Any
    number: int
    change_pico: int
    priced: Priced


def _changes(connection: Connection, tariffs: Tariffs, rows: Sequence[Any], report: RerateReport) -> list[_Change]:
    known = _corrected(connection, [row.id for row in rows])
    changes: list[_Change] = []
    for row in rows:
        report.rows += 1
        priced = price_usage(tariffs, _usage(row), _moment(row), asked=row.request_model)
        if priced.kind != "known":
            report.unpriced += 1
            continue
        number, corrected = known.get(row.id, (0, 0))
        change = priced.cost_pico - row.cost_pico - corrected
        # that a row without a price was worth nothing is news, too: it has a price from now on
        if change or (row.price_kind != "known" and number == 0):
            changes.append(_Change(row, number + 1, change, priced))
            report.changed += 1
            report.change_pico += change
            report.accounts[row.account or ""] = report.accounts.get(row.account or "", 0) + change
    return changes


def _corrected(connection: Connection, ids: Sequence[str]) -> dict[str, tuple[int, int]]:
    """
    Return how often each row was corrected, and by how much in all.
    """
    corrections = tables.corrections.c
    found: dict[str, tuple[int, int]] = {}
    for at in range(0, len(ids), _MOST_PARAMETERS):
        some = corrections.usage_id.in_(ids[at : at + _MOST_PARAMETERS])
        wanted = select(corrections.usage_id, corrections.number, corrections.change_pico).where(some)
        for usage_id, number, change in connection.execute(wanted):
            last, total = found.get(usage_id, (0, 0))
            found[usage_id] = max(last, number), total + change
    return found


def _usage(row: Any) -> Usage:
    return Usage(
        **{name: getattr(row, name) for name in tables.TOKENS},
        model=row.response_model,
        service_tier=row.service_tier,
        audio_input_tokens=row.audio_input_tokens or 0,
        audio_output_tokens=row.audio_output_tokens or 0,
    )


def _moment(row: Any) -> Moment:
    """
    Return what the row's price depends on; as in `rules.pricing.moment_of`, a batch counts for keys of that purpose only.
    """
    at = row.created_at.timestamp()
    if row.purpose != "batch":
        return Moment(at, row.purpose)
    created = at if row.batch_created_at is None else min(row.batch_created_at.timestamp(), at)
    return Moment(created, row.purpose, row.completion_window)


# -- what is posted ---------------------------------------------------------------------------------------------------


def _post(connection: Connection, changes: Sequence[_Change], at: datetime, note: str | None) -> None:
    write_id = uuid.uuid4().hex
    text = None if note is None else clean_text(note, 512)
    connection.execute(insert(tables.corrections), [_correction(change, write_id, at, text) for change in changes])
    accounts: dict[str, list[int]] = {}
    for change in changes:
        if change.row.account is not None:
            accounts.setdefault(change.row.account, []).append(change.change_pico)
    entries = [_entry(account, accounts[account], write_id, at, text) for account in sorted(accounts)]
    if entries:
        connection.execute(insert(tables.ledger), entries)
    for entry in entries:
        change_balance(connection, entry["account"], -entry["amount_pico"], at)
    _add_to_rollups(connection, changes)


def _correction(change: _Change, write_id: str, at: datetime, note: str | None) -> dict[str, Any]:
    row = change.row
    return {
        "id": hashlib.md5(f"{row.id}:{change.number}".encode(), usedforsecurity=False).hexdigest(),
        "usage_id": row.id,
        "number": change.number,
        "created_at": at,
        "used_at": row.created_at,
        "account": row.account,
        "key_id": row.key_id,
        "model": _model(row),
        "route": row.route,
        "change_pico": change.change_pico,
        "cost_pico": change.priced.cost_pico,
        "price_id": change.priced.price_id,
        "write_id": write_id,
        "note": note,
    }


def _entry(account: str, changes: Sequence[int], write_id: str, at: datetime, note: str | None) -> dict[str, Any]:
    source = f"rerate:{write_id}:{account}"
    return {
        "id": hashlib.md5(source.encode(), usedforsecurity=False).hexdigest(),
        "account": account,
        "contra": tables.REVENUE,
        "amount_pico": sum(changes),
        "kind": "rerate",
        "source_id": source,
        "write_id": write_id,
        "entries": len(changes),
        "created_at": at,
        "note": note,
    }


def _model(row: Any) -> str:
    return (row.response_model if row.response_model is not None else row.request_model) or ""


def _add_to_rollups(connection: Connection, changes: Sequence[_Change]) -> None:
    """
    Add the changes to every rollup, in the order in which the writers lock.
    """
    cost = tables.FIGURES.index("cost_pico")
    grains: Grains = {}
    for change in changes:
        grains.setdefault(_grain(change.row), [0] * len(tables.FIGURES))[cost] += change.change_pico
    for rollup in ROLLUPS:
        add_to(connection, rollup.addition(rollup.add_up(grains)))


def _grain(row: Any) -> Grain:
    return Grain(row.account or "", row.key_id or "", _model(row), row.route or "", floor_hour(row.created_at))
