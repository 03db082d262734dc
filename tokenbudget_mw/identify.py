"""
Who asks: from a request's facts to its subject, by API key, by address, or by the host's own word.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Protocol

from tokenbudget_mw.errors import ConfigurationError, CredentialError
from tokenbudget_mw.rules.identity import client_address, find_credential, subject_of_address
from tokenbudget_mw.values import Subject

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from ipaddress import IPv4Network, IPv6Network

    from tokenbudget_mw.database.keys import KeyCache
    from tokenbudget_mw.values import Facts

__all__ = ["AddressIdentifier", "CustomIdentifier", "Identifier", "KeyIdentifier", "check_threads"]


class Identifier(Protocol):
    """
    Finds a request's subject. Every method raises `CredentialError` where there is none: nobody is a subject by default.

    Attributes:
        is_async: Whether `aresolve` alone finds it.
    """

    is_async: bool

    def quick(self, facts: Facts) -> Subject | None:
        """
        Return the subject if that takes no wait, else None.
        """
        ...

    def resolve(self, facts: Facts) -> Subject:
        """
        Return the subject; may wait for a database.
        """
        ...

    async def aresolve(self, facts: Facts) -> Subject:
        """
        Return the subject, without blocking the event loop.
        """
        ...


class KeyIdentifier:
    """
    By the API key in ``Authorization: Bearer``, ``x-api-key`` or ``api-key``.

    Args:
        keys: The key table, behind its cache.

        allow_query: Whether a key in the query string counts.
    """

    is_async = False

    def __init__(self, keys: KeyCache, *, allow_query: bool = False) -> None:
        self._keys = keys
        self._allow_query = allow_query

    def _text(self, facts: Facts) -> str:
        text = find_credential(facts, self._allow_query)
        if text is None:
            message = "No API key was given. Send it as 'Authorization: Bearer tb_live_…' or 'x-api-key: tb_live_…'."
            raise CredentialError(message, code="missing_api_key")
        return text

    def quick(self, facts: Facts) -> Subject | None:
        """
        Return the subject of a key that was seen a moment ago.
        """
        return self._keys.cached(self._text(facts))

    def resolve(self, facts: Facts) -> Subject:
        """
        Return the key's subject, from the database where need be.
        """
        return self._keys.resolve(self._text(facts))

    async def aresolve(self, facts: Facts) -> Subject:
        """
        Return the key's subject; the database is asked in a thread.
        """
        return await asyncio.to_thread(self._keys.resolve, self._text(facts))


class AddressIdentifier:
    """
    By the client's address; ``X-Forwarded-For`` counts only where it comes from a trusted proxy.

    Args:
        trusted: Networks of the proxies in front.
    """

    is_async = False

    def __init__(self, trusted: Sequence[IPv4Network | IPv6Network]) -> None:
        self._trusted = tuple(trusted)

    def quick(self, facts: Facts) -> Subject:
        """
        Return the address's subject.
        """
        address = client_address(facts, self._trusted)
        if address is None:
            message = "The server does not say where this request comes from, so it cannot be limited by address."
            raise CredentialError(message, code="unknown_address")
        return subject_of_address(address)

    resolve = quick

    async def aresolve(self, facts: Facts) -> Subject:
        """
        Return the address's subject.
        """
        return self.quick(facts)


class CustomIdentifier:
    """
    By a callable of the host: facts -> `Subject`, or None for "nobody". It may be a coroutine function under ASGI.

    Args:
        function: The callable.

    Raises:
        ConfigurationError: It cannot be called with the facts alone.
    """

    def __init__(self, function: Callable[[Facts], Subject | Awaitable[Subject | None] | None]) -> None:
        _check_arguments(function)
        self._function = function
        called = function, getattr(function, "__call__", None)  # noqa: B004 - an object with an async __call__ counts, too
        self.is_async = any(map(inspect.iscoroutinefunction, called))

    def quick(self, facts: Facts) -> Subject | None:
        """
        Return the subject, unless the callable must be awaited.
        """
        return None if self.is_async else self.resolve(facts)

    def resolve(self, facts: Facts) -> Subject:
        """
        Return the host's word. Raises `ConfigurationError` where it must be awaited.
        """
        if self.is_async:
            check_threads(self)
        return _checked(self._function(facts))

    async def aresolve(self, facts: Facts) -> Subject:
        """
        Return the host's word, awaited if it must be.
        """
        found = self._function(facts)
        return _checked(await found if inspect.isawaitable(found) else found)


def check_threads(identifier: Identifier) -> None:
    """
    See to it that *identifier* can be asked in a thread.

    Raises:
        ConfigurationError: It is a coroutine function of the host's.
    """
    if identifier.is_async:
        message = (
            "at `identify`: a coroutine function can only be awaited under ASGI (in Django, where no middleware behind this "
            "one is for sync requests alone). Give a plain function."
        )
        raise ConfigurationError(message)


def _check_arguments(function: Callable[..., object]) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:
        return  # some of those that are written in C do not say
    try:
        signature.bind("facts")
    except TypeError as exc:
        name = getattr(function, "__qualname__", type(function).__name__)
        message = f"at `identify`: {name}{signature} cannot be called with a request's facts alone ({exc}); write it like who(facts)."
        raise ConfigurationError(message) from exc


def _checked(found: object) -> Subject:
    if found is None:
        raise CredentialError("This request carries no credentials that are known here.", code="unauthenticated")
    if not isinstance(found, Subject):
        message = f"`identify` must return a Subject or None, and returned {type(found).__name__}."
        raise TypeError(message)
    return found
