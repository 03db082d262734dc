"""
Readers of settings: from what a user wrote to what it means, or to a sentence about what is wrong with it.

A reader takes a value and returns what it means, or raises `Invalid` with a message that needs no path. `Problems`
adds the path and collects the messages, so that a user sees all of them at once.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import zoneinfo
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from tokenbudget_mw.errors import ConfigurationError
from tokenbudget_mw.settings.secret import Secret
from tokenbudget_mw.units import parse_duration

__all__ = [
    "Invalid",
    "Problems",
    "Reader",
    "address",
    "boolean",
    "choice",
    "counter",
    "did_you_mean",
    "exact_path",
    "folder",
    "function",
    "identify",
    "is_counter",
    "items",
    "kind_of",
    "optional",
    "origin",
    "pairs",
    "seconds",
    "secret",
    "text",
    "timezone",
    "url",
    "whole",
]

T = TypeVar("T")
Reader = Callable[[Any], T]

_MANY = 8


class Invalid(ValueError):  # noqa: N818 - reads as the verdict it is
    """
    A value cannot be what it is meant to be. The message says why; whoever knows the path adds it.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """
    Return how a message about the unknown *word* goes on: the known word that is nearest, or all of them.

    >>> did_you_mean("tokes", ["requests", "tokens"])
    "; did you mean 'tokens'?"
    """
    names = list(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    near = near or difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known: {', '.join(names)}" if 0 < len(names) <= _MANY else ""


def kind_of(value: object) -> str:
    """
    Say what *value* is, and not what it says: it may hold a secret.
    """
    return "nothing (None)" if value is None else f"a {type(value).__name__}"


class Problems:
    """
    What is wrong with the settings, so far.

    Attributes:
        variables: Environment variables that settings come from, by the setting's name: a problem there tells both.
    """

    def __init__(self) -> None:
        self.variables: dict[str, str] = {}
        self._found: list[str] = []

    def add(self, path: str, message: str) -> None:
        """
        Note that *message* is the matter at *path*.
        """
        variable = self.variables.get(re.split(r"[.\[]", path, maxsplit=1)[0])
        self._found.append(f"at `{path}`{f' ({variable})' if variable else ''}: {message}")

    @contextmanager
    def at(self, path: str) -> Iterator[None]:
        """
        Note the `ValueError` of a reader as a problem at *path*, and go on.
        """
        try:
            yield
        except ValueError as exc:
            self.add(path, str(exc))

    def unknown_keys(self, given: Iterable[object], known: Iterable[str], path: str = "") -> None:
        """
        Note every one of the *given* keys that is not *known*.
        """
        names = tuple(known)
        for key in given:
            if key not in names:
                where = f"{path}.{key}" if path else f"{key}"
                self.add(where, f"unknown setting{did_you_mean(str(key), names)}")

    def raise_if_any(self) -> None:
        """
        Raise all that was noted, one problem a line.

        Raises:
            ConfigurationError: Anything was.
        """
        if self._found:
            raise ConfigurationError("\n".join(self._found))


def text(value: Any) -> str:
    """
    Read a text that is not empty.
    """
    if not isinstance(value, str):
        raise Invalid(f"a text is expected, not {kind_of(value)}")
    if not value.strip():
        raise Invalid("the text is empty")
    return str.__str__(value)  # of a member of an enumeration its value: `str` of one may say its name


def folder(value: Any) -> str:
    """
    Read where a folder is, a text or a ``pathlib.Path``.
    """
    return text(os.fspath(value) if isinstance(value, os.PathLike) else value)


def exact_path(value: Any) -> str:
    """
    Read a path that stands for itself alone.
    """
    path = text(value)
    if not path.startswith("/") or "*" in path:
        raise Invalid(f"'{path}' is no exact path; write it like '/healthz'")
    return path


def url(example: str) -> Reader[str]:
    """
    Make a reader of URLs.
    """

    def read(value: Any) -> str:
        found = text(value)
        if "://" not in found:
            raise Invalid(f"a URL is expected, such as '{example}'")
        return found

    return read


def boolean(value: Any) -> bool:
    """
    Read True or False.
    """
    if not isinstance(value, bool):
        raise Invalid(f"True or False is expected, not {kind_of(value)}")
    return value


def choice(*options: str) -> Reader[Any]:
    """
    Make a reader of one of *options*.
    """

    def read(value: Any) -> str:
        found = text(value)
        if found not in options:
            raise Invalid(f"unknown choice '{found}'{did_you_mean(found, options)}")
        return found

    return read


def whole(least: int, most: int) -> Reader[int]:
    """
    Make a reader of whole numbers from *least* to *most*.
    """

    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise Invalid(f"a whole number is expected, not {kind_of(value)}")
        if not least <= value <= most:
            raise Invalid(f"a number from {least} to {most} is expected, not {value}")
        return value

    return read


def seconds(least: float, most: float) -> Reader[float]:
    """
    Make a reader of durations, in seconds or like ``"10 minutes"``, from *least* to *most* seconds.
    """

    def read(value: Any) -> float:
        if isinstance(value, str):
            value = parse_duration(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Invalid(f"a duration is expected, in seconds or like '10 minutes', not {kind_of(value)}")
        if not least <= value <= most:  # NaN, too, fails here
            given = f"{value:g}" if isinstance(value, float) else value
            raise Invalid(f"a duration from {least:g} to {most:g} seconds is expected, not {given}")
        return float(value)

    return read


def optional(reader: Reader[T]) -> Reader[T | None]:
    """
    Make a reader that also takes None.
    """
    return lambda value: None if value is None else reader(value)


def items(reader: Reader[T]) -> Reader[tuple[T, ...]]:
    """
    Make a reader of lists whose items *reader* reads; a text is a list separated by commas.
    """

    def read(value: Any) -> tuple[T, ...]:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        if not isinstance(value, list | tuple | set | frozenset):
            raise Invalid(f"a list is expected, not {kind_of(value)}")
        return tuple(reader(item) for item in value)

    return read


def pairs(reader: Reader[T]) -> Reader[Mapping[str, T]]:
    """
    Make a reader of dicts from texts to what *reader* reads.
    """

    def read(value: Any) -> Mapping[str, T]:
        if not isinstance(value, Mapping):
            raise Invalid(f"a dict is expected, not {kind_of(value)}")
        return {text(key): reader(item) for key, item in value.items()}

    return read


def secret(value: Any) -> Secret:
    """
    Read a secret.
    """
    return value if isinstance(value, Secret) else Secret(text(value))


def address(value: Any) -> str:
    """
    Read an address or a network.
    """
    try:
        return str(ipaddress.ip_network(text(value).strip(), strict=False))
    except ValueError:
        raise Invalid(f"'{value}' is no address and no network; write it like '10.0.0.0/8'") from None


def timezone(value: Any) -> str:
    """
    Read the name of a time zone.
    """
    try:
        return zoneinfo.ZoneInfo(text(value)).key
    except (zoneinfo.ZoneInfoNotFoundError, OSError, ValueError):
        hint = did_you_mean(str(value), zoneinfo.available_timezones())
        raise Invalid(f"unknown time zone '{value}'{hint or '; write it like Europe/Zurich'}") from None


def identify(value: Any) -> Any:
    """
    Read how subjects are found: a built-in way, a callable, or the dotted path to one.
    """
    if callable(value):
        return value
    if not isinstance(value, str):
        raise Invalid(f"'api_key', 'ip', a dotted path or a callable is expected, not {kind_of(value)}")
    value = text(value)
    if value not in ("api_key", "ip") and not _is_dotted(value):
        hint = did_you_mean(value, ("api_key", "ip"))
        raise Invalid(f"unknown way '{value}'{hint} (or a dotted path such as 'myapp.limits.subject_of')")
    return value


def function(value: Any) -> Any:
    """
    Read a callable, or the dotted path to one.
    """
    if not callable(value) and not (isinstance(value, str) and _is_dotted(value)):
        raise Invalid(f"a callable or a dotted path such as 'myapp.limits.refusal' is expected, not {kind_of(value)}")
    return value


def origin(value: Any) -> str:
    """
    Read an origin (RFC 6454), as browsers send it, or ``*``.
    """
    found = text(value).strip().lower()
    scheme, colon, host = found.partition("://")
    if found != "*" and (not (scheme and colon and host) or "/" in host or not found.isascii()):
        raise Invalid(f"'{value}' is no origin; write it like 'https://app.example.com', without a path")
    return found


def counter(value: Any) -> Any:
    """
    Read a token counter: an object with a method `count`, or the dotted path to one.
    """
    if isinstance(value, str):
        if not _is_dotted(value):
            raise Invalid(f"'{value}' is no dotted path; write it like 'myapp.tokens.llama'")
        return value
    if not is_counter(value):
        raise Invalid(f"an object with a method `count`, or the dotted path to one, is expected, not {kind_of(value)}")
    return value


def is_counter(value: object) -> bool:
    """
    Tell whether *value* has a method `count` for texts. Classes have one that wants an object first, lists one for elements.
    """
    return callable(getattr(value, "count", None)) and not isinstance(value, type | list | tuple)


def _is_dotted(path: str) -> bool:
    parts = path.replace(":", ".").split(".")
    return len(parts) >= 2 and all(part.isidentifier() for part in parts)
