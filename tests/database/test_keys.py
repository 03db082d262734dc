"""
The key table: made once, shown once, found by one query.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import event, select

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.keys import KeyStore
from tokenbudget_mw.errors import ConfigurationError, UnknownKeyError
from tokenbudget_mw.rules.identity import parse_key
from tokenbudget_mw.values import Subject

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

PEPPER = "a pepper for tests"


@pytest.fixture
def store(engine: Engine, clock: Callable[[], float]) -> KeyStore:
    """
    The key table of the test's database.
    """
    return KeyStore(engine, PEPPER, clock=clock)


def test_a_new_key_is_found_by_its_public_id(store: KeyStore) -> None:
    """
    What was given comes back, with the moment and no text.
    """
    made = store.create(
        name="ci", user="u1", team="red", tenant="acme", plan="pro", tags={"cost": "42"}, expires_at=2e9
    )

    row = store.get(parse_key(made.text).kid)

    assert row == made.row
    assert (row.name, row.status, row.plan, row.tags) == ("ci", "active", "pro", {"cost": "42"})
    assert row.created_at == datetime(2025, 10, 9, 8, 53, 20, tzinfo=UTC)
    assert row.expires_at == datetime(2033, 5, 18, 3, 33, 20, tzinfo=UTC)
    assert row.subject() == Subject(
        key=row.kid, user="u1", team="red", tenant="acme", plan="pro", purpose="realtime", source="api_key"
    )


def test_the_text_of_a_key_is_nowhere(store: KeyStore, engine: Engine) -> None:
    """
    Neither the table nor a repr holds the secret.
    """
    made = store.create(name="ci")
    secret = parse_key(made.text).secret

    with engine.connect() as connection:
        stored = str(connection.execute(select(tables.keys)).one())

    assert secret not in stored
    assert secret not in repr(made)
    assert made.row.digest not in repr(made)
    assert made.row.last4 == made.text[-4:]


def test_a_lookup_is_one_query(store: KeyStore, engine: Engine) -> None:
    """
    Finding a key takes one statement, and so does not finding one.
    """
    made = store.create()
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))

    found, missing = store.lookup(made.row.kid), store.lookup("unknown00000")

    assert (found, missing) == (made.row, None)
    assert len([statement for statement in statements if statement.startswith("SELECT")]) == 2


def test_only_the_right_text_matches(store: KeyStore) -> None:
    """
    Another key's text, or any text without a row, does not match.
    """
    made, other = store.create(), store.create()

    assert store.matches(made.row, parse_key(made.text))
    assert not store.matches(made.row, parse_key(other.text))
    assert not store.matches(None, parse_key(made.text))


def test_an_old_pepper_still_checks_its_keys(engine: Engine) -> None:
    """
    After a new pepper the old keys go on, as long as the old pepper is given; without it they match nothing.
    """
    old = KeyStore(engine, {1: "old"}).create()
    both, new = KeyStore(engine, {1: "old", 2: "new"}), KeyStore(engine, {2: "new"})
    fresh = both.create()

    assert both.matches(both.get(old.row.kid), parse_key(old.text))
    assert not new.matches(new.get(old.row.kid), parse_key(old.text))
    assert (old.row.pepper_version, fresh.row.pepper_version) == (1, 2)
    assert new.matches(fresh.row, parse_key(fresh.text))


def test_keys_are_suspended_resumed_and_revoked(store: KeyStore) -> None:
    """
    Suspension ends, revocation does not, and its moment stays the first one.
    """
    kid = store.create().row.kid

    states = [store.suspend(kid).status, store.resume(kid).status, store.revoke(kid).status, store.revoke(kid).status]

    assert states == ["suspended", "active", "revoked", "revoked"]
    assert store.get(kid).revoked_at == datetime(2025, 10, 9, 8, 53, 20, tzinfo=UTC)
    for change in (store.resume, store.suspend, store.rotate):
        with pytest.raises(UnknownKeyError):
            change(kid)


def test_a_plan_is_changed(store: KeyStore) -> None:
    """
    A key moves to another plan, and back to the default.
    """
    kid = store.create(plan="free").row.kid

    assert store.set_plan(kid, "pro").plan == "pro"
    assert store.set_plan(kid, None).plan is None


def test_rotation_leaves_a_grace(store: KeyStore) -> None:
    """
    The new key acts for the same owner; the old one ends after the grace, and is not rotated twice.
    """
    old = store.create(name="ci", user="u1", tenant="acme", plan="pro", purpose="batch", tags={"a": "1"})

    new = store.rotate(old.row.kid, grace=3600)

    left = store.get(old.row.kid)
    assert left.status == "active"
    assert left.rotated_to == new.row.kid
    assert left.expires_at == datetime(2025, 10, 9, 9, 53, 20, tzinfo=UTC)
    assert store.get(new.row.kid) == new.row
    assert (new.row.user_id, new.row.tenant_id, new.row.plan, new.row.purpose) == ("u1", "acme", "pro", "batch")
    assert (new.row.name, new.row.tags, new.row.expires_at) == ("ci", {"a": "1"}, None)
    with pytest.raises(UnknownKeyError, match="not rotated"):
        store.rotate(old.row.kid)


def test_rotation_does_not_lengthen_a_life(store: KeyStore) -> None:
    """
    A key that ends before the grace does, ends when it would have.
    """
    old = store.create(expires_at=1_760_000_060)

    store.rotate(old.row.kid, grace=3600)

    assert store.get(old.row.kid).expires_at == old.row.expires_at


def test_keys_are_listed_by_status_and_tenant(store: KeyStore, clock) -> None:  # type: ignore[no-untyped-def]
    """
    The list is the oldest first, and may be narrowed.
    """
    kids = []
    for tenant in ("acme", "acme", "other"):
        kids.append(store.create(tenant=tenant).row.kid)
        clock.now += 1
    store.suspend(kids[1])

    assert [row.kid for row in store.list()] == kids
    assert [row.kid for row in store.list(tenant="acme", status="active")] == kids[:1]
    assert [row.kid for row in store.list(most=2)] == kids[:2]


def test_an_unknown_key_is_named(store: KeyStore) -> None:
    """
    Changing a key that is not there says which.
    """
    with pytest.raises(UnknownKeyError, match="There is no key 'nope'"):
        store.get("nope")
    with pytest.raises(UnknownKeyError):
        store.revoke("nope")


def test_public_ids_differ_by_case(engine: Engine, store: KeyStore) -> None:
    """
    A public id in other case is another key, on MySQL too.
    """
    kid = store.create().row.kid

    assert store.lookup(kid.swapcase()) is None


@pytest.mark.parametrize("bad", ["x" * 256, "a\x00b", "\ud800", "acme "])
def test_an_owner_that_no_database_keeps_is_refused(store: KeyStore, bad: str) -> None:
    """
    An id is stored as it is or not at all.
    """
    with pytest.raises(ConfigurationError, match="tenant_id"):
        store.create(tenant=bad)


def test_no_pepper_at_all_is_a_configuration_error(engine: Engine) -> None:
    """
    An empty dict of peppers makes no keys.
    """
    with pytest.raises(ConfigurationError, match="pepper"):
        KeyStore(engine, {})
