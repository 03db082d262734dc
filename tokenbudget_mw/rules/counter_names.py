"""
What counters are called: by the scopes whose values they count for.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from tokenbudget_mw.values import Route, Scope, Subject

__all__ = ["CounterNames", "escape", "holder_of_models"]

_PLAIN = re.compile(r"[\w.:/@+*-]{1,128}", re.ASCII)
_MODEL = "model="
_SHARED = ("model=", "route=", "global")
_DIGEST_LENGTH = 32
_KNOWN_MOST = 4096


class CounterNames:
    """
    Names of counters, each worked out once. Safe to share between threads.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str | None, ...], str] = {}

    def of(self, per: tuple[Scope, ...], subject: Subject, route: Route | None, model: str | None) -> str | None:
        """
        Return the counter of the scopes *per* of a request, for example ``"key=k1,model=gpt-4o"``; None where the request
        has no value of one of them.
        """
        if len(per) == 1:
            scope = per[0]
            value = _value(scope, subject, route, model)
            return None if value is None else self.named(scope, value)
        pairs: list[str] = []
        for scope in per:
            value = _value(scope, subject, route, model)
            if value is None:
                return None
            pairs += (scope, value)
        return self.named(*pairs)

    def named(self, *pairs: str) -> str:
        """
        Return the counter of scopes and their values, one after the other.
        """
        name = self._known.get(pairs)
        if name is None:
            name = ",".join(_part(pairs[at], pairs[at + 1]) for at in range(0, len(pairs), 2))
            if len(self._known) >= _KNOWN_MOST:
                self._known.clear()
            self._known[pairs] = name
        return name


def _value(scope: Scope, subject: Subject, route: Route | None, model: str | None) -> str | None:
    if scope == "model":
        return model
    if scope == "route":
        return None if route is None else route.path
    if scope == "global":
        return ""
    value: str | None = getattr(subject, scope)
    return value


def _part(scope: str, value: str) -> str:
    return scope if scope == "global" else f"{scope}={escape(value)}"


def holder_of_models(name: str) -> str | None:
    """
    Return whose counters of models the one called *name* is among; empty where they are everybody's, and None where it counts
    for no model.

    >>> holder_of_models("key=k1,model=gpt-4o"), holder_of_models("model=gpt-4o"), holder_of_models("key=k1")
    ('key=k1', '', None)
    """
    if _MODEL not in name:  # no value has an equals sign, see `escape`
        return None
    return ",".join([part for part in name.split(",") if not part.startswith(_SHARED)])


def escape(value: str) -> str:
    """
    Return *value* so that it can stand in a counter's name: at most 128 characters, two values never the same.

    >>> escape("gpt-4o"), escape("a,key=b")
    ('gpt-4o', 'a%2Ckey%3Db')
    """
    if _PLAIN.fullmatch(value):
        return value
    quoted = quote(value, safe="/:@+*", errors="surrogatepass").replace("~", "%7E")
    if value and len(quoted) <= 128:
        return quoted
    digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_LENGTH]
    # `~` occurs in no escaped value, so that nobody can choose a value that reads like another's digest
    return f"{quoted[:95]}~{digest}" if value else "~"
