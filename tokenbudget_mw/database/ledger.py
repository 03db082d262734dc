"""
Entries that are not usage: top-ups, refunds, adjustments. Each has a key of the caller's, and is posted once by it.

The ledger is append-only. What was posted wrongly is put right by another entry, which `reverse` makes, never by a change.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select, update
from sqlalchemy.exc import DataError, IntegrityError

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.engine import reader
from tokenbudget_mw.database.rows import clean_id, clean_text, moment
from tokenbudget_mw.errors import TokenBudgetError
from tokenbudget_mw.units import format_usd

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection, Engine

__all__ = [
    "ADJUSTMENT",
    "FUNDING",
    "REVERSAL",
    "Entry",
    "EntryConflictError",
    "NoEntryError",
    "adjust",
    "balance",
    "change_balance",
    "refund",
    "reverse",
    "topup",
]

FUNDING = "funding"
"""The account on the other side of top-ups."""

ADJUSTMENT = "adjustment"
"""The account on the other side of adjustments."""

REVERSAL = "reverse"
"""The kind of an entry that takes back another."""

_REVERSIBLE = ("topup", "refund", "adjust")

MAX_KEY = 255
"""Most characters of an idempotency key."""

_ATTEMPTS = 3

Clock = Callable[[], float]


class EntryConflictError(TokenBudgetError):
    """
    The idempotency key was used before, for another account or amount.
    """


class NoEntryError(TokenBudgetError):
    """
    Nothing of this kind was posted by this key.
    """


@dataclass(frozen=True, slots=True)
class Entry:
    """
    An entry of the ledger.

    Attributes:
        id: Its id.

        account: Whose balance it changed.

        change_pico: By how much, in pico-dollars; positive where the account has more afterwards.

        kind: ``topup``, ``refund``, ``adjust``, ``reverse``, ``grant`` or ``expire``.

        created_at: When it was posted.

        is_new: Whether this call posted it; False where the key had done so before.
    """

    id: str
    account: str
    change_pico: int
    kind: str
    created_at: datetime
    is_new: bool


def topup(
    engine: Engine, account: str, amount_pico: int, *, key: str, note: str | None = None, clock: Clock = time.time
) -> Entry:
    """
    Put *amount_pico* into *account*.

    Args:
        engine: The host's database.

        account: For example ``tenant:acme``.

        amount_pico: Pico-dollars, above zero.

        key: The caller's, for example the payment's id. The same call with the same key again changes nothing.

        note: For people.

        clock: Epoch seconds.

    Raises:
        EntryConflictError: *key* was used for another account or amount.

        ValueError: An amount that is not above zero, a sum that the database cannot hold, or no key.
    """
    return post(engine, "topup", FUNDING, account, positive(amount_pico), key=key, note=note, clock=clock)


def refund(
    engine: Engine, account: str, amount_pico: int, *, key: str, note: str | None = None, clock: Clock = time.time
) -> Entry:
    """
    Give *amount_pico* of what usage has cost back to *account*. Arguments and errors are those of `topup`.
    """
    return post(engine, "refund", tables.REVENUE, account, positive(amount_pico), key=key, note=note, clock=clock)


def adjust(
    engine: Engine, account: str, change_pico: int, *, key: str, note: str | None = None, clock: Clock = time.time
) -> Entry:
    """
    Change the balance of *account* by *change_pico*, up or down. Arguments and errors are those of `topup`.
    """
    if type(change_pico) is not int or change_pico == 0:
        raise ValueError(f"an adjustment is a whole number of pico-dollars other than 0, got {change_pico!r}")
    return post(engine, "adjust", ADJUSTMENT, account, change_pico, key=key, note=note, clock=clock)


def reverse(engine: Engine, kind: str, *, key: str, note: str | None = None, clock: Clock = time.time) -> Entry:
    """
    Take back what was posted as *kind* by *key*, all of it: the same two sides, the opposite amount. A second time changes
    nothing. What was meant instead is posted by a new key.

    Args:
        engine: The host's database.

        kind: ``topup``, ``refund`` or ``adjust``. Usage is put right by `rerating`, and a grant ends by itself.

        key: By which it was posted.

        note: For people: why.

        clock: Epoch seconds.

    Raises:
        NoEntryError: Nothing was.

        ValueError: An entry of this kind cannot be taken back.
    """
    if kind not in _REVERSIBLE:
        raise ValueError(f"entries of these kinds can be taken back: {', '.join(_REVERSIBLE)}; got {kind!r}")
    source = _source(kind, key)
    ledger = tables.ledger.c
    wanted = select(ledger.account, ledger.contra, ledger.amount_pico).where(ledger.source_id == source)
    with engine.connect() as connection:
        known = connection.execute(wanted).one_or_none()
    if known is None:
        raise NoEntryError(f"No {kind} was posted by this key.")
    return _post(engine, REVERSAL, known.contra, known.account, known.amount_pico, f"{REVERSAL}:{source}", note, clock)


def balance(engine: Engine, account: str) -> int:
    """
    Return what *account* has left, in pico-dollars; 0 for one that nothing was ever posted to.
    """
    balances = tables.balances.c
    wanted = select(balances.balance_pico).where(balances.account == clean_id(account, 255))
    with reader(engine).connect() as connection:
        return connection.scalar(wanted) or 0


def positive(amount_pico: int) -> int:
    """
    Return *amount_pico*, which must be an amount.
    """
    if type(amount_pico) is not int or amount_pico <= 0:
        raise ValueError(f"an amount is a whole number of pico-dollars above 0, got {amount_pico!r}")
    return amount_pico


def post(
    engine: Engine,
    kind: str,
    contra: str,
    account: str,
    change_pico: int,
    *,
    key: str,
    note: str | None,
    clock: Clock,
    also: Callable[[Connection, Entry], object] | None = None,
) -> Entry:
    """
    Post an entry of *kind* once by its *key*; *also* runs in the same transaction, whether the entry is new or not.
    """
    return _post(engine, kind, contra, account, change_pico, _source(kind, key), note, clock, also)


def _source(kind: str, key: str) -> str:
    if not key.strip() or len(key) > MAX_KEY or clean_text(key, MAX_KEY) != key:
        raise ValueError(f"an idempotency key is text of 1 to {MAX_KEY} characters, got one of {len(key)}")
    return f"{kind}:{clean_id(key, MAX_KEY)}"


def _post(  # noqa: PLR0917 - the columns of one row
    engine: Engine,
    kind: str,
    contra: str,
    account: str,
    change_pico: int,
    source: str,
    note: str | None,
    clock: Clock,
    also: Callable[[Connection, Entry], object] | None = None,
) -> Entry:
    row = {
        "id": hashlib.md5(source.encode(), usedforsecurity=False).hexdigest(),
        "account": clean_id(account, 255),
        "contra": contra,
        "amount_pico": -change_pico,  # a credit is negative in the ledger
        "kind": kind,
        "source_id": source,
        "entries": 1,
        "created_at": moment(int(clock() * 1_000_000)),
        "note": None if note is None else clean_text(note, 512),
    }
    attempt = 0
    while True:
        attempt += 1
        try:
            with engine.begin() as connection:
                entry = _post_once(connection, row)
                if also is not None:
                    also(connection, entry)
                return entry
        except IntegrityError:
            # somebody was quicker, with the same key or with the account's first entry
            if attempt == _ATTEMPTS:
                raise
        except (DataError, OverflowError) as exc:
            raise ValueError("this amount, or the balance with it, is more than the database can hold") from exc


def _post_once(connection: Connection, row: dict[str, Any]) -> Entry:
    ledger = tables.ledger.c
    wanted = select(ledger.account, ledger.amount_pico, ledger.created_at).where(ledger.source_id == row["source_id"])
    known = connection.execute(wanted).one_or_none()
    if known is None:
        connection.execute(insert(tables.ledger), row)
        change_balance(connection, row["account"], -row["amount_pico"], row["created_at"])
        return Entry(row["id"], row["account"], -row["amount_pico"], row["kind"], row["created_at"], is_new=True)
    if (known.account, known.amount_pico) != (row["account"], row["amount_pico"]):
        raise EntryConflictError(
            f"The idempotency key of this {row['kind']} was used for {known.account} and {format_usd(-known.amount_pico)}, "
            f"not for {row['account']} and {format_usd(-row['amount_pico'])}. Use a new key."
        )
    return Entry(row["id"], row["account"], -known.amount_pico, row["kind"], known.created_at, is_new=False)


def change_balance(connection: Connection, account: str, change_pico: int, at: datetime) -> None:
    """
    Change the balance in Python, under its row's lock: SQLite turns an integer sum that overflows into a float.
    """
    balances = tables.balances.c
    mine = balances.account == account
    held = connection.scalar(select(balances.balance_pico).where(mine).with_for_update())
    if held is None:
        connection.execute(insert(tables.balances), {"account": account, "balance_pico": change_pico, "updated_at": at})
    else:
        changed = {"balance_pico": held + change_pico, "updated_at": at}
        connection.execute(update(tables.balances).where(mine).values(changed))
