"""
API keys in the host's database: made, listed, suspended, revoked, rotated, looked up by their public id.

A key's text is shown once, when it is made. The table holds its HMAC under a pepper that is not in the database, so
neither a stolen table nor a stolen pepper alone tells whether a guess is right.
"""

from __future__ import annotations

import hmac
import os
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select, update

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.engine import reader
from tokenbudget_mw.database.key_cache import KeyCache
from tokenbudget_mw.database.key_rows import (
    EARLIER,
    KeyRow,
    LimitReader,
    NewKey,
    Status,
    change_rows,
    check_ids,
    is_behind,
    row_of,
    select_rows,
)
from tokenbudget_mw.database.rows import clean_text, encode_tags, moment
from tokenbudget_mw.errors import ConfigurationError, UnknownKeyError
from tokenbudget_mw.rules.identity import RANDOM_BYTES, digest, new_key
from tokenbudget_mw.values import EMPTY_TAGS

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Engine, Select

    from tokenbudget_mw.rules.identity import ApiKey
    from tokenbudget_mw.values import Limit, Subject

    Told = Callable[[Iterable[tuple[Subject, str]]], object]

__all__ = ["KeyCache", "KeyRow", "KeyStore", "LimitReader", "NewKey", "Status"]

_NO_DIGEST = "0" * 64


class KeyStore:
    """
    The key table.

    Args:
        engine: The host's database.

        pepper: Secret of the HMAC; or several by version, of which the highest makes new keys and the others still
            check the keys they made.

        limits: Knows what limits of a key's own mean; without it keys that have such are refused.

        clock: Epoch seconds.

        random_bytes: Source of randomness.

        told: Told of keys whose state has changed, when that stands in the table; see `barring.Bars.tell`.
    """

    def __init__(
        self,
        engine: Engine,
        pepper: str | bytes | Mapping[int, str | bytes],
        *,
        limits: LimitReader | None = None,
        clock: Callable[[], float] = time.time,
        random_bytes: Callable[[int], bytes] = os.urandom,
        told: Told = lambda _: None,
    ) -> None:
        peppers = pepper if isinstance(pepper, Mapping) else {1: pepper}
        if not peppers:
            raise ConfigurationError("`pepper` holds no version. Give a secret, or a dict of version to secret.")
        self._peppers = {each: text.encode() if isinstance(text, str) else text for each, text in peppers.items()}
        self._newest = max(self._peppers)
        self._engine = engine
        self._reader = reader(engine)
        self._limits = limits
        self._clock = clock
        self._random_bytes = random_bytes
        self._told = told

    # -- reading ------------------------------------------------------------------------------------------------------

    def lookup(self, kid: str) -> KeyRow | None:
        """
        Return the key with public id *kid*, by one indexed query; None where there is none.
        """
        rows = select_rows(self._reader, lambda keys: keys.where(tables.keys.c.kid == kid))
        return rows[0] if rows else None

    def get(self, kid: str) -> KeyRow:
        """
        Return the key with public id *kid*.

        Raises:
            UnknownKeyError: There is none.
        """
        row = self.lookup(kid)
        if row is None:
            raise _unknown(kid)
        return row

    def list(self, *, status: Status | None = None, tenant: str | None = None, most: int = 1000) -> list[KeyRow]:
        """
        Return up to *most* keys, the oldest first, of one *status* and *tenant* or of all.
        """

        def narrow(keys: Select[Any]) -> Select[Any]:
            if status is not None:
                keys = keys.where(tables.keys.c.status == status)
            if tenant is not None:
                keys = keys.where(tables.keys.c.tenant_id == tenant)
            return keys.order_by(tables.keys.c.created_at, tables.keys.c.kid).limit(most)

        return select_rows(self._reader, narrow)

    def limits_of(self, row: KeyRow) -> tuple[Limit, ...]:
        """
        Return the limits that *row* has of its own.

        Raises:
            ConfigurationError: They cannot be read.
        """
        if row.limits is None:
            return ()
        return self._limit_reader().read(row.limits)

    def subject_of(self, row: KeyRow) -> Subject:
        """
        Return who pays and is limited when the key of *row* is used.

        Raises:
            ConfigurationError: The limits of its own cannot be read.
        """
        return row.subject(self.limits_of(row))

    def _limit_reader(self) -> LimitReader:
        if self._limits is None:
            raise ConfigurationError("Limits of a key's own need a reader. Open the table by `wiring.open_keys`.")
        return self._limits

    def fingerprint(self, key: ApiKey) -> bytes:
        """
        Return the digest of *key* under the newest pepper: a name for it that is no secret.
        """
        return digest(key.text, self._peppers[self._newest])

    def matches(self, row: KeyRow | None, key: ApiKey) -> bool:
        """
        Whether *key* is the one that *row* was made for. Takes as long where there is no row.
        """
        version = self._newest if row is None else row.pepper_version
        pepper = self._peppers.get(version)
        given = digest(key.text, pepper or b"").hex()
        return hmac.compare_digest(given, _NO_DIGEST if row is None or pepper is None else row.digest)

    # -- changing -----------------------------------------------------------------------------------------------------

    def create(
        self,
        *,
        name: str = "",
        user: str | None = None,
        team: str | None = None,
        project: str | None = None,
        tenant: str | None = None,
        plan: str | None = None,
        purpose: str = "realtime",
        expires_at: float | None = None,
        tags: Mapping[str, str] = EMPTY_TAGS,
        limits: Iterable[str | Mapping[str, Any]] = (),
    ) -> NewKey:
        """
        Make a key.

        Args:
            name: What its owner calls it.

            user: User id.

            team: Team id.

            project: Project id.

            tenant: Tenant id.

            plan: Plan in the settings; None takes the default.

            purpose: ``realtime``, ``batch``, ``playground``, ``platform``.

            expires_at: Epoch seconds from which it is refused; None for never.

            tags: Notes.

            limits: Limits of its own, as in the settings; see `set_limits`.

        Raises:
            ConfigurationError: An id is too long, or holds characters that not every database keeps; or a limit cannot be
                read.
        """
        owner = {"user_id": user, "team_id": team, "project_id": project, "tenant_id": tenant, "plan": plan}
        check_ids(owner)
        expires = None if expires_at is None else moment(round(expires_at * 1_000_000))
        made, values = self._new(
            **owner, name=name, purpose=purpose, expires_at=expires, tags=dict(tags), limits=self._written(limits)
        )
        with self._engine.begin() as connection:
            connection.execute(insert(tables.keys).values(values))
        return NewKey(row_of(values), made.text)

    def rotate(self, kid: str, *, grace: float = 86_400.0) -> NewKey:
        """
        Make a key for the same owner as *kid*, which stays good for *grace* seconds more. With 0 it ends at once; a grace
        that is shorter than the app's ``key_cache_ttl`` may last as long as that.

        Raises:
            UnknownKeyError: There is no active key *kid*.
        """
        columns = EARLIER if is_behind(self._engine) else tuple(tables.keys.columns)
        with self._engine.begin() as connection:
            wanted = select(*columns).where(tables.keys.c.kid == kid, tables.keys.c.status == "active")
            found = connection.execute(wanted.with_for_update()).mappings().first()
            if found is None or found["rotated_to"] is not None:
                raise _unknown(kid, "active and not rotated")
            old = row_of(found)
            made, values = self._new(
                **{name: found[name] for name in _INHERITED},
                limits=old.limits,
                expires_at=old.expires_at,
                tags=dict(old.tags),
            )
            end = self._now() + timedelta(seconds=grace)
            expires = end if old.expires_at is None else min(end, old.expires_at)
            connection.execute(insert(tables.keys).values(values))
            change = update(tables.keys).where(tables.keys.c.kid == kid)
            connection.execute(change.values(rotated_to=made.kid, expires_at=expires))
        if grace <= 0:
            self._told([(old.subject(), "expired")])
        return NewKey(row_of(values), made.text)

    def suspend(self, kid: str) -> KeyRow:
        """
        Refuse key *kid* until it is resumed.
        """
        return self._change(kid, ("active", "suspended"), status="suspended")

    def resume(self, kid: str) -> KeyRow:
        """
        Accept a suspended key again.
        """
        return self._change(kid, ("active", "suspended"), status="active")

    def revoke(self, kid: str) -> KeyRow:
        """
        Refuse key *kid* for ever. Revoking it again changes nothing.
        """
        row = self.get(kid)
        if row.status == "revoked":
            return row
        return self._change(kid, ("active", "suspended"), status="revoked", revoked_at=self._now())

    def suspend_all(self, **owner: str) -> tuple[KeyRow, ...]:
        """
        Refuse all active keys of an owner until they are resumed: ``suspend_all(tenant="acme")``.

        Args:
            owner: ``user``, ``team``, ``project``, ``tenant``; keys must have all of them.

        Returns:
            The keys that are suspended now and were not.

        Raises:
            ConfigurationError: No owner is named.
        """
        return self._change_all(owner, ("active",), status="suspended")

    def resume_all(self, **owner: str) -> tuple[KeyRow, ...]:
        """
        Accept all suspended keys of an owner again, those that were suspended one by one, too. As `suspend_all`.
        """
        return self._change_all(owner, ("suspended",), status="active")

    def revoke_all(self, **owner: str) -> tuple[KeyRow, ...]:
        """
        Refuse all keys of an owner for ever: for a tenant, user, team or project that is deleted. As `suspend_all`.
        """
        return self._change_all(owner, ("active", "suspended"), status="revoked", revoked_at=self._now())

    def set_plan(self, kid: str, plan: str | None) -> KeyRow:
        """
        Put key *kid* on another plan; None takes the default.
        """
        return self._change(kid, ("active", "suspended"), plan=plan)

    def set_limits(self, kid: str, limits: Iterable[str | Mapping[str, Any]]) -> KeyRow:
        """
        Give key *kid* limits of its own, in the place of those that it had; none where *limits* are empty.

        Each holds in the place of what counts the same (scopes, unit, window) in its plan and in the settings, or beside
        them. A dict may have ``until``, from when on what it replaced holds again.

        Raises:
            ConfigurationError: A limit cannot be read, or the table is a migration behind.

            UnknownKeyError: There is no key *kid* that is active or suspended.
        """
        return self._change(kid, ("active", "suspended"), limits=self._written(limits))

    def add_limits(self, kid: str, limits: Iterable[str | Mapping[str, Any]]) -> KeyRow:
        """
        Give key *kid* more limits of its own. One that counts the same as another of them takes its place; one with an end
        only that of another with an end. What has ended is forgotten.

        Raises:
            ConfigurationError: A limit cannot be read, or the table is a migration behind.

            UnknownKeyError: There is no key *kid* that is active or suspended.
        """
        self._check_place()
        keys = tables.keys
        with self._engine.begin() as connection:
            wanted = select(keys.c.limits).where(keys.c.kid == kid, keys.c.status != "revoked").with_for_update()
            found = connection.execute(wanted).first()
            if found is None:
                raise _unknown(kid, "active or suspended")
            text = self._limit_reader().add(found.limits, limits, self._clock())
            connection.execute(update(keys).where(keys.c.kid == kid).values(limits=text))
        return self.get(kid)

    def _written(self, limits: Iterable[str | Mapping[str, Any]]) -> str | None:
        limits = tuple(limits) if not isinstance(limits, str | Mapping) else (limits,)
        if not limits:
            return None
        self._check_place()
        return self._limit_reader().write(limits)

    def _check_place(self) -> None:
        if is_behind(self._engine):
            raise ConfigurationError("The key table has no place for limits yet. Run `tokenbudget-mw migrate` first.")

    def _change(self, kid: str, states: tuple[Status, ...], **values: Any) -> KeyRow:
        changed = self._change_where((tables.keys.c.kid == kid,), states, values)
        if not changed:
            raise _unknown(kid, " or ".join(states))
        return changed[0]

    def _change_all(self, owner: Mapping[str, str], states: tuple[Status, ...], **values: Any) -> tuple[KeyRow, ...]:
        unknown = [name for name in owner if name not in _OWNERS]
        if unknown or not owner:
            given = f"got {unknown[0]!r}" if unknown else "none is given"
            raise ConfigurationError(f"Name the owner whose keys are meant, by {', '.join(_OWNERS)}; {given}.")
        which = [tables.keys.c[f"{name}_id"] == value for name, value in owner.items()]
        return self._change_where(which, states, values)

    def _change_where(
        self, which: Iterable[ColumnElement[bool]], states: tuple[Status, ...], values: Mapping[str, Any]
    ) -> tuple[KeyRow, ...]:
        rows = change_rows(self._engine, (*which, tables.keys.c.status.in_(states)), values)
        if "status" in values:
            self._told([(row.subject(), row.state(self._clock())) for row in rows])
        return rows

    def _new(self, *, name: str, tags: dict[str, str], **values: Any) -> tuple[ApiKey, dict[str, Any]]:
        key = new_key(self._random_bytes(RANDOM_BYTES))
        if values.get("limits") is None:
            values.pop("limits", None)  # so that a table that is one migration back takes the row, too
        return key, {
            **{column.name: None for column in EARLIER},
            **values,
            "kid": key.kid,
            "digest": self.fingerprint(key).hex(),
            "pepper_version": self._newest,
            "last4": key.text[-4:],
            "name": clean_text(name, 255),
            "status": "active",
            "created_at": self._now(),
            "tags": encode_tags(tags),
        }

    def _now(self) -> datetime:
        return moment(int(self._clock() * 1_000_000))


_OWNERS = ("user", "team", "project", "tenant")
_INHERITED = ("name", "user_id", "team_id", "project_id", "tenant_id", "plan", "purpose")


def _unknown(kid: str, state: str = "") -> UnknownKeyError:
    return UnknownKeyError(f"There is no key {kid!r}{' that is ' + state if state else ''}.")
