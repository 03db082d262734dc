"""
Rows of the key table, as it is and as it was one migration back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec
from sqlalchemy import inspect, select, update
from sqlalchemy.exc import DatabaseError, NoSuchTableError

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.engine import reader
from tokenbudget_mw.database.rows import clean_id
from tokenbudget_mw.errors import ConfigurationError
from tokenbudget_mw.values import Subject

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Engine, Select
    from sqlalchemy.engine import RowMapping

    from tokenbudget_mw.values import Limit

__all__ = [
    "EARLIER",
    "KeyRow",
    "LimitReader",
    "NewKey",
    "Status",
    "change_rows",
    "check_ids",
    "is_behind",
    "row_of",
    "select_rows",
]

Status = Literal["active", "suspended", "revoked"]

_MOST_AT_ONCE = 500

Narrow = Callable[["Select[Any]"], "Select[Any]"]

EARLIER = tuple([column for column in tables.keys.columns if column.name != "limits"])
"""The columns of the table as it was one migration back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRow:
    """
    What is known of a key. All moments are aware, in UTC.

    Attributes:
        kid: Its public id.

        digest: HMAC-SHA256 of its text, hexadecimal.

        pepper_version: Which pepper that was.

        last4: The last four characters of its text, to recognise it by.

        name: What its owner calls it.

        user_id: User it acts for.

        team_id: Team it acts for.

        project_id: Project it acts for.

        tenant_id: Tenant it acts for.

        plan: Plan in the settings; None takes the default.

        purpose: ``realtime``, ``batch``, ``playground``, ``platform``.

        status: ``active``, ``suspended`` (may be resumed) or ``revoked`` (for good).

        created_at: When it was made.

        expires_at: From when on it is refused; None for never.

        revoked_at: When it was revoked.

        rotated_to: The key that takes its place.

        last_used_at: None: nothing writes this column. When a key was used, its usage rows say.

        tags: The owner's notes.

        limits: Limits of its own, as `LimitReader` has written them; None where it has none.
    """

    kid: str
    digest: str = field(repr=False)
    pepper_version: int
    last4: str
    name: str
    user_id: str | None
    team_id: str | None
    project_id: str | None
    tenant_id: str | None
    plan: str | None
    purpose: str
    status: Status
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    rotated_to: str | None
    last_used_at: datetime | None
    tags: Mapping[str, str]
    limits: str | None = None

    def subject(self, limits: tuple[Limit, ...] = ()) -> Subject:
        """
        Return who pays and is limited when this key is used, by *limits* of its own; see `KeyStore.subject_of`.
        """
        return Subject(
            key=self.kid,
            user=self.user_id,
            team=self.team_id,
            project=self.project_id,
            tenant=self.tenant_id,
            plan=self.plan,
            purpose=self.purpose,
            source="api_key",
            limits=limits,
        )

    def state(self, now: float) -> str:
        """
        Return its status at *now*, in epoch seconds: ``expired`` where it is active and past its time.
        """
        return "expired" if self.status == "active" and self.has_expired(now) else self.status

    def has_expired(self, now: float) -> bool:
        """
        Whether it is past its time at *now*, in epoch seconds.
        """
        return self.expires_at is not None and self.expires_at.timestamp() <= now


@dataclass(frozen=True, slots=True)
class NewKey:
    """
    A key that was just made.

    Attributes:
        row: What the table holds.

        text: The key itself. It can never be read again.
    """

    row: KeyRow
    text: str = field(repr=False)


class LimitReader(Protocol):
    """
    Knows what limits of a key's own mean. Every method raises `ConfigurationError` where they mean nothing.
    """

    def write(self, limits: Iterable[str | Mapping[str, Any]]) -> str:
        """
        Check *limits*, and return the text that the table holds.
        """
        ...

    def add(self, text: str | None, limits: Iterable[str | Mapping[str, Any]], now: float) -> str:
        """
        Return *text* with *limits* added, each in the place of what counts the same there; and without what has ended.
        """
        ...

    def read(self, text: str) -> tuple[Limit, ...]:
        """
        Return the limits in *text*.
        """
        ...


def row_of(found: RowMapping | Mapping[str, Any]) -> KeyRow:
    """
    Return what the database *found*.
    """
    return KeyRow(**{**found, "tags": msgspec.json.decode(found["tags"], type=dict[str, str])})


def select_rows(engine: Engine, narrow: Narrow) -> list[KeyRow]:
    """
    Return the keys that *narrow* leaves of all.
    """
    try:
        return _select(engine, narrow, tables.keys.columns)
    except DatabaseError:
        if not is_behind(engine):
            raise
        return _select(engine, narrow, EARLIER)


def change_rows(engine: Engine, which: Iterable[ColumnElement[bool]], values: Mapping[str, Any]) -> tuple[KeyRow, ...]:
    """
    Set *values* in the rows that meet all of *which*, and return these as they are then.
    """
    keys = tables.keys.c
    rows: list[KeyRow] = []
    with engine.begin() as connection:
        wanted = select(keys.kid).where(*which).order_by(keys.kid).with_for_update()
        kids = connection.execute(wanted).scalars().all()
        parts = [keys.kid.in_(kids[at : at + _MOST_AT_ONCE]) for at in range(0, len(kids), _MOST_AT_ONCE)]
        for part in parts:
            connection.execute(update(tables.keys).where(part).values(values))
    for part in parts:
        rows += select_rows(reader(engine), partial(_narrowed, part))
    return tuple(rows)


def _narrowed(part: ColumnElement[bool], keys: Select[Any]) -> Select[Any]:
    return keys.where(part).order_by(tables.keys.c.kid)


def check_ids(owner: Mapping[str, str | None]) -> None:
    """
    Raise `ConfigurationError` where an id of *owner* (column -> value) is not one that every database keeps as it is.
    """
    for name, value in owner.items():
        length: int = tables.keys.c[name].type.length  # type: ignore[attr-defined]
        if value is not None and clean_id(value, length) != value:
            raise ConfigurationError(f"`{name}` of a key takes up to {length} printable characters, got {value!r:.80}.")


def is_behind(engine: Engine) -> bool:
    """
    Whether the table is one migration back, and has no limits.
    """
    try:
        columns = inspect(engine).get_columns(tables.keys.name)
    except NoSuchTableError:
        return False
    return "limits" not in {column["name"] for column in columns}


def _select(engine: Engine, narrow: Narrow, columns: Iterable[ColumnElement[Any]]) -> list[KeyRow]:
    with engine.connect() as connection:
        return [row_of(found) for found in connection.execute(narrow(select(*columns))).mappings()]
