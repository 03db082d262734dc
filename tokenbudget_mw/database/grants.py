"""
Money that is given for a time: a trial's credits, a promotion's. What of it is unused at its end is taken back, once.

Usage takes from grants before it takes from what was paid, and from the one that ends first. What is given back later (a
refund, a lower price) is money like any other.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from sqlalchemy import func, insert, literal, select, union_all, update

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.differences import Difference, exact_sum, joined_pairs, stream
from tokenbudget_mw.database.engine import reader
from tokenbudget_mw.database.ledger import REVERSAL, Entry, EntryConflictError, change_balance, positive, post
from tokenbudget_mw.database.rows import clean_id, moment

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection, Engine

__all__ = ["GRANTS", "Granted", "expire", "grant", "grant_differences", "unused"]

GRANTS = "grants"
"""The account on the other side of grants."""

_NO_SPENDING = ("grant", "expire", REVERSAL)  # what is taken back was never given: no grant pays for it

Clock = Callable[[], float]


def grant(
    engine: Engine,
    account: str,
    amount_pico: int,
    *,
    key: str,
    expires_at: float,
    note: str | None = None,
    clock: Clock = time.time,
) -> Entry:
    """
    Give *amount_pico* to *account* until *expires_at*, in epoch seconds. Other arguments and errors as of `ledger.topup`.

    Raises:
        ValueError: It ends before it begins.
    """
    ends, now = moment(round(expires_at * 1_000_000)), moment(int(clock() * 1_000_000))

    def keep(connection: Connection, entry: Entry) -> None:
        if entry.is_new:
            if ends <= now:
                raise ValueError(f"a grant ends after its beginning, got {ends}, which is over")
            row = {"id": entry.id, "account": entry.account, "amount_pico": amount_pico, "expires_at": ends}
            connection.execute(insert(tables.grants), row)
            return
        known = connection.scalar(select(tables.grants.c.expires_at).where(tables.grants.c.id == entry.id))
        if known != ends:
            raise EntryConflictError(f"The idempotency key of this grant was used for one that ends at {known}.")

    return post(engine, "grant", GRANTS, account, positive(amount_pico), key=key, note=note, clock=clock, also=keep)


def unused(engine: Engine, account: str, *, clock: Clock = time.time) -> int:
    """
    Return what of the grants that *account* still has is unused, in pico-dollars.
    """
    now = moment(int(clock() * 1_000_000))
    with reader(engine).connect() as connection:
        held = _replay(connection, clean_id(account, 255))
    return sum(granted.left for granted in held if granted.ends > now and granted.is_open)


def expire(engine: Engine, *, clock: Clock = time.time) -> list[Entry]:
    """
    Take back what is unused of every grant that has ended, and return the entries that this posted.

    Run it as often as you like (once an hour, say); a grant is taken back once.
    """
    now = moment(int(clock() * 1_000_000))
    grants = tables.grants.c
    due = select(grants.account).where(grants.expired_at.is_(None), grants.expires_at <= now).distinct()
    with reader(engine).connect() as connection:
        accounts = sorted(connection.scalars(due))
    entries: list[Entry] = []
    for account in accounts:
        with engine.begin() as connection:
            entries += _expire(connection, account, now)
    return entries


def _expire(connection: Connection, account: str, now: datetime) -> Iterable[Entry]:
    change_balance(connection, account, 0, now)  # takes the account's lock: usage waits, and so does another `expire`
    for granted in _replay(connection, account):
        if not granted.is_open or granted.ends > now:
            continue
        change = update(tables.grants).where(tables.grants.c.id == granted.id)
        connection.execute(change.values(expired_at=now, unused_pico=granted.left))
        if granted.left:
            source = f"expire:{granted.id}"
            entry_id = hashlib.md5(source.encode(), usedforsecurity=False).hexdigest()
            row = {
                "id": entry_id,
                "account": account,
                "contra": GRANTS,
                "amount_pico": granted.left,
                "kind": "expire",
                "source_id": source,
                "entries": 1,
                "created_at": now,
            }
            connection.execute(insert(tables.ledger), row)
            change_balance(connection, account, -granted.left, now)
            yield Entry(entry_id, account, -granted.left, "expire", now, is_new=True)


# -- what is left of a grant ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Granted:
    """
    A grant, and what is left of it.

    Attributes:
        id: Its id, and that of its entry.

        begins: When it was given.

        ends: When it ends.

        is_open: Whether it was not taken back yet.

        left: What usage has not taken, in pico-dollars, and nobody has taken back.
    """

    id: str
    begins: datetime
    ends: datetime
    is_open: bool
    left: int


def _replay(connection: Connection, account: str) -> list[Granted]:
    """
    Return the account's open grants, and those whose time touched theirs, with what is left of each.

    Between two moments at which a grant begins or ends, the same ones pay in the same order, so the database adds up what was
    spent meanwhile: an account that is busy has millions of entries, and its writers wait for `expire`.
    """
    grants, ledger = tables.grants.c, tables.ledger.c
    wanted = select(tables.grants, ledger.created_at).join(tables.ledger, ledger.id == grants.id)
    held = _touching(
        # of one that was taken back nothing more can be used: not even by what was written a moment later, by a slow clock
        Granted(
            row.id, row.created_at, row.expires_at, row.expired_at is None, row.amount_pico - (row.unused_pico or 0)
        )
        for row in connection.execute(wanted.where(grants.account == account))
    )
    for since, until in pairwise(sorted({at for granted in held for at in (granted.begins, granted.ends)})):
        paying = [granted for granted in held if granted.begins <= since < granted.ends]
        rest = _spent(connection, account, since, until) if paying else 0
        for granted in paying:
            taken = min(granted.left, rest)
            granted.left -= taken
            rest -= taken
    return held


def _touching(grants: Iterable[Granted]) -> list[Granted]:
    """
    Return the open ones of *grants* and those that paid beside them, or beside one of these, in the order in which they pay.
    """
    known = sorted(grants, key=lambda granted: (granted.ends, granted.id))
    first = min((granted.begins for granted in known if granted.is_open), default=None)
    if first is None:
        return []
    for granted in reversed(known):
        if granted.ends > first:
            first = min(first, granted.begins)
    return [granted for granted in known if granted.ends > first]


def _spent(connection: Connection, account: str, since: datetime, until: datetime) -> int:
    ledger = tables.ledger.c
    during = ledger.account == account, ledger.created_at >= since, ledger.created_at < until, ledger.amount_pico > 0
    sums = select(*exact_sum(connection, ledger.amount_pico))
    by_kind = sums.add_columns(ledger.kind).where(*during, ledger.kind.not_in(_NO_SPENDING)).group_by(ledger.kind)
    spent = {kind: joined_pairs(halves)[0] for *halves, kind in connection.execute(by_kind)}
    if "adjust" in spent:  # one that was taken back never was
        back = tables.ledger.alias("back")
        is_back = back.c.source_id == literal(f"{REVERSAL}:") + ledger.source_id
        taken_back = sums.join_from(tables.ledger, back, is_back).where(*during, ledger.kind == "adjust")
        spent["adjust"] -= joined_pairs(connection.execute(taken_back).one())[0]
    return sum(spent.values())


# -- grants against the ledger ----------------------------------------------------------------------------------------


def grant_differences(connection: Connection) -> Iterator[Difference]:
    """
    Yield the grants that differ from their entries: in what was given, or in what was taken back at their end.
    """
    grants, ledger, none = tables.grants.c, tables.ledger.c, literal(0)
    names = ("given", "taken", "kept_given", "kept_taken")
    parts = [
        # account, grant, what the entries say, what the table says, whether it is there
        (ledger.account, ledger.id, -ledger.amount_pico, none, none, none, none),
        (ledger.account, func.substr(ledger.source_id, len("expire:") + 1), none, ledger.amount_pico, none, none, none),
        (grants.account, grants.id, none, none, grants.amount_pico, func.coalesce(grants.unused_pico, 0), literal(1)),
    ]
    labels = ("account", "grant_id", *names, "kept")
    given, taken, kept = (
        select(*(column.label(label) for column, label in zip(part, labels, strict=True))) for part in parts
    )
    both = union_all(given.where(ledger.kind == "grant"), taken.where(ledger.kind == "expire"), kept).subquery("both")
    group = both.c.account, both.c.grant_id
    sums = (half for name in names for half in exact_sum(connection, both.c[name]))
    for account, grant_id, rows, *halves in stream(
        connection, select(*group, func.sum(both.c.kept), *sums).group_by(*group)
    ):
        said = joined_pairs(halves)
        for what, expected, found in (("given", said[0], said[2]), ("taken back", said[1], said[3])):
            if expected != found:
                place = f"{grant_id}, {what}"
                yield Difference("grant", account, None, expected, found if rows else None, place)
