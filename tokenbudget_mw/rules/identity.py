"""
Who asks: the credential in a request, the shape of an API key, the address behind proxies.

Nobody is a subject by default: what cannot be read raises `CredentialError`, and a request never has two credentials.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from tokenbudget_mw.errors import CredentialError
from tokenbudget_mw.values import Subject

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tokenbudget_mw.values import Facts

__all__ = [
    "KEY_PATTERN",
    "RANDOM_BYTES",
    "ApiKey",
    "Network",
    "client_address",
    "digest",
    "find_credential",
    "kid_in",
    "networks_of",
    "new_key",
    "parse_key",
    "subject_at",
    "subject_of_address",
    "why_not",
]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

RANDOM_BYTES = 40
"""How many random bytes `new_key` wants: 58 bits more than the key holds, so that no digit is likelier than another."""

KEY_PATTERN = r"tb_live_[0-9A-Za-z]{12}_[0-9A-Za-z]{38}"
"""What a key looks like, as a regular expression for secret scanners."""

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PREFIX = "tb_live_"
_KID, _SECRET, _CRC = 12, 32, 6
_KEY = re.compile(KEY_PATTERN, re.ASCII)

_MAX_CREDENTIAL = 256
_HEADERS = ("x-api-key", "api-key")
_QUERY_NAME = "api_key"
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*", re.ASCII)  # RFC 6750: b64token

_MAX_HOPS = 32
_MAX_ADDRESS = 64
_IPV6_PREFIX = 64


@dataclass(frozen=True, slots=True)
class ApiKey:
    """
    An API key.

    Attributes:
        kid: Its public id, 12 base62 digits.

        secret: Its secret, 32 base62 digits.

        text: The whole key, as its holder sends it.
    """

    kid: str
    secret: str = field(repr=False)
    text: str = field(repr=False)


def new_key(random_bytes: bytes) -> ApiKey:
    """
    Make a key of *random_bytes*, of which there must be at least `RANDOM_BYTES`.

    Raises:
        ValueError: There are fewer.
    """
    if len(random_bytes) < RANDOM_BYTES:
        raise ValueError(f"A key needs {RANDOM_BYTES} random bytes, and got {len(random_bytes)}.")
    digits = _base62(int.from_bytes(random_bytes, "big") % 62 ** (_KID + _SECRET), _KID + _SECRET)
    kid, secret = digits[:_KID], digits[_KID:]
    body = f"{_PREFIX}{kid}_{secret}"
    return ApiKey(kid, secret, body + _checksum(body))


def parse_key(text: str) -> ApiKey:
    """
    Take a key apart. A typo is found by its checksum, before any database is asked.

    Raises:
        CredentialError: *text* is no key. The message does not repeat it.
    """
    if len(text) > _MAX_CREDENTIAL or _KEY.fullmatch(text) is None or _checksum(text[:-_CRC]) != text[-_CRC:]:
        raise _invalid()
    kid_at = len(_PREFIX)
    secret_at = kid_at + _KID + 1
    return ApiKey(text[kid_at : kid_at + _KID], text[secret_at : secret_at + _SECRET], text)


def kid_in(text: str) -> str:
    """
    Return the public id that *text* begins with, be it a whole key; any other text as it is.

    >>> kid_in("tb_live_kJyYQcQN9856_Fz65"), kid_in("kJyYQcQN9856")
    ('kJyYQcQN9856', 'kJyYQcQN9856')
    """
    return text.removeprefix(_PREFIX).partition("_")[0] if text.startswith(_PREFIX) else text


def why_not(status: str) -> CredentialError:
    """
    Return the refusal of a key that is ``suspended``, ``revoked``, ``expired``, whose own limits are ``unreadable``, or that
    is none of ours (any other *status*).

    >>> why_not("revoked").code, str(why_not("expired"))
    ('revoked_api_key', 'This API key has expired.')
    """
    if status in {"suspended", "revoked"}:
        return CredentialError(f"This API key is {status}.", code=f"{status}_api_key")
    if status == "expired":
        return CredentialError("This API key has expired.", code="expired_api_key")
    if status == "unreadable":
        # refused, as a key of an unknown plan is: what it may take is not known
        message = "The limits of this API key cannot be read."
        return CredentialError(message, status=403, code="unreadable_limits")
    return _invalid()


def digest(key_text: str, pepper: bytes) -> bytes:
    """
    Return what is stored of a key: HMAC-SHA256 under *pepper*, 32 bytes. Compare with `hmac.compare_digest`.
    """
    return hmac.digest(pepper, key_text.encode(), "sha256")


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), _CRC)


def _invalid() -> CredentialError:
    return CredentialError("The API key is not valid.")


def _multiple() -> CredentialError:
    return CredentialError(
        "The request carries more than one credential. Send one API key, in one place.",
        status=400,
        code="multiple_credentials",
    )


def find_credential(facts: Facts, allow_query: bool = False) -> str | None:
    """
    Return the credential that the request carries in ``Authorization: Bearer``, ``x-api-key`` or ``api-key``; None where
    it carries none.

    Args:
        facts: The request.

        allow_query: Whether ``api_key`` in the query string counts, too. Query strings end up in logs.

    Raises:
        CredentialError: There is more than one (400), or the one cannot be a credential (401). The same one in two places
            is one.
    """
    found = _credentials(facts, allow_query=allow_query)
    if not found:
        return None
    value = found[0]
    if found.count(value) < len(found) or "," in value:
        # servers join repeated headers by a comma, which no credential has
        raise _multiple()
    if len(value) > _MAX_CREDENTIAL or _TOKEN.fullmatch(value) is None:
        raise _invalid()
    return value


def _credentials(facts: Facts, *, allow_query: bool) -> list[str]:
    found = []
    for value in facts.header_values("authorization"):
        scheme, _, rest = value.strip().partition(" ")
        if scheme.lower() == "bearer":
            found.append(rest.strip())
    for name in _HEADERS:
        for value in facts.header_values(name):
            found.append(value.strip())  # noqa: PERF401 - a comprehension costs more than there is to do
    if allow_query and (_QUERY_NAME in facts.query or "%" in facts.query):  # a name may be spelt api%5Fkey, too
        found += [value for name, value in parse_qsl(facts.query, keep_blank_values=True) if name == _QUERY_NAME]
    return found


def networks_of(texts: Iterable[str]) -> tuple[Network, ...]:
    """
    Read the addresses and networks (``"10.0.0.0/8"``) of trusted proxies.

    Raises:
        ValueError: One of *texts* is neither.
    """
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts)


def client_address(facts: Facts, trusted: Sequence[Network] = ()) -> str | None:
    """
    Return the address that the request comes from, IPv6 as its /64 network; None where the server does not know it.

    ``X-Forwarded-For`` is read only where the peer is a trusted proxy, from the right, up to the first address that is
    not one: whatever stands left of it was written by the client. A peer without an address (a Unix socket) is a proxy on
    this host, and trusted where any proxy is.

    Args:
        facts: The request.

        trusted: Networks of the proxies in front, see `networks_of`.
    """
    peer = _address(facts.client) if facts.client else None
    if not trusted or (facts.client and not _is_trusted(peer, trusted)):
        return facts.client[:_MAX_ADDRESS] if facts.client and peer is None else _bucket(peer)
    nearest = peer
    for hop in _hops(facts):
        address = _address(hop)
        if address is None:
            break  # not written by a proxy of ours
        nearest = address
        if not _is_trusted(address, trusted):
            break
    return _bucket(nearest)


def subject_of_address(address: str) -> Subject:
    """
    Return the subject that stands for *address*.
    """
    return Subject(key=f"ip:{address}", source="address")


def subject_at(text: str) -> Subject | None:
    """
    Return the subject that requests from the address *text* have; None where it is no address.

    >>> subject_at("10.0.0.1").key, subject_at("2001:db8::1").key, subject_at("alice")
    ('ip:10.0.0.1', 'ip:2001:db8::/64', None)
    """
    address = _bucket(_address(text))
    return None if address is None else subject_of_address(address)


def _hops(facts: Facts) -> Iterator[str]:
    return reversed(",".join(facts.header_values("x-forwarded-for")).rsplit(",", _MAX_HOPS))


def _address(text: str) -> Address | None:
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_trusted(address: Address | None, trusted: Sequence[Network]) -> bool:
    return address is not None and any(address in network for network in trusted)


def _bucket(address: Address | None) -> str | None:
    if address is None:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    # one customer holds a whole /64, and could take a new address for every request
    return str(ipaddress.ip_network((address, _IPV6_PREFIX), strict=False))
