"""Who asks: by key, by address, by the host's word; and nobody by default."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

from tokenbudget_mw.database.keys import KeyStore
from tokenbudget_mw.database.tables import metadata
from tokenbudget_mw.errors import ConfigurationError, CredentialError
from tokenbudget_mw.identify import AddressIdentifier, CustomIdentifier, Identifier, KeyIdentifier
from tokenbudget_mw.rules.identity import networks_of
from tokenbudget_mw.values import Facts, Subject
from tokenbudget_mw.wiring import wire

ADA = Subject(key="ada")


def facts(*headers: tuple[str, str], client: str | None = "203.0.113.7", query: str = "") -> Facts:
    """A request's facts."""
    return Facts("POST", "/", headers, client, query)


def both(identifier: Identifier, asked: Facts) -> tuple[Any, Any]:
    """What the sync and the async method find; the error where they raise one."""

    def sync() -> Any:
        try:
            return identifier.resolve(asked)
        except (ConfigurationError, CredentialError, TypeError) as error:
            return str(error)

    async def later() -> Any:
        try:
            return await identifier.aresolve(asked)
        except (CredentialError, TypeError) as error:
            return str(error)

    return sync(), asyncio.run(later())


# -- keys -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def keyed(tmp_path: Path) -> Any:
    """An identifier by key, with the text of one key that exists."""
    url = f"sqlite:///{tmp_path / 'keys.db'}"
    engine = create_engine(url)
    metadata.create_all(engine)
    key = KeyStore(engine, "pepper").create(name="ada", tenant="acme").text
    engine.dispose()
    core = wire({"database": url, "pepper": "pepper", "key_cache_ttl": 60})
    yield core.identifier, key
    core.close()


@pytest.mark.parametrize("header", ["authorization", "x-api-key", "api-key"])
def test_key_is_found_in_each_header(keyed: Any, header: str) -> None:
    """A key counts in every header that SDKs use."""
    identifier, key = keyed
    value = f"Bearer {key}" if header == "authorization" else key

    sync, later = both(identifier, facts((header, value)))

    assert sync == later
    assert (sync.tenant, sync.source) == ("acme", "api_key")


def test_key_is_quick_the_second_time(keyed: Any) -> None:
    """A key that was seen a moment ago takes no wait."""
    identifier, key = keyed
    asked = facts(("x-api-key", key))

    before = identifier.quick(asked)
    found = identifier.resolve(asked)

    assert before is None
    assert identifier.quick(asked) == found


@pytest.mark.parametrize("headers", [(), (("authorization", "Basic dTpw"),)])
def test_no_key_is_an_error_that_says_where_to_send_one(keyed: Any, headers: Any) -> None:
    """A request without a key is refused by every method, with the headers that count."""
    identifier, _ = keyed

    assert "Authorization: Bearer tb_live_" in str(both(identifier, facts(*headers)))
    with pytest.raises(CredentialError) as caught:
        identifier.quick(facts(*headers))
    assert (caught.value.status, caught.value.code) == (401, "missing_api_key")


def test_wrong_key_is_refused_without_repeating_it(keyed: Any) -> None:
    """A key of the right form that nobody was given is no subject, and is not repeated."""
    identifier, key = keyed
    wrong = key[:20] + ("a" if key[20] != "a" else "b") + key[21:]

    sync, later = both(identifier, facts(("x-api-key", wrong)))

    assert sync == later
    assert isinstance(sync, str)
    assert wrong not in sync


def test_query_key_counts_only_where_it_is_allowed() -> None:
    """Query strings end up in logs, so a key there is read only if the settings say so."""

    class Keys:
        def resolve(self, text: str) -> Subject:
            return Subject(key=text)

        cached = resolve

    asked = facts(query="api_key=k-1")
    keys: Any = Keys()

    assert KeyIdentifier(keys, allow_query=True).quick(asked) == Subject(key="k-1")
    with pytest.raises(CredentialError):
        KeyIdentifier(keys).quick(asked)


# -- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("client", "forwarded", "key"),
    [
        ("203.0.113.7", None, "ip:203.0.113.7"),
        ("203.0.113.7", "198.51.100.1", "ip:203.0.113.7"),
        ("10.0.0.1", "198.51.100.1", "ip:198.51.100.1"),
        ("10.0.0.1", "6.6.6.6, 198.51.100.1", "ip:198.51.100.1"),
        ("10.0.0.1", "198.51.100.1, 10.9.9.9", "ip:198.51.100.1"),
        ("2001:db8::1", None, "ip:2001:db8::/64"),
    ],
)
def test_address_behind_proxies(client: str, forwarded: str | None, key: str) -> None:
    """``X-Forwarded-For`` counts from a trusted proxy only, and only what that proxy wrote."""
    identifier = AddressIdentifier(networks_of(["10.0.0.0/8"]))
    asked = facts(*([("x-forwarded-for", forwarded)] if forwarded else []), client=client)

    sync, later = both(identifier, asked)

    assert sync == later == identifier.quick(asked)
    assert (sync.key, sync.source) == (key, "address")


def test_unknown_address_is_refused() -> None:
    """A server that tells no address gets nobody, not everybody in one."""
    sync, later = both(AddressIdentifier(()), facts(client=None))

    assert sync == later
    assert "does not say where this request comes from" in sync


# -- the host's word --------------------------------------------------------------------------------------------------


async def of_header(asked: Facts) -> Subject | None:
    """A host's coroutine function."""
    await asyncio.sleep(0)
    return ADA if asked.header("x-user") == "ada" else None


class AsyncObject:
    """A host's object that is called, and awaited."""

    async def __call__(self, asked: Facts) -> Subject | None:
        """Find the subject."""
        return await of_header(asked)


def test_sync_callable_is_quick_for_everybody() -> None:
    """A plain function is asked at once, under WSGI and ASGI alike."""
    identifier = CustomIdentifier(lambda asked: ADA if asked.header("x-user") else None)
    asked = facts(("x-user", "ada"))

    assert identifier.quick(asked) == ADA
    assert both(identifier, asked) == (ADA, ADA)


@pytest.mark.parametrize("function", [of_header, AsyncObject()])
def test_async_callable_is_awaited(function: Any) -> None:
    """A coroutine function, or an object with one, is awaited under ASGI and a clear error under WSGI."""
    identifier = CustomIdentifier(function)
    sync, later = both(identifier, facts(("x-user", "ada")))

    assert identifier.quick(facts()) is None
    assert later == ADA
    assert sync.startswith("at `identify`: a coroutine function can only be awaited under ASGI")


@pytest.mark.parametrize("function", [lambda _: None, of_header])
def test_none_is_a_401(function: Any) -> None:
    """The host's None means nobody: a 401, never a shared subject."""
    with pytest.raises(CredentialError) as caught:
        asyncio.run(CustomIdentifier(function).aresolve(facts()))

    assert (caught.value.status, caught.value.code) == (401, "unauthenticated")


@pytest.mark.parametrize("found", ["ada", {"key": "ada"}, 7, False])
def test_wrong_type_is_named(found: Any) -> None:
    """Anything but a Subject or None is the host's bug, and is called by its type."""
    identifier = CustomIdentifier(lambda _: found)

    with pytest.raises(TypeError, match=f"must return a Subject or None, and returned {type(found).__name__}"):
        identifier.quick(facts())


def test_error_of_the_callable_passes() -> None:
    """What the host's callable raises is not hidden."""

    def broken(_: Facts) -> Subject:
        raise LookupError("no such table")

    with pytest.raises(LookupError, match="no such table"):
        asyncio.run(CustomIdentifier(broken).aresolve(facts()))
