"""
Limits that a subject has of its own: from what an operator or a host writes, to what stands in the key table, to limits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, cast

import msgspec

from tokenbudget_mw.rules.layers import counted
from tokenbudget_mw.settings import reading
from tokenbudget_mw.settings.limit_times import read_until
from tokenbudget_mw.settings.limits import SUBJECT_SCOPES, Context, read_limit, read_limits, split_limits
from tokenbudget_mw.settings.reading import Invalid, Problems, did_you_mean, kind_of
from tokenbudget_mw.settings.structures import name_apart
from tokenbudget_mw.values import Limit, Scope

__all__ = ["OwnLimits", "own_limits", "read_overrides"]

_REMEMBERED = 4096

Written = str | Mapping[str, Any]
"""A limit, as in the settings: a text or a dict."""


class OwnLimits:
    """
    Reads and writes the limits of single keys.

    Args:
        context: What limits mean here. Whatever it says of place and holder: they count for the key unless they name
            another scope, and never for everybody.
    """

    def __init__(self, context: Context) -> None:
        # `Policy` sees to shadow mode, so that a change of it finds every limit as it was written
        self._context = replace(context, place="plan", holder="key", mode="enforce")
        # keys of one text have the very same limits: a change of thousands of keys costs one reading
        self._read = lru_cache(_REMEMBERED)(self._limits_of)

    def write(self, limits: Iterable[Written]) -> str:
        """
        Check *limits*, and return the JSON text that `read` reads.

        Raises:
            ConfigurationError: One of them cannot be read, or cannot be a subject's own.
        """
        text = msgspec.json.encode(self._lasting(limits)).decode()
        self._read(text)
        return text

    def add(self, text: str | None, limits: Iterable[Written], now: float) -> str:
        """
        Return *text* with *limits* added, each in the place of what counts the same there; and without what has ended.

        A limit with an end takes the place of one with an end only, so that what it covers holds again afterwards.

        Args:
            text: As of `write`; None for no limits.

            limits: What is added.

            now: Epoch seconds.

        Raises:
            ConfigurationError: One of them cannot be read, or *text* not any more.
        """
        if text is not None:
            self._read(text)
        added = self._lasting(limits)
        roles = [_role_of(limit) for limit in self._read(self.write(added))]
        kept = []
        for each in [] if text is None else msgspec.json.decode(text):
            limit = read_limit(each, self._context)
            if _role_of(limit) not in roles and (limit.until is None or limit.until > now):
                kept.append(each)
        return self.write([*kept, *added])

    def read(self, text: str) -> tuple[Limit, ...]:
        """
        Return the limits in a JSON *text* of `write`; the same objects for the same text.

        Raises:
            ConfigurationError: They cannot be read, or not any more.
        """
        return self._read(text)

    def _lasting(self, limits: Iterable[Written]) -> list[Any]:
        """
        Return *limits* one by one, and so that they mean the same wherever they are read later: an end with its zone.
        """
        problems = Problems()
        lasting: list[Any] = []
        for at, value in enumerate([limits] if isinstance(limits, str | Mapping) else limits):
            with problems.at(f"limits[{at}]"):
                if isinstance(value, str):
                    lasting += split_limits(reading.text(value))
                elif isinstance(value, Mapping):
                    lasting.append(self._with_zone(value))
                else:
                    raise Invalid(f"a limit is a text or a dict, not {kind_of(value)}")
        problems.raise_if_any()
        return lasting

    def _with_zone(self, value: Mapping[str, Any]) -> dict[str, Any]:
        if value.get("until") is None:
            return dict(value)
        until = read_until(value["until"], self._context.timezone)
        return {**value, "until": datetime.fromtimestamp(until, UTC).isoformat()}

    def _limits_of(self, text: str) -> tuple[Limit, ...]:
        problems = Problems()
        try:
            written = msgspec.json.decode(text)
        except msgspec.DecodeError as exc:
            problems.add("limits", f"a JSON list of limits is expected ({exc})")
            written = []
        limits = _read(written, self._context, "limits", problems)
        problems.raise_if_any()
        return limits


def read_overrides(value: Any, context: Context, problems: Problems) -> Mapping[str, tuple[Limit, ...]]:
    """
    Read limits by scope and value, as ``{"tenant:acme": ["$20k/month"]}``.
    """
    if not isinstance(value, Mapping):
        problems.add("overrides", f"a dict such as {{'tenant:acme': ['$20k/month']}} is expected, not {kind_of(value)}")
        return {}
    found: dict[str, tuple[Limit, ...]] = {}
    for name, limits in value.items():
        path = f"overrides.{name}"
        scope, colon, owner = str(name).partition(":")
        if not colon or not owner or scope not in SUBJECT_SCOPES:
            hint = did_you_mean(scope, sorted(SUBJECT_SCOPES)) if colon else ""
            problems.add(path, f"a scope and a value are expected, such as 'tenant:acme', not '{name}'{hint}")
        else:
            here = replace(context, place="plan", holder=cast("Scope", scope))
            found[str(name)] = _read(limits, here, path, problems)
    return found


def _read(written: Any, context: Context, path: str, problems: Problems) -> tuple[Limit, ...]:
    limits = read_limits(written, context, path, problems)
    for at, limit in enumerate(limits):
        with problems.at(f"{path}[{at}]"):
            _check(limit, limits)
    return name_apart(limits, ())


def _role_of(limit: Limit) -> tuple[object, ...]:
    return counted(limit), limit.mode, limit.until is None


def _check(limit: Limit, others: Iterable[Limit]) -> None:
    if SUBJECT_SCOPES.isdisjoint(limit.per):
        raise Invalid(
            f"'{limit.text}' counts for everybody together. A limit of somebody's own counts per "
            f"{', '.join(sorted(SUBJECT_SCOPES))}; write the other into `limits` of the settings"
        )
    if limit.mode == "shadow" and any(other.mode == "enforce" and counted(other) == counted(limit) for other in others):
        raise Invalid(f"'{limit.text}' is given as shadow, and another that counts the same is enforced; keep one")


@lru_cache(maxsize=64)
def _reader(timezone: str, rates: bytes) -> OwnLimits:
    return OwnLimits(Context(timezone=timezone, rates=msgspec.json.decode(rates, type=dict[str, Decimal])))


def own_limits(
    *limits: Written, timezone: str = "UTC", rates: Mapping[str, Decimal | str] | None = None
) -> tuple[Limit, ...]:
    """
    Read limits for ``Subject(limits=…)``: for an ``identify`` function of the host that knows of each user's own.

    What was read once is remembered, so that it may be called for every request.

    >>> own_limits("100 requests/minute", {"limit": "$20/month", "until": "2026-12-24"})[0].amount
    100

    Args:
        limits: Texts or dicts, as in the settings. Without a scope they count for the key.

        timezone: IANA name of the zone of ends that name none.

        rates: Dollars for a unit of other currencies.

    Raises:
        ConfigurationError: One of them cannot be read, or counts for everybody together.
    """
    if not limits:
        return ()
    reader = _reader(reading.timezone(timezone), msgspec.json.encode(rates or {}))
    return reader.read(msgspec.json.encode(limits).decode())
