import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenbudget_mw.errors import CredentialError
from tokenbudget_mw.rules import identity
from tokenbudget_mw.rules.identity import client_address, find_credential, networks_of, new_key, parse_key
from tokenbudget_mw.values import Facts, Subject

RANDOM = st.binary(min_size=identity.RANDOM_BYTES, max_size=identity.RANDOM_BYTES)
KEY = new_key(bytes(range(40)))
PROXIES = networks_of(["10.0.0.0/8", "2001:db8:ffff::/48"])


def facts(*headers, client="203.0.113.7", query=""):
    return Facts("POST", "/", headers, client, query)


# -- keys


@given(RANDOM)
def test_keys_round_trip(random_bytes):
    """
    A new key can be taken apart again, and looks like the pattern that scanners are given.
    """
    key = new_key(random_bytes)

    assert parse_key(key.text) == key
    assert re.fullmatch(identity.KEY_PATTERN, key.text)
    assert (len(key.kid), len(key.secret)) == (12, 32)


@given(RANDOM, st.integers(min_value=0), st.sampled_from("0aZ_"))
def test_a_typo_is_found_without_a_database(random_bytes, at, letter):
    """
    A key with one wrong letter is no key.
    """
    text = new_key(random_bytes).text
    at %= len(text)
    wrong = text[:at] + letter + text[at + 1 :]

    if wrong != text:
        with pytest.raises(CredentialError):
            parse_key(wrong)


@pytest.mark.parametrize(
    "text", ["", "tb_live_", "sk-123", KEY.text + "x", KEY.text[:-1], KEY.text + "\n", "x" * 10_000, "é" * 59]
)
def test_what_is_no_key_is_refused_without_repeating_it(text):
    """
    The refusal is a 401 that says nothing of what was sent.
    """
    with pytest.raises(CredentialError) as caught:
        parse_key(text)

    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")
    assert text == "" or text not in str(caught.value)


def test_a_key_shows_its_public_id_only():
    """
    Printing a key prints no secret.
    """
    assert KEY.kid in repr(KEY)
    assert KEY.secret not in repr(KEY)


def test_too_little_randomness_is_an_error():
    """
    A key is not made of fewer random bytes than it holds.
    """
    with pytest.raises(ValueError, match="40 random bytes"):
        new_key(b"x" * 39)


def test_the_digest_depends_on_every_part():
    """
    What is stored changes with the key and with the pepper, and is 32 bytes long.
    """
    stored = identity.digest(KEY.text, b"pepper")

    assert len(stored) == 32
    assert stored == identity.digest(KEY.text, b"pepper")
    assert stored != identity.digest(KEY.text, b"other")
    assert stored != identity.digest(KEY.text + "x", b"pepper")


# -- credentials


@pytest.mark.parametrize(
    "header",
    [
        ("authorization", f"Bearer {KEY.text}"),
        ("authorization", f"bearer   {KEY.text} "),
        ("x-api-key", KEY.text),
        ("api-key", KEY.text),
    ],
)
def test_a_credential_is_found_where_the_sdks_put_it(header):
    """
    The headers of the OpenAI, Anthropic and Azure SDKs are read.
    """
    assert find_credential(facts(header)) == KEY.text


@pytest.mark.parametrize("headers", [(), (("authorization", "Basic dXNlcjpwYXNz"),), (("cookie", "api_key=x"),)])
def test_no_credential_is_none(headers):
    """
    Other ways of authenticating are not ours.
    """
    assert find_credential(facts(*headers)) is None


@pytest.mark.parametrize(
    "headers",
    [
        (("authorization", "Bearer one"), ("authorization", "Bearer two")),
        (("authorization", "Bearer one"), ("x-api-key", "two")),
        (("x-api-key", "one"), ("api-key", "two")),
        (("x-api-key", "one,two"),),
        (("authorization", "Bearer one, Bearer two"),),
        (("authorization", "Bearer one,Bearer one"),),
        (("authorization", "Bearer one"), ("x-api-key", "")),
    ],
)
def test_two_credentials_are_refused(headers):
    """
    A request never has a second identity: two credentials are a 400, whichever of them is valid.
    """
    with pytest.raises(CredentialError) as caught:
        find_credential(facts(*headers))

    assert (caught.value.status, caught.value.code) == (400, "multiple_credentials")


def test_the_same_credential_twice_is_one():
    """
    SDKs that send one key in two headers are understood.
    """
    assert find_credential(facts(("authorization", "Bearer one"), ("x-api-key", "one"))) == "one"


@pytest.mark.parametrize("value", ["", " ", "a b", "x" * 257, "naïve", "a\x00b", "a\r\nb", "<script>", "=", "\ud800"])
def test_what_cannot_be_a_credential_is_refused(value):
    """
    Overlong values, and letters that no credential has, are a 401 before anything else looks at them.
    """
    with pytest.raises(CredentialError) as caught:
        find_credential(facts(("x-api-key", value)))

    assert caught.value.status == 401


def test_the_query_string_counts_only_where_it_is_allowed():
    """
    A key in the URL is read when the settings say so, and is one more credential then.
    """
    request = facts(query="a=1&api_key=one")

    assert find_credential(request) is None
    assert find_credential(request, allow_query=True) == "one"
    with pytest.raises(CredentialError):
        find_credential(facts(("x-api-key", "two"), query="api_key=one"), allow_query=True)
    with pytest.raises(CredentialError):
        find_credential(facts(query="api_key=one&api_key=two"), allow_query=True)


@pytest.mark.parametrize("name", ["api%5Fkey", "api%5fkey", "%61pi_key", "%61%70%69%5F%6B%65%79"])
def test_a_name_in_the_query_string_may_be_encoded(name):
    """
    However the name is spelt, it is the same: a second credential is none less for it.
    """
    assert find_credential(facts(query=f"a=1&{name}=o%6Ee"), allow_query=True) == "one"
    with pytest.raises(CredentialError, match="more than one"):
        find_credential(facts(("x-api-key", "two"), query=f"{name}=one"), allow_query=True)


@given(st.lists(st.tuples(st.sampled_from(["authorization", "x-api-key", "api-key"]), st.text())), st.text())
def test_any_headers_give_a_credential_or_a_refusal(headers, query):
    """
    Nothing but `CredentialError` is raised, whatever is sent, and what is found is short and plain.
    """
    try:
        found = find_credential(facts(*headers, query=query), allow_query=True)
    except CredentialError:
        return
    assert found is None or (found.isascii() and found.isprintable() and 0 < len(found) <= 256)


# -- addresses


def forwarded(*values, client="10.0.0.1"):
    return facts(*(("x-forwarded-for", value) for value in values), client=client)


def test_a_forwarded_address_counts_only_from_a_trusted_proxy():
    """
    A client cannot choose its address.
    """
    assert client_address(forwarded("1.2.3.4")) == "10.0.0.1"
    assert client_address(forwarded("1.2.3.4", client="203.0.113.7"), PROXIES) == "203.0.113.7"
    assert client_address(forwarded("1.2.3.4"), PROXIES) == "1.2.3.4"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (["6.6.6.6, 1.2.3.4"], "1.2.3.4"),
        (["6.6.6.6, 1.2.3.4, 10.0.0.2"], "1.2.3.4"),
        (["6.6.6.6", "1.2.3.4", "10.0.0.2"], "1.2.3.4"),
        (["10.9.9.9, 10.0.0.2"], "10.9.9.9"),
        (["6.6.6.6, nonsense, 10.0.0.2"], "10.0.0.2"),
        (["6.6.6.6, , 10.0.0.2"], "10.0.0.2"),
        (["1.2.3.4:5678"], "1.2.3.4"),
        (["[2001:db8:1:2::9]:443"], "2001:db8:1:2::/64"),
        (["::ffff:1.2.3.4"], "1.2.3.4"),
        ([""], "10.0.0.1"),
        ([], "10.0.0.1"),
        ([",".join(["6.6.6.6"] * 1000 + ["1.2.3.4"])], "1.2.3.4"),
    ],
)
def test_forwarded_addresses_are_read_from_the_right(headers, expected):
    """
    The first address that is no proxy's is the client's; whatever stands left of it was written by the client.
    """
    assert client_address(forwarded(*headers), PROXIES) == expected


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("testclient", "testclient"),
        ("x" * 1000, "x" * 64),
        (None, None),
    ],
)
def test_the_peer_is_the_client_where_no_proxy_is_trusted(client, expected):
    """
    An IPv6 client is its /64, because one customer holds all of it; a peer that is no address keeps its name.
    """
    assert client_address(facts(client=client)) == expected


def test_a_unix_socket_is_a_proxy_where_any_is_trusted():
    """
    Behind a socket the forwarded address counts, if proxies are trusted at all.
    """
    assert client_address(forwarded("1.2.3.4", client=None), PROXIES) == "1.2.3.4"
    assert client_address(forwarded("1.2.3.4", client=None)) is None


@given(st.lists(st.text()), st.one_of(st.none(), st.text()))
def test_no_header_raises(values, client):
    """
    Whatever stands in the header, an address comes out, or none.
    """
    found = client_address(forwarded(*values, client=client), PROXIES)

    assert found is None or len(found) <= 64


def test_an_address_is_a_subject():
    """
    The address stands for its holder, and says how it was found.
    """
    assert identity.subject_of_address("203.0.113.7") == Subject(key="ip:203.0.113.7", source="address")


def test_networks_that_are_none_are_refused():
    """
    A trusted proxy that cannot be read is an error at start.
    """
    with pytest.raises(ValueError, match=r"10\.0\.0"):
        networks_of(["10.0.0"])
