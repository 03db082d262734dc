"""
T18: what becomes of a key is seen at the next request of every process, also when a cache refresh is in flight.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
from keyed_app import aserve, serve, settings_of

from tokenbudget_mw.database import tables
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.errors import BackendUnavailableError, ConfigurationError
from tokenbudget_mw.rules.policy import Policy
from tokenbudget_mw.testing.clock import FakeClock
from tokenbudget_mw.upkeep.barring import Bars
from tokenbudget_mw.values import CROWDED, Reply, Subject
from tokenbudget_mw.wiring import open_bars, open_keys, wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tokenbudget_mw.core import Core
    from tokenbudget_mw.database.keys import KeyStore


@pytest.fixture(params=[serve, aserve], ids=["wsgi", "asgi"])
def ask(request: pytest.FixtureRequest) -> Callable[[Core, str], tuple[int, str]]:
    """
    Either protocol.
    """
    found: Callable[[Core, str], tuple[int, str]] = request.param
    return found


@pytest.fixture
def database(sqlite_database: str) -> str:
    """
    URL of a database with our tables.
    """
    engine = open_engine(sqlite_database)
    tables.metadata.create_all(engine)
    engine.dispose()
    return sqlite_database


@pytest.fixture
def core(database: str) -> Iterator[Core]:
    """
    An app in this process, whose key cache forgets nothing by itself.
    """
    core = wire(settings_of(database), clock=FakeClock(1_760_000_000.0))
    yield core
    core.close()


@pytest.fixture
def store(core: Core) -> KeyStore:
    """
    Its key table, which tells its backend.
    """
    engine = open_engine(core.settings.database or "")
    return open_keys(core.settings, engine, bars=open_bars(core.settings, core))


def test_t18_a_revoked_key_is_refused_at_the_next_request(core: Core, store: KeyStore, ask: Any) -> None:
    """
    The refusal is the one that the key table gives, which is what the request after it asks.
    """
    made = store.create(tenant="acme")
    before = ask(core, made.text)

    store.revoke(made.row.kid)
    barred = ask(core, made.text)
    core.guard.backend.bar("tenant:acme", f"key={made.row.kid}", "", 1.0, core.clock())
    asked = ask(core, made.text)

    assert before == (200, "")
    assert barred == asked == (401, "revoked_api_key")


def test_t18_a_suspended_key_may_be_resumed(core: Core, store: KeyStore, ask: Any) -> None:
    """
    Both are seen at once by a process that was not refused meanwhile; what the table itself refused is remembered.
    """
    made = store.create(tenant="acme")
    seen = [ask(core, made.text)]
    for change in (store.suspend, store.resume, store.suspend):
        change(made.row.kid)
        seen.append(ask(core, made.text))
    refused_by_the_table = ask(core, made.text)
    store.resume(made.row.kid)
    remembered = ask(core, made.text)
    core.clock.advance(3600)  # type: ignore[attr-defined]

    assert seen == [(200, ""), (401, "suspended_api_key"), (200, ""), (401, "suspended_api_key")]
    assert refused_by_the_table == remembered == (401, "suspended_api_key")
    assert ask(core, made.text) == (200, "")


def test_t18_a_refresh_in_flight_cannot_bring_a_key_back(core: Core, store: KeyStore, ask: Any) -> None:
    """
    The table was read before the revocation, the answer is remembered after it: nobody passes by that.
    """
    made = store.create(tenant="acme")
    cache: Any = core.identifier._keys  # type: ignore[attr-defined]
    lookup = cache._store.lookup

    def overtaken(kid: str) -> Any:
        row = lookup(kid)
        cache._store.lookup = lookup
        store.revoke(kid)
        return row

    cache._store.lookup = overtaken

    assert [ask(core, made.text) for _ in range(3)] == [(401, "revoked_api_key")] * 3
    assert cache._good.currsize == 0


def test_t18_all_keys_of_an_owner_at_once(core: Core, store: KeyStore, ask: Any) -> None:
    """
    A tenant is suspended, a user deleted: their keys are refused, those of others are not.
    """
    ada, bob = store.create(tenant="acme", user="ada"), store.create(tenant="acme", user="bob")
    eve = store.create(tenant="evil", user="eve")
    keys = [made.text for made in (ada, bob, eve)]
    before = [ask(core, key)[0] for key in keys]

    revoked = store.revoke_all(user="ada", tenant="acme")
    one = [ask(core, key) for key in keys]
    suspended = store.suspend_all(tenant="acme")
    both = [ask(core, key) for key in keys]

    assert before == [200] * 3
    assert one == [(401, "revoked_api_key"), (200, ""), (200, "")]
    assert both == [(401, "revoked_api_key"), (401, "suspended_api_key"), (200, "")]
    assert [row.kid for row in revoked] == [ada.row.kid]
    assert [row.kid for row in suspended] == [bob.row.kid]
    assert [row.status for row in store.resume_all(tenant="acme")] == ["active"]


@pytest.mark.parametrize("owner", [{}, {"key": "k1"}])
def test_an_owner_must_be_named(store: KeyStore, owner: dict[str, str]) -> None:
    """
    Nobody revokes every key there is by a slip.
    """
    store.create()

    with pytest.raises(ConfigurationError, match="Name the owner"):
        store.revoke_all(**owner)
    assert [row.status for row in store.list()] == ["active"]


def test_t18_a_rotated_key_without_grace_ends_at_once(core: Core, store: KeyStore, ask: Any) -> None:
    """
    Its successor passes, and a key with a grace goes on.
    """
    old, kept = store.create(tenant="acme"), store.create(tenant="acme")
    ask(core, old.text), ask(core, kept.text)

    new = store.rotate(old.row.kid, grace=0.0)
    store.rotate(kept.row.kid, grace=60.0)

    assert [ask(core, key.text) for key in (old, new, kept)] == [(401, "expired_api_key"), (200, ""), (200, "")]


def test_t18_a_key_without_limits_is_barred_too(database: str, ask: Any) -> None:
    """
    The backend is asked for the key alone.
    """
    core = wire(settings_of(database, plans={}, limits=[]))
    store = open_keys(core.settings, open_engine(database), bars=open_bars(core.settings, core))
    made = store.create(tenant="acme")
    before = ask(core, made.text)

    store.revoke(made.row.kid)
    after = ask(core, made.text)
    core.close()

    assert (before, after) == ((200, ""), (401, "revoked_api_key"))


def test_what_a_revoked_key_has_used_counts_for_its_tenant(core: Core, store: KeyStore) -> None:
    """
    A bar refuses what is to come, not what was: a late charge still reaches the tenant's counters.
    """
    from tokenbudget_mw.charging import charge

    tenant = {"limits": ["1000 tokens/minute per tenant"], "plans": {}}
    limited = wire(settings_of(core.settings.database or "", **tenant))
    made = store.create(tenant="acme")
    limited.guard.backend.bar("tenant:acme", f"key={made.row.kid}", "revoked", 60.0, limited.clock())

    charge(limited, made.row.subject(), {"input_tokens": 400, "output_tokens": 0, "model": "m"})

    other = limited.guard.admission.plan(_request(Subject(key="k2", tenant="acme")), limited.clock())
    assert other is not None
    assert limited.guard.backend.peek(other.ask, limited.clock()).states[0].remaining == 600
    limited.close()


def _request(subject: Subject) -> Any:
    from tokenbudget_mw.calls.recording import new_id
    from tokenbudget_mw.rules.admission import Request
    from tokenbudget_mw.values import Cost

    return Request(new_id(0.0), subject, None, None, Cost(input_tokens=1), Cost())


def test_a_crowd_is_no_bad_credential(core: Core, store: KeyStore, ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Too many open reservations are a 429 with Retry-After, and the key stays remembered.
    """
    made = store.create(tenant="acme")
    ask(core, made.text)
    crowded = Reply(False, (), barred=CROWDED)

    async def later(*_: Any) -> Reply:
        return crowded

    monkeypatch.setattr(core.guard.backend, "reserve", lambda *_: crowded, raising=False)
    monkeypatch.setattr(core.async_guard.backend, "reserve", later, raising=False)
    got = ask(core, made.text)

    cache: Any = core.identifier._keys  # type: ignore[attr-defined]
    assert got == (429, "rate_limit_exceeded")
    assert cache.cached(made.text) == made.row.subject()


def test_a_backend_that_cannot_be_told_is_said_and_not_fatal(database: str, caplog: pytest.LogCaptureFixture) -> None:
    """
    The table has the change, the log a line without a secret, and the cache's time holds.
    """
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING, "tokenbudget_mw"):
        patch.setattr("tokenbudget_mw.backends.open_backend", _unreachable)
        settings = wire(settings_of(database)).settings
        bars = open_bars(settings)
        store = open_keys(settings, open_engine(database), bars=bars)
        row = store.revoke(store.create(tenant="acme").row.kid)

    assert (row.status, bars.has_missed) == ("revoked", True)
    assert [record.getMessage() for record in caplog.records] == [
        f"The backend could not be told of 1 changed keys ({row.kid}): gone"
    ]


def _unreachable(*_: Any, **__: Any) -> Any:
    class Away:
        def bar(self, *_: Any) -> None:
            raise BackendUnavailableError("gone")

        def close(self) -> None:
            pass

    return Away()


def test_a_bar_outlasts_every_cache(database: str) -> None:
    """
    It lasts for the cache's time, for what is remembered while the table is away, and a minute more.
    """
    told: list[Any] = []

    class Backend:
        def bar(self, *arguments: Any) -> None:
            told.append(arguments)

    core: Any = wire(settings_of(database))
    core.guard.backend = Backend()
    open_bars(core.settings, core).tell([(Subject(key="k,1", team="t", source="api_key"), "revoked")])

    (tag, counter, status, seconds, _) = told[0]
    assert (tag, counter, status) == ("team:t", "key=k%2C1", "revoked")
    assert seconds == 3600 + 600 + 60


def test_nothing_to_tell_opens_nothing() -> None:
    """
    An owner without keys costs no connection.
    """

    def opened() -> Any:
        raise AssertionError

    bars = Bars(Policy({}), opened, 1.0, lambda: 0.0)
    bars.tell([])

    assert not bars.has_missed
