"""
Which paths are metered, and as what.

A metered path must not be reachable by another spelling of it. Servers hand over a decoded path, and frameworks differ in
what they make of the rest: some merge slashes, some resolve dots, some take a trailing newline for the end of the path,
some look for the path in a whole URL.
So every reading of a path is looked up, and the route that any of them names is the route. Where a server or an app says
that it is mounted somewhere, the path below that is one of the readings.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlparse

from tokenbudget_mw.values import Route

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tokenbudget_mw.values import Facts

__all__ = ["ENDABLE", "FORMATS", "RouteTable", "is_preflight", "normalise", "path_of", "readings"]

FORMATS: tuple[str, ...] = (
    "openai.chat",
    "openai.completions",
    "openai.embeddings",
    "openai.responses",
    "openai.images",
    "openai.audio",
    "anthropic.messages",
    "bedrock.converse",
    "cohere",
    "gemini",
    "gemini.interactions",
    "ollama",
    "auto",
)
"""Wire formats of request and response that a route may name; ``auto`` is detected."""

ENDABLE = frozenset({
    "openai.chat",
    "openai.completions",
    "openai.responses",
    "anthropic.messages",
    "bedrock.converse",
    "cohere",
    "gemini",
    "gemini.interactions",
    "ollama",
    "auto",
})  # fmt: skip
"""Formats whose streams can be ended early, in the format itself; of ``auto`` those that turn out to be one of the others."""

ANY = Route("*")
"""The route of every path where the settings name none, and of unnamed paths under ``default: protect``."""

_SLASHES = re.compile(r"[/\\]+")
_REMEMBERED = 4096
_REMEMBERED_LENGTH = 512
_CREDENTIALS = ("authorization", "x-api-key", "api-key", "cookie")
_OVERRIDABLE = frozenset({"PUT", "PATCH", "DELETE"})


def normalise(path: str) -> str:
    """
    Return the plain spelling of *path*: slashes merged, dots resolved, no slash at the end, lower case.

    >>> normalise("//v1/./x/../Chat/")
    '/v1/chat'
    """
    parts: list[str] = []
    for part in _SLASHES.split(_plain(path)):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


def readings(path: str) -> tuple[str, ...]:
    """
    Return what a framework may take *path* for: with its dots resolved, and with its dots left alone.
    """
    resolved = normalise(path)
    literal = "/" + _SLASHES.sub("/", _plain(path)).strip("/")
    spelt = (resolved,) if literal == resolved else (resolved, literal)
    # what no client may send (RFC 9112, section 3.2), servers hand over, and Sanic cuts off
    return (*spelt, normalise(path.partition("#")[0])) if "#" in path else spelt


def path_of(target: str) -> str:
    """
    Return the path of *target*, where a server hands over a whole URL (RFC 9112, section 3.2.2) in the place of a path.

    >>> path_of("http://test/v1/chat"), path_of("/v1/chat")
    ('/v1/chat', '/v1/chat')
    """
    if target.startswith("/"):
        return target
    try:
        return urlparse(target).path  # as Quart reads it: without parameters, and without line breaks anywhere
    except ValueError:
        return target  # whoever would read it so fails, too


def _plain(path: str) -> str:
    # `$` in a router's pattern matches before a newline at the end, so `/v1/chat%0A` is served as `/v1/chat`
    return path.casefold().rstrip()


class RouteTable:
    """
    The settings' routes, ready to be looked up.

    Args:
        routes: Routes; where several cover a path, an exact one comes before a prefix, and a longer prefix before a
            shorter one. Without any, every path is metered as a request.

        default: What happens to paths that no route names: ``ignore``, or ``protect`` (metered as a request).

        exempt: Exact paths that are never metered. They are compared as they stand, in this spelling only.
    """

    def __init__(
        self,
        routes: Iterable[Route] = (),
        default: Literal["ignore", "protect"] = "ignore",
        exempt: Iterable[str] = (),
    ) -> None:
        self.routes = tuple(routes)
        self.exempt = frozenset(exempt)
        self._otherwise = ANY if default == "protect" or not self.routes else None
        self._exact: dict[str, list[Route]] = {}
        prefixes: list[tuple[str, Route]] = []
        for route in self.routes:
            if route.path.endswith("*"):
                prefixes.append((_prefix(route.path), route))
            else:
                self._exact.setdefault(normalise(route.path), []).append(route)
        self._prefixes = sorted(prefixes, key=lambda pair: -len(pair[0]))
        self._remembered = lru_cache(_REMEMBERED)(self._find)

    def match(self, method: str, path: str, root: str = "") -> Route | None:
        """
        Return the route that meters *path*; None where it is not metered.

        Args:
            method: HTTP method, upper case, or ``"WEBSOCKET"``.

            path: Decoded path, as the server hands it to the app.

            root: The part of it below which the app is mounted, where the server tells.
        """
        if len(path) > _REMEMBERED_LENGTH or len(method) > _REMEMBERED_LENGTH or len(root) > _REMEMBERED_LENGTH:
            return self._find(method, path, root)
        return self._remembered(method, path, root)

    def _find(self, method: str, path: str, root: str) -> Route | None:
        if path in self.exempt:
            return None
        targets = (path,) if path.startswith("/") else (path, path_of(path))
        # routers cut the root off: some at the beginning only, some wherever it first stands, some with no slash behind it
        below = [target.partition(root)[2] for target in targets if root and root in target]
        spellings = [reading for target in (*targets, *below) for reading in readings(target)]
        for spelling in spellings:
            for route in self._exact.get(spelling, ()):
                if _covers(route, method):
                    return route
        for prefix, route in self._prefixes:
            if _covers(route, method) and any(_begins(spelling, prefix) for spelling in spellings):
                return route
        return None if any(target in self.exempt for target in below) else self._otherwise


def _prefix(pattern: str) -> str:
    stem = pattern[:-1]
    plain = normalise(stem)
    return f"{plain.rstrip('/')}/" if stem.endswith("/") else plain


def _begins(spelling: str, prefix: str) -> bool:
    # `/assistant/*` covers `/assistant` too: a mounted app answers there
    return spelling.startswith(prefix) or (prefix.endswith("/") and spelling == prefix[:-1])


def _covers(route: Route, method: str) -> bool:
    methods = route.methods
    if not methods or method in methods:
        return True
    if method in ("HEAD", "WEBSOCKET"):
        return (
            "GET" in methods
        )  # frameworks run the GET handler; and a websocket begins as a GET (RFC 6455, section 4.1)
    # apps that honour a method override read the other method from a POST
    return method == "POST" and not methods.isdisjoint(_OVERRIDABLE)


def is_preflight(facts: Facts) -> bool:
    """
    Tell whether the request is a browser's CORS preflight, which passes unmetered.

    A preflight has neither body nor credentials; what has them is metered, because some frameworks run a view on OPTIONS.
    """
    if facts.method != "OPTIONS":
        return False
    if not facts.header("origin") or not facts.header("access-control-request-method"):
        return False
    if facts.header("transfer-encoding") is not None or facts.header("content-length") not in (None, "", "0"):
        return False
    return not any(facts.header(name) for name in _CREDENTIALS)
