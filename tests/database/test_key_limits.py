"""
Limits of a key's own in the key table, also in one that is a migration behind.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, text, update

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.keys import KeyCache, KeyStore
from tokenbudget_mw.errors import ConfigurationError, CredentialError, UnknownKeyError
from tokenbudget_mw.settings.limits import Context
from tokenbudget_mw.settings.own_limits import OwnLimits

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

INCREASE = {"limit": "1000 requests/minute", "until": "2026-12-24"}


def open_store(engine: Engine, clock: Callable[[], float]) -> KeyStore:
    """
    The key table, as `wiring` opens it.
    """
    return KeyStore(engine, "pepper", limits=OwnLimits(Context(timezone="Europe/Zurich")), clock=clock)


@pytest.fixture
def store(engine: Engine, clock: Any) -> KeyStore:
    """
    The key table of the test's database.
    """
    return open_store(engine, clock)


def amounts(store: KeyStore, kid: str) -> list[int]:
    return [limit.amount for limit in store.limits_of(store.get(kid))]


def test_limits_are_kept_with_the_key(store: KeyStore) -> None:
    """
    Given when it is made or later, replaced as a whole, taken away; the subject carries them.
    """
    made = store.create(limits=["100 requests/minute", INCREASE])
    kid = made.row.kid

    assert store.get(kid) == made.row
    assert [limit.amount for limit in store.subject_of(made.row).limits] == [100, 1000]
    assert store.subject_of(made.row).limits[1].until == 1_798_066_800.0
    store.set_limits(kid, ["$5/month"])
    assert amounts(store, kid) == [5_000_000_000]
    assert store.set_limits(kid, []).limits is None
    assert store.subject_of(store.get(kid)).limits == ()


def test_limits_are_added_one_by_one(store: KeyStore) -> None:
    """
    An increase stands beside the limit that it covers; the same again takes its place.
    """
    kid = store.create(limits="100 requests/minute").row.kid

    store.add_limits(kid, [INCREASE])
    store.add_limits(kid, ["4 concurrent", {**INCREASE, "limit": "900 requests/minute"}])

    assert amounts(store, kid) == [100, 4, 900]


def test_a_rotated_key_keeps_its_limits(store: KeyStore) -> None:
    """
    The key that takes its place has them, too.
    """
    old = store.create(limits=["100 requests/minute"])

    assert store.rotate(old.row.kid).row.limits == old.row.limits


def test_what_cannot_be_read_is_not_stored(store: KeyStore) -> None:
    """
    A typing error changes nothing and makes no key.
    """
    kid = store.create(limits=["100 requests/minute"]).row.kid

    for attempt in (
        lambda: store.set_limits(kid, ["9 tokes/minute"]),
        lambda: store.add_limits(kid, ["9 tokes/minute"]),
        lambda: store.create(limits=["9 tokes/minute"]),
    ):
        with pytest.raises(ConfigurationError, match="did you mean 'tokens'"):
            attempt()
    assert amounts(store, kid) == [100]
    assert len(store.list()) == 1


def test_unknown_and_revoked_keys_get_no_limits(store: KeyStore) -> None:
    """
    The error says what state would have been right.
    """
    kid = store.create().row.kid
    store.revoke(kid)

    for change in (store.set_limits, store.add_limits):
        for name in (kid, "nope"):
            with pytest.raises(UnknownKeyError, match="active or suspended"):
                change(name, ["9/minute"])


def test_two_operators_do_not_lose_each_others_limits(engine: Engine, clock: Any) -> None:
    """
    What one adds while the other's addition is under way stays: the row is locked from its reading on.
    """
    begun = "BEGIN IMMEDIATE" if engine.dialect.name == "sqlite" else "FOR UPDATE"
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    store = open_store(engine, clock)

    store.add_limits(store.create().row.kid, ["9/minute"])

    assert any(begun in statement for statement in statements)


def test_without_a_reader_a_key_with_limits_is_refused(engine: Engine, store: KeyStore, clock: Any) -> None:
    """
    A store that cannot know what they mean lets nobody through without them.
    """
    made = store.create(limits=["9/minute"])
    cache = KeyCache(KeyStore(engine, "pepper", clock=clock), 10.0, clock)

    with pytest.raises(CredentialError, match="cannot be read"):
        cache.resolve(made.text)


def test_t18_changed_limits_are_seen_when_the_cache_is_too_old(store: KeyStore, clock: Any) -> None:
    """
    Within the time to live the key has the limits it had, then the new ones.
    """
    made = store.create(limits=["100 requests/minute"])
    cache = KeyCache(store, 10.0, clock)
    before = cache.resolve(made.text)

    store.add_limits(made.row.kid, ["200 requests/minute"])
    clock.now += 9.9
    assert cache.cached(made.text) is before
    clock.now += 0.1
    assert cache.cached(made.text) is None
    assert [limit.amount for limit in cache.resolve(made.text).limits] == [200]


def test_unreadable_limits_are_refused_and_told_once(
    engine: Engine, store: KeyStore, clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """
    The key gets a 403 that says so, the log the reason, until somebody mends it.
    """
    made = store.create(limits=["9/minute"])
    cache = KeyCache(store, 10.0, clock)
    with engine.begin() as connection:
        connection.execute(update(tables.keys).values(limits='["9 parsecs"]'))

    with caplog.at_level(logging.ERROR, "tokenbudget_mw"):
        for _ in range(3):
            with pytest.raises(CredentialError) as caught:
                cache.resolve(made.text)
            clock.now += 11
    assert (caught.value.status, caught.value.code) == (403, "unreadable_limits")
    assert len(caplog.records) == 1
    assert "parsecs" in caplog.text
    assert made.text not in caplog.text

    store.set_limits(made.row.kid, ["9/minute"])
    assert cache.resolve(made.text).limits[0].amount == 9


@pytest.fixture
def behind(engine: Engine, clock: Any) -> KeyStore:
    """
    A key table as it was before limits.
    """
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE tokenbudget_keys DROP COLUMN limits"))
    return open_store(engine, clock)


def test_a_table_one_migration_back_serves_its_keys(behind: KeyStore, clock: Any) -> None:
    """
    Keys are made, found, listed, changed, rotated and resolved as before.
    """
    made = behind.create(tenant="acme")
    kid = made.row.kid

    assert behind.get(kid) == made.row
    assert behind.list(tenant="acme") == [made.row]
    assert behind.lookup("nope") is None
    assert behind.suspend(kid).status == "suspended"
    assert behind.resume(kid).status == "active"
    assert KeyCache(behind, 10.0, clock).resolve(made.text).key == kid
    assert behind.rotate(kid).row.tenant_id == "acme"


def test_a_table_one_migration_back_says_what_limits_need(behind: KeyStore) -> None:
    """
    Nothing is dropped in silence.
    """
    kid = behind.create().row.kid

    for attempt in (
        lambda: behind.create(limits=["9/minute"]),
        lambda: behind.set_limits(kid, ["9/minute"]),
        lambda: behind.add_limits(kid, ["9/minute"]),
    ):
        with pytest.raises(ConfigurationError, match="tokenbudget-mw migrate"):
            attempt()


def test_the_column_appears_while_the_app_runs(behind: KeyStore, engine: Engine) -> None:
    """
    After the migration the same store reads limits, without a restart.
    """
    kid = behind.create().row.kid
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE tokenbudget_keys ADD COLUMN limits TEXT"))

    behind.set_limits(kid, ["9/minute"])

    assert json.loads(behind.get(kid).limits or "") == ["9/minute"]
