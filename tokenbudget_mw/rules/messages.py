"""
What refusals say, in a host's own words and languages.
"""

from __future__ import annotations

import math
from string import Formatter
from typing import TYPE_CHECKING

from tokenbudget_mw.values import Decision

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ANY_LANGUAGE", "CODES", "FIELDS", "check", "languages_of", "reword"]

CODES = (
    "limit",
    "money",
    "credits",
    "backend",
    "invalid_body",
    "unpriced_model",
    "missing_api_key",
    "invalid_api_key",
    "expired_api_key",
    "suspended_api_key",
    "revoked_api_key",
    "multiple_credentials",
    "unauthenticated",
    "unknown_address",
    "unknown_plan",
    "unreadable_limits",
    "keys_unavailable",
)
"""Reasons to refuse, as `Decision.code` has them: what a message can be given for."""

FIELDS = ("message", "limits", "retry_after", "status", "code")
"""
What a template may name: the usual message, the names of the limits that refuse, the wait in whole seconds (empty where none
helps), status and code.
"""

ANY_LANGUAGE = "*"
"""The language of messages that are given without one."""

MOST_LANGUAGES = 16


def reword(
    messages: Mapping[str, Mapping[str, str]], decision: Decision, accept_language: str
) -> tuple[str, str | None] | None:
    """
    Return the message of a refusal and its language, where *messages* have one for it.

    Args:
        messages: Language -> code -> template.

        decision: The refusal.

        accept_language: The request's ``Accept-Language``.
    """
    for language in (*languages_of(accept_language), ANY_LANGUAGE):
        template = messages.get(language, {}).get(decision.code)
        if template is not None:
            return template.format_map(_fields(decision)), None if language == ANY_LANGUAGE else language
    return None


def _fields(decision: Decision) -> dict[str, object]:
    wait = decision.retry_after
    return {
        "message": decision.message,
        "limits": ", ".join(decision.refused_by),
        "retry_after": "" if wait is None else max(1, math.ceil(wait)),
        "status": decision.status,
        "code": decision.code,
    }


def languages_of(header: str) -> list[str]:
    """
    Return the languages that an ``Accept-Language`` names, best first; behind one with a region stands the bare one.

    >>> languages_of("en;q=0.5, de-CH, fr;q=0")
    ['de-ch', 'de', 'en']
    """
    weighed = []
    for item in header.split(",")[:MOST_LANGUAGES]:
        name, _, weight = item.partition(";")
        quality = _quality(weight.strip())
        if name.strip() and quality > 0:
            weighed.append((quality, name.strip().lower()))
    weighed.sort(key=lambda pair: -pair[0])
    found: dict[str, None] = {}
    for _, name in weighed:
        found[name] = None
        found.setdefault(name.partition("-")[0])
    return list(found)


def _quality(weight: str) -> float:
    if not weight:
        return 1.0
    try:
        return float(weight.removeprefix("q="))
    except ValueError:
        return 0.0


def check(template: str) -> None:
    """
    Raise `ValueError` where *template* is none, so that it cannot fail in a request.

    >>> check("{message} ({wait})")
    Traceback (most recent call last):
    ValueError: it names 'wait'; known: message, limits, retry_after, status, code
    """
    for _, name, _, _ in Formatter().parse(template):
        if name is not None and name not in FIELDS:
            raise ValueError(f"it names '{name}'; known: {', '.join(FIELDS)}")
    for wait in (None, 1.0):
        template.format_map(_fields(Decision(admitted=False, status=429, retry_after=wait)))
