"""
The key cache: fast for those who are known, honest when the database is away.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from sqlalchemy.exc import OperationalError

from tokenbudget_mw.database import key_cache, tables
from tokenbudget_mw.database.keys import KeyCache, KeyStore
from tokenbudget_mw.errors import CredentialError
from tokenbudget_mw.rules.identity import new_key
from tokenbudget_mw.transitions import FEW

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tokenbudget_mw.database.keys import KeyRow

TTL = 10.0


class Store(KeyStore):
    """
    A key table that counts its lookups, and can be away, or overtaken.
    """

    lookups = 0
    is_away = False
    meanwhile = staticmethod(lambda: None)

    def lookup(self, kid: str) -> KeyRow | None:
        self.lookups += 1
        if self.is_away:
            raise OperationalError("SELECT", {}, Exception("gone"))
        row = super().lookup(kid)
        self.meanwhile()
        return row


@pytest.fixture
def store(sqlite_engine: Engine, clock) -> Store:  # type: ignore[no-untyped-def]
    """
    A key table on SQLite.
    """
    return Store(sqlite_engine, "pepper", clock=clock)


@pytest.fixture
def cache(store: Store, clock) -> KeyCache:  # type: ignore[no-untyped-def]
    """
    Its cache.
    """
    return KeyCache(store, TTL, clock)


def refusal(cache: KeyCache, text: str) -> tuple[int, str, str]:
    with pytest.raises(CredentialError) as caught:
        cache.resolve(text)
    return caught.value.status, caught.value.code, str(caught.value)


def test_a_key_is_asked_for_once_per_ttl(store: Store, cache: KeyCache, clock) -> None:  # type: ignore[no-untyped-def]
    """
    The first request asks the database; then nobody does until the answer is too old.
    """
    made = store.create(tenant="acme")

    before = cache.cached(made.text)
    first = cache.resolve(made.text)
    again = (cache.cached(made.text), cache.resolve(made.text))
    lookups = store.lookups
    clock.now += TTL
    late = cache.cached(made.text)
    cache.resolve(made.text)

    assert before is None
    assert first == made.row.subject() == again[0] == again[1]
    assert (lookups, late, store.lookups) == (1, None, 2)


def test_t18_no_answer_is_good_for_longer_because_the_clock_went_back(store: Store, cache: KeyCache, clock) -> None:  # type: ignore[no-untyped-def]
    """
    A key that was revoked is asked for again, though the clock was set back by an hour since it was remembered.
    """
    made = store.create()
    cache.resolve(made.text)
    clock.now -= 3600.0
    store.revoke(made.row.kid)
    clock.now += TTL

    assert cache.cached(made.text) is None
    assert refusal(cache, made.text)[1] == "revoked_api_key"


def test_a_typo_never_reaches_the_database(store: Store, cache: KeyCache) -> None:
    """
    The checksum finds a broken key, and the answer is that of an unknown one.
    """
    text = store.create().text
    broken = text[:-1] + ("0" if text[-1] != "0" else "1")

    assert refusal(cache, broken)[:2] == (401, "invalid_api_key")
    assert store.lookups == 0


def test_an_unknown_key_and_a_wrong_secret_look_alike(store: Store, cache: KeyCache) -> None:
    """
    Nobody learns from the answer whether a public id exists.
    """
    made = store.create()
    stranger = new_key(bytes(range(40)))
    forged = KeyStore(store._engine, "pepper", random_bytes=lambda _: bytes(40)).create()
    with store._engine.begin() as connection:
        connection.exec_driver_sql(
            f"UPDATE tokenbudget_keys SET digest = '{made.row.digest}' WHERE kid = '{forged.row.kid}'"
        )

    assert (
        refusal(cache, stranger.text)
        == refusal(cache, forged.text)
        == (401, "invalid_api_key", "The API key is not valid.")
    )


def test_a_bad_key_is_remembered_too(store: Store, cache: KeyCache, clock) -> None:  # type: ignore[no-untyped-def]
    """
    Guessing the same key asks the database once per ttl.
    """
    stranger = new_key(bytes(range(40)))

    refusal(cache, stranger.text)
    with pytest.raises(CredentialError):
        cache.cached(stranger.text)
    refusal(cache, stranger.text)

    assert store.lookups == 1


def test_guesses_push_out_no_key(store: Store, clock, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """
    Unknown keys have a bounded table of their own.
    """
    monkeypatch.setattr(key_cache, "MOST_KEYS", 4)
    cache = KeyCache(store, TTL, clock)
    made = store.create()
    cache.resolve(made.text)

    for number in range(20):
        refusal(cache, new_key(number.to_bytes(40, "big")).text)

    assert cache.cached(made.text) == made.row.subject()
    assert len(cache._bad) == 4


def test_t18_states_are_told_apart_and_seen_after_the_ttl(store: Store, cache: KeyCache, clock) -> None:  # type: ignore[no-untyped-def]
    """
    Suspended, revoked and expired keys are refused with codes of their own, and a resumed one is accepted.
    """
    kid, text = (made := store.create()).row.kid, made.text
    cache.resolve(text)
    seen = []
    for change in (store.suspend, store.resume, store.revoke):
        change(kid)
        clock.now += TTL
        seen.append(refusal(cache, text)[1] if change != store.resume else cache.resolve(text).key)

    assert seen == ["suspended_api_key", kid, "revoked_api_key"]


def test_t18_forgetting_beats_a_lookup_under_way(store: Store, cache: KeyCache) -> None:
    """
    A revocation that arrives while the old state is being read is not overwritten by it.
    """
    made = store.create()

    def revoke_meanwhile() -> None:
        store.meanwhile = lambda: None
        store.revoke(made.row.kid)
        cache.forget()

    store.meanwhile = revoke_meanwhile
    cache.resolve(made.text)

    assert refusal(cache, made.text)[1] == "revoked_api_key"


def test_a_key_ends_on_time_though_it_is_remembered(store: Store, cache: KeyCache, clock) -> None:  # type: ignore[no-untyped-def]
    """
    The cache does not lengthen a key's life, neither does a database that is away.
    """
    made = store.create(expires_at=clock.now + 3)
    cache.resolve(made.text)

    clock.now += 3

    assert refusal(cache, made.text)[1] == "expired_api_key"
    store.is_away = True
    clock.now += TTL
    assert refusal(cache, made.text)[0] == 503


def test_known_keys_go_on_while_the_database_is_away(
    store: Store,
    cache: KeyCache,
    clock,
    caplog: pytest.LogCaptureFixture,  # type: ignore[no-untyped-def]
) -> None:
    """
    A key that was seen stays good for minutes, an unseen one gets a 503, each transition is one log line.
    """
    known, unseen = store.create(), store.create()
    cache.resolve(known.text)
    store.is_away = True
    clock.now += TTL + 1

    with caplog.at_level(logging.WARNING, "tokenbudget_mw"):
        served = [cache.resolve(known.text) for _ in range(3)]
        status, code, message = refusal(cache, unseen.text)
        clock.now += key_cache.STALE_SECONDS
        too_old = refusal(cache, known.text)
        store.is_away = False
        back = cache.resolve(unseen.text)

    assert served == [known.row.subject()] * 3
    assert (status, code, message) == too_old
    assert (status, code) == (503, "keys_unavailable")
    assert back == unseen.row.subject()
    assert [line.getMessage().split(";")[0] for line in caplog.records] == [
        "The key table does not answer (OperationalError)",
        "The key table answers again.",
    ]


def test_a_key_table_that_comes_and_goes_fills_no_log(
    store: Store,
    cache: KeyCache,
    clock,
    caplog: pytest.LogCaptureFixture,  # type: ignore[no-untyped-def]
) -> None:
    """
    Every other look-up fails, as where too few connections are there: that is not one line a request.
    """
    keys = [store.create().text for _ in range(200)]
    for number, key in enumerate(keys):
        store.is_away = number % 2 == 0
        clock.now += 0.1
        refusal(cache, key) if store.is_away else cache.resolve(key)

    assert len(caplog.messages) == 2 * FEW


def test_a_key_table_that_is_missing_says_who_makes_it(
    sqlite_engine: Engine,
    store: Store,
    cache: KeyCache,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """
    An app that was started before its tables were made names the command, not the driver's error.
    """
    unseen = store.create()
    tables.keys.drop(sqlite_engine)

    assert refusal(cache, unseen.text)[:2] == (503, "keys_unavailable")
    assert "run `tokenbudget-mw migrate`" in caplog.records[-1].getMessage()


def test_an_app_without_a_pepper_says_why_it_refuses_every_key(
    store: Store, sqlite_engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """
    Keys that are good elsewhere are refused; the log names the setting, once.
    """
    made, cache = store.create(), KeyCache(KeyStore(sqlite_engine, ""), 0.0, has_pepper=False)

    assert [refusal(cache, made.text)[1] for _ in range(2)] == ["invalid_api_key"] * 2
    assert [record.levelname for record in caplog.records if "TOKENBUDGET_PEPPER" in record.message] == ["ERROR"]


def test_an_app_with_another_pepper_says_why_it_refuses_keys(
    store: Store, sqlite_engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """
    Keys that are good elsewhere are refused; the log names the setting, once, and tells nothing of the key but its kid.
    """
    first, second = store.create(), store.create()
    cache = KeyCache(KeyStore(sqlite_engine, "another"), 0.0)

    assert [refusal(cache, made.text)[1] for made in (first, second)] == ["invalid_api_key"] * 2
    (told,) = [record.getMessage() for record in caplog.records]
    assert f"key {first.row.kid} " in told
    assert "TOKENBUDGET_PEPPER is not the one" in told
    assert first.text.rpartition("_")[2] not in told


def test_a_key_that_nobody_has_is_no_matter_of_peppers(cache: KeyCache, caplog: pytest.LogCaptureFixture) -> None:
    """
    A key of which the table knows nothing is refused without a word in the log.
    """
    assert refusal(cache, new_key(bytes(range(64))).text)[1] == "invalid_api_key"
    assert caplog.records == []


def test_no_ttl_asks_each_time(store: Store, clock) -> None:  # type: ignore[no-untyped-def]
    """
    With a ttl of 0 every request sees the table as it is.
    """
    cache = KeyCache(store, 0.0, clock)
    made = store.create()
    cache.resolve(made.text)

    store.revoke(made.row.kid)

    assert refusal(cache, made.text)[1] == "revoked_api_key"
