"""
T18: what becomes of a key is seen at the next request of every process, also when a cache refresh is in flight.
"""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from asgi_rig import scope_of
from wsgi_rig import Got, environ_of

from tokenbudget_mw.asgi import ASGIMiddleware
from tokenbudget_mw.barring import Bars
from tokenbudget_mw.database import tables
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.errors import BackendUnavailableError, ConfigurationError
from tokenbudget_mw.rules.policy import Policy
from tokenbudget_mw.testing.clock import FakeClock
from tokenbudget_mw.values import CROWDED, Reply, Subject
from tokenbudget_mw.wiring import open_bars, open_keys, wire
from tokenbudget_mw.wsgi import WSGIMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tokenbudget_mw.core import Core
    from tokenbudget_mw.database.keys import KeyStore

HERE = Path(__file__).parent
DAY = 86_400.0


def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]


async def aapp(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def settings_of(database: str, **changes: Any) -> dict[str, Any]:
    return {
        "database": database,
        "pepper": "pepper",
        "key_cache_ttl": 3600,
        "plans": {"free": ["100 requests/minute"]},
        "limits": ["1000 requests/minute per tenant"],
        "deadline": 5.0,
        "spool": "memory",
    } | changes


def serve(core: Core, key: str) -> tuple[int, str]:
    """
    Ask by WSGI: the status and the code of a refusal.
    """
    got = Got()
    environ = environ_of(subject=None) | {"HTTP_X_API_KEY": key}
    got.chunks.extend(WSGIMiddleware(app, core)(environ, got.start_response))
    return got.status, "" if got.status == 200 else got.json()["error"]["code"]


def aserve(core: Core, key: str) -> tuple[int, str]:
    """
    Ask by ASGI.
    """
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    asyncio.run(ASGIMiddleware(aapp, core)(scope_of(subject=None, headers={"x-api-key": key}), receive, send))
    status = sent[0]["status"]
    return status, "" if status == 200 else json.loads(sent[1]["body"])["error"]["code"]


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
    from tokenbudget_mw.recording import new_id
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


# -- several processes ------------------------------------------------------------------------------------------------

WORKER = """
import sys
sys.path[:0] = sys.argv[3:]
from test_bars import serve, settings_of
from tokenbudget_mw.wiring import wire

core = wire(settings_of(sys.argv[1], backend=sys.argv[2]))
store = core.identifier._keys._store
lookup = store.lookup

def overtaken(kid):
    row = lookup(kid)
    store.lookup = lookup
    print("has read", flush=True)
    sys.stdin.readline()
    return row

while line := sys.stdin.readline().strip():
    key, _, way = line.partition(" ")
    if way:
        store.lookup = overtaken
    print(*serve(core, key), flush=True)
core.close()
"""


class Worker:
    """
    A process that serves, with a cache of its own.
    """

    def __init__(self, database: str, backend: str) -> None:
        paths = [str(HERE), str(HERE.parent / "support")]
        command = [sys.executable, "-c", WORKER, database, backend, *paths]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, key: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{key}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.communicate("\n", timeout=30)


def test_t18_three_processes_on_one_redis_see_each_change_at_the_next_request(database: str, redis_db: str) -> None:
    """
    Revoked, suspended, rotated, the tenant revoked, all by the command line: each process refuses its next request,
    though it remembers keys for an hour.
    """
    settings = wire(settings_of(database, backend=redis_db)).settings
    store = open_keys(settings, open_engine(database))
    made = {name: store.create(tenant="acme", name=name) for name in ("revoke", "suspend", "rotate", "tenant")}
    other = store.create(tenant="other")
    workers = [Worker(database, redis_db) for _ in range(3)]
    everybody = [*made.values(), other]
    before = {worker.ask(key.text) for worker in workers for key in everybody}

    seen = {}
    for name, arguments in {
        "revoke": [made["revoke"].row.kid],
        "suspend": [made["suspend"].row.kid],
        "rotate": [made["rotate"].row.kid, "--grace", "0 seconds"],
        "tenant": ["--tenant", "acme"],
    }.items():
        action = "revoke" if name == "tenant" else name
        said = _command("keys", action, *arguments, database=database, backend=redis_db)
        seen[name] = {worker.ask(made[name].text) for worker in workers}
        assert name == "rotate" or said["known_within_seconds"] == 0.0
    untouched = {worker.ask(other.text) for worker in workers}
    for worker in workers:
        worker.end()

    assert before == {"200"}
    assert seen == {
        "revoke": {"401 revoked_api_key"},
        "suspend": {"401 suspended_api_key"},
        "rotate": {"401 expired_api_key"},
        "tenant": {"401 revoked_api_key"},
    }
    assert untouched == {"200"}


def test_t18_a_refresh_in_flight_in_two_processes_brings_no_key_back(database: str, redis_db: str) -> None:
    """
    Each has read the row when it is revoked, and goes on after that: neither serves the request, nor the next one.
    """
    settings = wire(settings_of(database, backend=redis_db)).settings
    store = open_keys(settings, open_engine(database))
    made = store.create(tenant="acme")
    workers = [Worker(database, redis_db) for _ in range(2)]
    reading = [worker.ask(f"{made.text} slowly") for worker in workers]
    store.revoke(made.row.kid)
    answers = [(worker.ask("go on"), worker.ask(made.text), worker.ask(made.text)) for worker in workers]
    for worker in workers:
        worker.end()

    assert reading == ["has read"] * 2
    assert answers == [("401 revoked_api_key",) * 3] * 2


def _command(*arguments: str, database: str, backend: str) -> dict[str, Any]:
    import os

    environ = os.environ | {
        "TOKENBUDGET_DATABASE": database,
        "TOKENBUDGET_BACKEND": backend,
        "TOKENBUDGET_PEPPER": "pepper",
        "TOKENBUDGET_LIMITS": '["1000 requests/minute per tenant"]',
    }
    command = [sys.executable, "-m", "tokenbudget_mw", *arguments, "--json"]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, cwd=HERE.parents[1])
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found
